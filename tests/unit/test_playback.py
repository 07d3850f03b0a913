"""A recording as a file: made by a daemon, cut off, damaged, and read to the same result."""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pinwatch import serve
from pinwatch.commands import top
from pinwatch.errors import CannotRunError, UsageError
from pinwatch.expose import as_json, exposition, stories
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.sample import TaskKey
from pinwatch.model.snapshot import Snapshot
from pinwatch.model.vm import Device, LibvirtDomain, SeriesLimits
from pinwatch.pipeline import Pipeline
from pinwatch.playback import Playback
from pinwatch.recorder import Recorder
from pinwatch.recording import (
    FORMAT,
    ClockSet,
    Counted,
    DevicesFound,
    Header,
    HooksChanged,
    Item,
    Lost,
    Published,
    RawRecord,
    Surveyed,
    TaskEnded,
    TaskGone,
    VmFound,
    header_line,
)
from pinwatch.recording.flight import KEPT_PINS, Flight
from tests.replay import compare
from tests.unit.make import FACTS, TASK, free, looked, pin_record, sample

ROOT = Path(__file__).resolve().parents[2]
HEADER = Header(
    facts=FACTS, wall_offset_ns=1_700_000_000_123_456_789, series=SeriesLimits(max_vms=1)
)
FOUND = VmFound(
    TASK.key, ("qemu-kvm", "-name", "web-01"), "/machine.slice/x",
    LibvirtDomain(name="web-01", uuid="", tgid=TASK.key.tgid, title="Shop"),
)  # fmt: skip
DEVICES = DevicesFound(
    TASK.key, (Device(address="0000:01:00.0", driver="vfio-pci", iommu_group="7"),)
)
OTHER = VmFound(TaskKey(5, 6), ("qemu-kvm", "-name", "db-02"))  # one too many for max_vms
RECORD = RawRecord(bytes(pin_record(b"qemu-kvm", b"-name", b"web-01")))
HOOKS = HooksChanged((HookState(hook="split", symbol="s", mode=Mode.OFF, reason="x"),))
DAY: tuple[Item, ...] = (
    FOUND, DEVICES, OTHER, Counted(sample(losses={"ring_full": 1}), {}), Surveyed(free(), 0.25),
    looked(), HOOKS, Published(), RECORD, Lost("vm_evidence", 2), RECORD, Lost("vm_evidence", 2),
    Counted(sample(time_ns=12_000_000_000), {}), TaskGone(OTHER.task), Published(),
)  # fmt: skip


def shown(snapshot: Snapshot) -> str:
    """All that views make of it, byte for byte."""
    failures = [as_json.failure(failure) for failure in snapshot.failures]
    told = json.dumps(stories.document(snapshot, limit=9))
    return exposition.text(snapshot, FACTS) + json.dumps(failures) + told + repr(snapshot)


def live(path: Path, items: tuple[Item, ...] = DAY) -> list[str]:
    """What a daemon shows at each of its snapshots, while it records."""
    recorder = Recorder(HEADER, str(path), pytest.fail)
    pipeline = Pipeline(HEADER.facts, HEADER.wall_offset_ns, HEADER.series)
    published = []
    for item in items:
        recorder.take(item)
        pipeline.feed(item)
        if isinstance(item, Published):
            published.append(shown(pipeline.snapshot()))
            recorder.published()
    recorder.close()
    return published


def test_a_replay_shows_what_the_daemon_showed(tmp_path: Path) -> None:
    published = live(tmp_path / "r")
    assert [shown(moment) for moment in Playback(str(tmp_path / "r")).moments()] == published
    assert shown(Playback(str(tmp_path / "r")).end()) == published[-1]
    for part in ('pinwatch_losses_total{kind="vm_evidence"} 4.0', "hook='split'", "web-01"):
        assert part in published[-1]
    assert "pinwatch_vms_folded_total 1.0" in published[-1]


@pytest.mark.parametrize("was_there", [False, True])
def test_only_its_owner_may_read_it(tmp_path: Path, was_there: bool) -> None:
    if was_there:
        (tmp_path / "r").touch(0o644)
    live(tmp_path / "r")
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600


def test_what_a_killed_daemon_left_is_used_and_said(tmp_path: Path) -> None:
    path = tmp_path / "r"
    published = live(path)
    recorder = Recorder(HEADER, str(path), pytest.fail)
    for item in DAY[:8]:
        recorder.take(item)
    recorder.published()
    recorder.take(RECORD)  # behind the last snapshot: not flushed
    playback = Playback(str(path))
    assert shown(playback.end()) == published[0]
    assert "the file has no end" in playback.damage
    assert "used what came before, 8 items" in playback.damage
    with pytest.raises(UsageError, match="the file has no end"):
        playback.check()
    recorder.close()


def test_a_damaged_line_ends_it_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r"
    live(path)
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    bads = (b"\xff", b"{}", b"[1]", b'{"record":"AB"}', b'{"looked":{"task":3}}', b"[" * 100_000)
    for bad in bads:
        path.write_bytes(b"".join([*lines[:9], bad, b"\n", *lines[9:]]))
        playback = Playback(str(path))
        playback.end()
        assert "line 10" in playback.damage, bad
        assert "8 items" in playback.damage
    path.write_bytes(b"".join(lines)[:-9])
    playback = Playback(str(path))
    playback.end()
    assert f"line {len(lines)} is damaged or cut off" in playback.damage


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "r"
    live(path)
    data = bytearray(path.read_bytes())
    data[-40] ^= 0x55
    path.write_bytes(data)
    playback = Playback(str(path))
    playback.end()
    with pytest.raises(UsageError, match="used what came before"):
        playback.check()


def test_a_recording_of_the_future_says_so(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text('{"pinwatch_recording": 99, "made_by": "pinwatch 9.0"}\n')
    with pytest.raises(UsageError, match=r"format 99, made by pinwatch 9\.0; this is pinwatch"):
        Playback(str(path))


def test_moments_of_an_old_recording_are_its_samples(tmp_path: Path) -> None:
    path = tmp_path / "r"
    items = tuple(item for item in DAY if not isinstance(item, Published))
    live(path, items)
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_text(text.replace(f'"pinwatch_recording":{FORMAT}', '"pinwatch_recording":2'))
    times = [moment.time_s - HEADER.wall_offset_ns / 1e9
             for moment in Playback(str(path)).moments()]  # fmt: skip
    assert [round(time) for time in times] == [0, 10, 12]


class FullDisk:
    """Takes a file, and no more than that."""

    def __init__(self, _path: str) -> None: ...

    def write(self, _line: str) -> None: ...

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_recording_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for path in ("/nope/r", "/dev/full"):
        with pytest.raises(CannotRunError, match=f"cannot write {path}"):
            Recorder(HEADER, path, said.append)
    monkeypatch.setattr("pinwatch.recorder.Writer", FullDisk)
    recorder = Recorder(HEADER, "/r", said.append)
    recorder.take(RECORD)
    recorder.published()
    recorder.published()
    assert said == ["the recording /r ends here: No space left on device"]
    assert (recorder.new_losses(), recorder.new_losses()) == (1, 0)
    assert not recorder.is_to_file


def replayed(items: list[Item]) -> Snapshot:
    pipeline = Pipeline(HEADER.facts, HEADER.wall_offset_ns, HEADER.series)
    for item in items:
        pipeline.feed(item)
    return pipeline.snapshot()


def test_a_recording_that_begins_late_knows_what_came_before() -> None:
    flight, whole = Flight(), []
    for item in (*DAY, TaskGone(TASK.key), Counted(sample(time_ns=13_000_000_000), {})):
        flight.note(item)
        whole.append(item)
    before, after = replayed(whole), replayed(list(flight.items()))
    assert len(after.failures) == 2
    assert [replace(f, number=0) for f in after.failures] == [
        replace(f, number=0) for f in before.failures
    ]
    assert (after.losses, after.hooks) == (before.losses, before.hooks)
    assert after.free == before.free


def test_a_recording_that_begins_late_has_the_clock_of_each_pin() -> None:
    flight = Flight()
    whole: list[Item] = []
    for item in (pin_at(5), ClockSet(6, 10**18), pin_at(7), pin_at(8), ClockSet(9, 1), pin_at(9)):
        flight.note(item)
        whole.append(item)
    before, after = replayed(whole), replayed(list(flight.items()))
    ids = [failure.id for failure in before.failures]
    assert [failure.id for failure in after.failures] == ids
    assert before.failures[1].time_s == pytest.approx(1e9)
    assert before.failures[3].time_s < 1


def pin_at(time_ns: int) -> RawRecord:
    record = pin_record(b"qemu-kvm", b"-name", b"web-01")
    record.head.time_ns = time_ns
    return RawRecord(bytes(record))


def test_a_recording_that_begins_late_knows_who_has_ended() -> None:
    """Not yet counted to the end, and another has its name already."""
    flight = Flight()
    ended, next_one = TaskKey(5, 6), TaskKey(7, 8)
    for item in (
        VmFound(ended, ("qemu-kvm", "-name", "db-02")), TaskEnded(ended),
        VmFound(next_one, ("qemu-kvm", "-name", "db-02")), Counted(sample(), {}),
    ):  # fmt: skip
        flight.note(item)
    assert {vm.name for vm in replayed(list(flight.items())).vms} == {"db-02"}


def test_what_is_remembered_is_bounded() -> None:
    flight = Flight()
    for number in range(2 * KEPT_PINS):
        task = TaskKey(number, 1)
        flight.note(VmFound(task, ("qemu-kvm",)))
        flight.note(RECORD)
        flight.note(TaskGone(task))
    records = [item for item in flight.items() if isinstance(item, RawRecord)]
    assert len(records) == KEPT_PINS
    assert len(list(flight.items())) < 4 * KEPT_PINS


def test_replay_of_a_damaged_recording_is_2_and_shows_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "r"
    live(path)
    path.write_bytes(path.read_bytes()[:-30])
    done = subprocess.run(
        [sys.executable, "-m", "pinwatch", "replay", str(path), "--json"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert json.loads(done.stdout)[0]["vm"]["name"] == "web-01"
    assert len(done.stderr.splitlines()) == 1
    assert "used what came before" in done.stderr


def test_a_scrape_is_found_in_its_recording(tmp_path: Path) -> None:
    path = tmp_path / "r"
    live(path)
    recorder = list(Playback(str(path)).moments())
    app = serve.App(latest=lambda: recorder[0], facts=FACTS, ready=lambda: True)
    scraped = b"".join(app({"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"}, lambda *_: None))
    assert compare.differences(str(path), scraped.decode()) == []
    wrong = scraped.decode().replace('kind="ring_full"} 1.0', 'kind="ring_full"} 2.0')
    assert any("ring_full" in line for line in compare.differences(str(path), wrong))
    later = scraped.decode().replace("1.7000000101234567e+09", "1.7000000999e+09")
    assert compare.differences(str(path), later) == ["the recording has no snapshot of that time"]


def test_a_recording_without_a_moment_has_none_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a daemon that ended before it had read the counters."""
    (tmp_path / "r").write_text(header_line(HEADER))
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(top, "sys", SimpleNamespace(stdin=terminal, stdout=terminal))
    arguments = argparse.Namespace(once=False, replay=str(tmp_path / "r"))
    with pytest.raises(UsageError, match="holds no moment"):
        top.run(arguments)
