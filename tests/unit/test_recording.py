"""A recording says what was said."""

from __future__ import annotations

import pytest

from pinwatch import recording
from pinwatch.model.pin import PinSource
from pinwatch.model.sample import Durations, KernelSample, TaskKey, TaskTotals
from pinwatch.pipeline import Pipeline
from pinwatch.recording import Counted, RawRecord, RecordingError, VmFound
from tests.unit.make import FACTS, pin_record

ITEMS: tuple[recording.Item, ...] = (
    VmFound(TaskKey(1, 2), ("qemu-kvm", "-name", "x")),
    RawRecord(bytes(pin_record(b"qemu-kvm", b"-name", b"guest=web-01"))),
    Counted(
        KernelSample(
            totals=(
                TaskTotals(
                    task=TaskKey(1, 2), source=PinSource.OTHER, pins=1, failures=0, pages=3,
                    migrated=0, migrate_failed=0,
                ),
            ),
            durations=(Durations(source=PinSource.OTHER, failed=True, sum_ns=4, slots=(1, 2)),),
            witnesses={"pgmigrate_fail": 1},
            losses={"ring_full": 0},
        ),
        {"pgmigrate_fail": 1},
    ),
)  # fmt: skip


def test_it_reads_back_what_was_written() -> None:
    lines = [recording.header_line(FACTS, 99), *map(recording.item_line, ITEMS)]
    facts, wall_ns, items = recording.read(lines)
    assert (facts, wall_ns) == (FACTS, 99)
    assert tuple(items) == ITEMS
    assert len(lines[2]) < 3000, "the unused end of the command line is left out"


def test_it_replays_to_the_same_failure() -> None:
    pipeline = Pipeline(FACTS, 0)
    for item in ITEMS:
        pipeline.feed(item)
    snapshot = pipeline.snapshot()
    assert [f.vm.name for f in snapshot.failures] == ["web-01"]
    assert snapshot.reconciliation == {"pgmigrate_fail": 0}


def test_a_record_that_nobody_understands_is_a_loss() -> None:
    pipeline = Pipeline(FACTS, 0)
    pipeline.feed(RawRecord(b"\x63" + bytes(300)))
    assert pipeline.snapshot().losses == {"undecodable": 1}


def test_a_failure_without_a_command_line_is_unattributed() -> None:
    pipeline = Pipeline(FACTS, 0)
    pipeline.feed(RawRecord(bytes(pin_record())))
    assert pipeline.snapshot().failures[0].vm.name == "~unattributed"


@pytest.mark.parametrize(
    "lines", [[], ["{}"], ["not json"], ['{"pinwatch_recording": 99}'], ["[]"]]
)
def test_other_files_are_refused(lines: list[str]) -> None:
    with pytest.raises(RecordingError):
        recording.read(lines)
