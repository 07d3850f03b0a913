"""The daemon's own order of things, which a lab run meets only sometimes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pinwatch import daemon as module
from pinwatch import settings
from pinwatch.abi import layout
from pinwatch.daemon import Daemon, Roots
from pinwatch.host import clock
from pinwatch.model.pin import PinSource
from pinwatch.model.sample import TaskTotals
from pinwatch.playback import Playback
from pinwatch.recorder import Recorder
from pinwatch.recording import Header, Lost, VmFound
from tests.unit.make import FACTS, TASK, cmdline, head, sample

ANNOUNCED = bytes(
    layout.TaskRecord(
        head=head(layout.Record.TASK), cmdline=cmdline(b"/usr/bin/qemu", b"-name", b"db-7")
    )
)
HINT = bytes(
    layout.HintRecord(
        head=head(layout.Record.HINT), call=layout.Call.MADVISE, value=14, length=1 << 30
    )
)
COUNTED = TaskTotals(
    task=TASK.key, source=PinSource.VFIO_TYPE1, pins=1, failures=0, pages=3, migrated=0,
    migrate_failed=0,
)  # fmt: skip


class Kernel:
    """Probes of a kernel in which a VM pins for the first time while the counters are read."""

    def __init__(self, **_roots: Path) -> None:
        self.facts = FACTS
        self.states = ()
        self.ring = SimpleNamespace(take=self._take)
        self._records: list[bytes] = []

    def _take(self) -> list[bytes]:
        records, self._records = self._records, []
        return records

    def sample(self) -> Any:
        self._records.append(ANNOUNCED)
        return sample(totals=(COUNTED,))

    def retry_modules(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(module, "Probes", Kernel)
    (tmp_path / "vmstat").write_text("pgmigrate_success 0\n")
    roots = Roots(root=tmp_path, proc=tmp_path, sys=tmp_path, bpf=tmp_path)
    flags = {
        "listen": "127.0.0.1:0",
        "socket": str(tmp_path / "socket"),
        "state_dir": str(tmp_path / "state"),
    }
    made = Daemon(settings.make(flags, {}), roots)
    made._vmstat_at_attach = {}
    yield made
    made._close()


def test_a_process_is_named_before_it_is_counted(daemon: Daemon) -> None:
    daemon._sample()
    pins = daemon._snapshot.counters["pinwatch_longterm_pins_total"]
    assert {labels: n for labels, n in pins.items() if n} == {("db-7", "vfio_type1"): 1}


def test_who_starts_while_counters_are_read_is_known_when_it_gives_a_hint(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    news: list[VmFound] = []

    def read() -> Any:
        news.append(VmFound(TASK.key.in_ticks, ("qemu-kvm", "-name", "web-01")))
        daemon._probes._records.append(HINT)  # type: ignore[attr-defined]
        return sample()

    monkeypatch.setattr(daemon._probes, "sample", read)
    monkeypatch.setattr(daemon._lives, "hear", lambda: [news.pop() for _ in tuple(news)])
    daemon._sample()
    assert daemon._snapshot.counters["pinwatch_vm_hints_total"] == {
        ("web-01", "madvise_hugepage", "before_populate", ""): 1
    }


def test_what_happens_after_the_clock_was_set_has_its_time(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon._sample()
    before = daemon._snapshot.time_s
    offset = daemon._wall_offset_ns
    for moved_ns, told in ((50_000_000, ""), (3_600_000_000_000, "was set, by +3,600.0 s")):
        monkeypatch.setattr(clock, "wall_offset_ns", lambda moved_ns=moved_ns: offset + moved_ns)
        daemon._sample()
        said = capsys.readouterr().err
        assert told in said if told else not said
    assert daemon._snapshot.time_s == pytest.approx(before + 3600)


def test_an_interruption_while_the_clocks_are_read_is_not_a_clock_that_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monotonic = iter([500, 9_510, 9_600, 9_610, 9_700, 9_720])
    wall = iter([1_510, 10_610, 10_715])
    monkeypatch.setattr(clock, "_READINGS", 3)
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(monotonic))
    monkeypatch.setattr(time, "time_ns", lambda: next(wall))
    assert clock.wall_offset_ns() == 1_000


@pytest.mark.parametrize(
    ("before", "after", "difference"), [(5, 9, 0), (7, 7, 0), (8, 9, -1), (1, 2, 5)]
)
def test_what_migrates_while_counters_are_read_is_no_difference(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch,
    before: int, after: int, difference: int,
) -> None:  # fmt: skip
    read = iter([before, after])
    monkeypatch.setattr(
        "pinwatch.host.procfs.vmstat", lambda _: {"pgmigrate_success": 100 + next(read)}
    )
    daemon._vmstat_at_attach = {"pgmigrate_success": 100}
    monkeypatch.setattr(
        daemon._probes, "sample", lambda: sample(witnesses={"pgmigrate_success": 7})
    )
    daemon._sample()
    assert daemon._snapshot.reconciliation == {"pgmigrate_success": difference}


def test_a_recording_of_the_daemon_replays_to_its_snapshots(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "r"
    header = Header(facts=FACTS, wall_offset_ns=daemon._pipeline._wall_offset_ns)
    daemon._recorder = Recorder(header, str(path), pytest.fail)
    shown = []
    for _ in range(3):
        daemon._feed(Lost("vm_evidence"))
        daemon._sample()
        shown.append(repr(daemon._snapshot))
    daemon._recorder._do(lambda file: file.flush())
    assert [repr(moment) for moment in Playback(str(path)).moments()] == shown
    assert len(set(shown)) == 3
    assert "process_events" in shown[-1], "hooks"


def test_what_no_recording_has_is_a_loss(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon._recorder, "new_losses", lambda: 7)
    daemon._sample()
    assert daemon._snapshot.losses["recording"] == 7
