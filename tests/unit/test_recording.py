"""A recording says what was said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pinwatch import recording
from pinwatch.abi import layout
from pinwatch.expose import state, words
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.pin import PinSource, Wait
from pinwatch.model.sample import Durations, Migrations, TaskKey, TaskTotals
from pinwatch.model.vm import Basis, Device, LibvirtDomain, SeriesLimits
from pinwatch.pipeline import Pipeline
from pinwatch.recording import (
    FORMAT,
    ClockSet,
    Counted,
    DevicesFound,
    Header,
    HooksChanged,
    IoInFlight,
    Item,
    Lost,
    Named,
    Published,
    RawRecord,
    RecordingError,
    Rescanned,
    Surveyed,
    TaskEnded,
    TaskGone,
    VmFound,
    VmmsConfigured,
)
from tests.unit.make import FACTS, TASK, VM, free, looked, open_pin, pin_record, sample

HEADER = Header(facts=FACTS, wall_offset_ns=0)
ITEMS: tuple[recording.Item, ...] = (
    VmFound(TaskKey(1, 2), ("qemu-kvm", "-name", "x")),
    VmFound(
        TaskKey(3, 4),
        (),
        "/machine.slice/x.scope",
        LibvirtDomain(name="x", uuid="y", tgid=3, title="z", project="p", is_nova=True),
    ),
    DevicesFound(
        TaskKey(3, 4), (Device(address="0000:01:00.0", driver="vfio-pci", iommu_group="7"),)
    ),
    Rescanned(),
    TaskEnded(TaskKey(5, 6)),
    TaskGone(TaskKey(5, 6)),
    VmmsConfigured(("my-vmm",), r"--vm-name (\S+)"),
    RawRecord(bytes(pin_record(b"qemu-kvm", b"-name", b"guest=web-01"))),
    Named({0xFFFF: "vb2_create_framevec [videobuf2_memops]"}),
    IoInFlight(("sda",)),
    Surveyed(free(), 0.25),
    looked(TaskKey(1, 2)),
    Lost("vm_evidence", 2),
    Lost("vm_evidence", 2),
    HooksChanged((HookState(hook="split", symbol="s", mode=Mode.FENTRY),)),
    Published(),
    Counted(
        sample(
            totals=(
                TaskTotals(
                    task=TaskKey(1, 2), source=PinSource.OTHER, pins=1, failures=0, pages=3,
                    migrated=0, migrate_failed=0,
                ),
            ),
            durations=(Durations(source=PinSource.OTHER, failed=True, sum_ns=4, slots=(1, 2)),),
            witnesses={"pgmigrate_fail": 1},
            losses={"ring_full": 0},
            migrations=(Migrations(reason="compaction", succeeded=1, failed=2),),
            split_errors={"EAGAIN": 3},
            cma_failures={"reserved": 4},
            open_pins=(open_pin(), open_pin(wait=Wait.WRITEBACK)),
        ),
        {"pgmigrate_fail": 1},
    ),
    ClockSet(12_000_000_000, 1_700_000_000_000_000_000),
)  # fmt: skip


def test_it_reads_back_what_was_written() -> None:
    series = SeriesLimits(max_vms=7, retention_ns=8)
    given = Header(facts=FACTS, wall_offset_ns=99, series=series)
    lines = [recording.header_line(given), *map(recording.item_line, ITEMS)]
    header, items = recording.read(lines)
    assert header == given
    assert tuple(items) == ITEMS
    assert len(lines[1]) < 100, "what was not found is left out"
    assert len(lines[7]) < 4000, "the unused end of the command line is left out"


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


def test_pins_that_end_in_one_nanosecond_are_three_events() -> None:
    pipeline = Pipeline(FACTS, 0)
    for _ in range(3):
        pipeline.feed(RawRecord(bytes(pin_record())))
    assert len({failure.id for failure in pipeline.snapshot().failures}) == 3


def test_a_failure_without_a_command_line_is_unattributed() -> None:
    pipeline = Pipeline(FACTS, 0)
    pipeline.feed(RawRecord(bytes(pin_record())))
    assert pipeline.snapshot().failures[0].vm.name == "~unattributed"


@pytest.mark.parametrize(
    "lines",
    [
        [], ["{}"], ["not json"], ['{"pinwatch_recording": 99}'], ["[]"], ["[" * 100_000],
        [recording.header_line(HEADER).replace('"wall_ns":0', '"wall_ns":"noon"')],
        [recording.header_line(HEADER).replace('"zones":{"', '"zones":{"x')],
    ],
)  # fmt: skip
def test_other_files_are_refused(lines: list[str]) -> None:
    with pytest.raises(RecordingError):
        recording.read(lines)


EVIL = "\x1b]0;owned\x07\x9b31m\u202e\n"


def test_no_text_of_a_recording_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """`pinwatch replay` of what a stranger has sent; his VM's name is told as such."""
    record = pin_record(b"qemu-kvm", b"-name", b"guest=web" + EVIL.encode())
    record.stack[0] = 0xFFFF
    given: tuple[recording.Item, ...] = (
        Named({0xFFFF: EVIL}),
        IoInFlight((EVIL,)),
        HooksChanged((HookState(hook=EVIL, symbol=EVIL, mode=Mode.OFF, reason=EVIL),)),
        VmFound(TASK.key, ("qemu-kvm", "-name", EVIL)),
        DevicesFound(TASK.key, (Device(address=EVIL, driver=EVIL, iommu_group=EVIL),)),
        Lost(EVIL),
        RawRecord(bytes(record)),
    )
    facts = replace(FACTS, zones=dict.fromkeys(FACTS.zones, EVIL))
    header, items = recording.read(
        [recording.header_line(replace(HEADER, facts=facts)), *map(recording.item_line, given)]
    )
    pipeline = Pipeline(header.facts, 0)
    for item in items:
        pipeline.feed(item)
    snapshot = pipeline.snapshot()
    told = words.explain(snapshot.failures[0]).text
    assert "owned" in told
    assert all(map(str.isprintable, [*told.splitlines(), *strings(state.document(snapshot))]))


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings([*value, *value.values()])
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


def test_who_made_another_format_is_told_in_plain_text() -> None:
    line = recording.header_line(HEADER).replace(
        f'"pinwatch_recording":{FORMAT}', '"pinwatch_recording":99'
    )
    with pytest.raises(RecordingError) as error:
        recording.read([line.replace('"made_by":"', '"made_by":"\\u001b[31m')])
    assert str(error.value).isprintable()


def test_who_called_is_named_for_pins_of_nobody_known() -> None:
    record = pin_record(b"x")
    record.frame.source = layout.Source.OTHER
    record.stack[0], record.stack[1] = 0x10, 0x20
    pipeline = Pipeline(FACTS, 0)
    pipeline.feed(RawRecord(bytes(record)))
    assert pipeline.snapshot().failures[0].caller == ("0x10", "0x20")
    pipeline.feed(Named({0x10: "vb2_create_framevec"}))
    assert pipeline.snapshot().failures[0].caller == ("vb2_create_framevec", "0x20")
    pipeline.feed(RawRecord(bytes(record)))
    assert pipeline.snapshot().failures[1].caller == ("vb2_create_framevec", "0x20")


def test_a_slow_pin_is_kept_and_counted() -> None:
    record = pin_record(b"qemu-kvm", b"-name", b"guest=web-01")
    record.head.kind, record.rc = layout.Record.PIN_SLOW, 0
    pipeline = Pipeline(FACTS, 0)
    pipeline.feed(RawRecord(bytes(record)))
    snapshot = pipeline.snapshot()
    assert (len(snapshot.failures), len(snapshot.slow_pins)) == (0, 1)
    assert snapshot.counters["pinwatch_longterm_slow_pins_total"] == {
        ("web-01", "vfio_type1", "work"): 1
    }


def test_a_stuck_pin_is_shown_while_it_is() -> None:
    pipeline = Pipeline(FACTS, 0)
    task = open_pin().task
    pipeline.feed(VmFound(task, ("qemu-kvm", "-name", "guest=web-01")))
    young, livelock = open_pin(start_ns=9_500_000_000), open_pin(loops=9999)
    pipeline.feed(Counted(sample(open_pins=(young, livelock)), {}))
    (stuck,) = pipeline.snapshot().stuck
    assert (stuck.vm.name, stuck.age_s, stuck.livelock) == (VM.name, 5.0, True)
    pipeline.feed(Counted(sample(), {}))
    assert pipeline.snapshot().stuck == ()


@pytest.mark.parametrize("pattern", ["(", "x"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    row = recording.item_line(VmmsConfigured((), pattern))
    _, items = recording.read([recording.header_line(HEADER), row])
    with pytest.raises(RecordingError, match="no pattern with a group"):
        tuple(items)


def named(*items: Item) -> tuple[str, str]:
    """Name and basis of the VM of the failure that follows these items, live and replayed."""
    lines = [recording.header_line(HEADER), *map(recording.item_line, items)]
    live, replayed = Pipeline(FACTS, 0), Pipeline(FACTS, 0)
    for item in items:
        live.feed(item)
    for item in recording.read(lines)[1]:
        replayed.feed(item)
    assert live.snapshot().failures == replayed.snapshot().failures
    vm = live.snapshot().failures[-1].vm
    return vm.name, vm.basis


SCOPE = "/machine.slice/machine-ch\\x2d1\\x2dweb01.scope"
OURS = TaskKey(4242, 7_000_000_000)


def test_what_was_found_beside_a_record_names_it() -> None:
    record = RawRecord(bytes(pin_record(b"cloud-hypervisor", b"--api-socket", b"fd=23")))
    domain = LibvirtDomain(name="web_01", uuid="", tgid=4242)
    command = ("cloud-hypervisor", "--api-socket", "fd=23")
    assert named(VmFound(OURS, command, SCOPE, domain), record) == ("web_01", Basis.LIBVIRT_XML)
    assert named(VmFound(OURS, command, SCOPE), record) == ("web01", Basis.CGROUP)
    assert named(record) == ("cloud-hypervisor", Basis.PROGRAM)


def test_a_record_without_a_command_line_keeps_the_name_that_was_found() -> None:
    found = VmFound(OURS, ("qemu-kvm", "-name", "web"))
    assert named(found, RawRecord(bytes(pin_record()))) == ("web", Basis.CMDLINE)


def test_a_record_of_a_process_that_is_known_from_proc_needs_no_command_line() -> None:
    in_ticks = TaskKey(OURS.tgid, OURS.start_ns)
    assert in_ticks == OURS.in_ticks
    late = pin_record()
    late.head.task_start_ns += 4_242_424  # as the kernel knows it
    pipeline = Pipeline(FACTS, 0)
    pipeline.feed(VmFound(in_ticks, ("qemu-kvm", "-name", "web")))
    pipeline.feed(RawRecord(bytes(late)))
    (failure,) = pipeline.snapshot().failures
    assert failure.vm.name == "web"
    assert "~unattributed" not in pipeline.snapshot().vm_counters


def test_what_was_found_of_a_process_goes_with_it() -> None:
    pipeline = Pipeline(FACTS, 0)
    pipeline.feed(VmFound(OURS, ("cloud-hypervisor",), SCOPE))
    pipeline.feed(TaskGone(OURS))
    pipeline.feed(RawRecord(bytes(pin_record(b"cloud-hypervisor"))))
    assert pipeline.snapshot().failures[0].vm.basis is Basis.PROGRAM


def test_programs_of_the_operator_are_part_of_a_recording() -> None:
    record = RawRecord(bytes(pin_record(b"my-vmm", b"--vm-name", b"web")))
    configured = VmmsConfigured(("my-vmm",), r"--vm-name (\S+)")
    assert named(configured, record) == ("web", Basis.NAME_PATTERN)
    assert named(record) == ("~host", Basis.NONE)
