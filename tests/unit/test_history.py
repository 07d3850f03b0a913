"""The history: what is committed stays, what the disk refuses is counted, and it never grows beyond
its bounds."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pinwatch import history
from pinwatch.aggregate.ledger import Ledger
from pinwatch.errors import CannotRunError
from pinwatch.history import FILE, Book, History, Limits, Reader, Wanted, row
from pinwatch.model.failure import Failure, SlowPin, event_id
from pinwatch.model.vm import Vm
from tests.unit.make import VM, failure, sample, slow_pin

KILLS = 200
EVENTS = 100_000
NOW_S = 1_790_000_000.0


def rows(count: int, first: int = 0) -> Iterator[tuple[object, ...]]:
    """Of events that are a second apart, all but their time the same."""
    one = row(failure())
    for number in range(first, first + count):
        time_s = NOW_S + number
        yield (event_id(int(time_s * 1e9)), time_s, *one[2:])


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def writing(directory: Path) -> Iterator[tuple[History, list[str]]]:
    said: list[str] = []
    made = History(str(directory), Limits(age_s=1e12), said.append)
    made.start()
    try:
        yield made, said
    finally:
        made.close()


# ---- what is written is read ----------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    nova = Vm(name="instance-1", alias="web 1", uuid="0b1c2d3e")
    pins: tuple[Failure | SlowPin, ...] = (
        failure(),
        failure(id="dhqfj4w1k2ac", vm=nova, time_s=NOW_S + 60),
        slow_pin(time_s=NOW_S + 120),
    )
    with writing(tmp_path) as (book, said):
        for pin in pins:
            book.add(pin)
        until(lambda: book.state.events == 3)
        assert book.state.writable
        assert book.lost == 0
        assert said == [f"history: {tmp_path / FILE}"]
        reader = Reader(str(tmp_path))
        assert [one["id"] for one in reader.events(Wanted())] == [pin.id for pin in pins]
        for wanted, found in (
            (Wanted(vm="web 1"), [pins[1]]),
            (Wanted(vm="0b1c2d3e"), [pins[1]]),
            (Wanted(vm=VM.name), [pins[0], pins[2]]),
            (Wanted(kind="slow"), [pins[2]]),
            (Wanted(reason="extra_ref_plain", since_s=NOW_S + 1), [pins[1]]),
            (Wanted(until_s=NOW_S), [pins[0]]),
            (Wanted(source="iommufd"), []),
            (Wanted(limit=1), [pins[2]]),
            (Wanted(vm="' OR 1 --"), []),
        ):
            assert [one["id"] for one in reader.events(wanted)] == [pin.id for pin in found], wanted
    whole = Reader(str(tmp_path)).event("dhqfj4w1k2ac")
    assert whole is not None
    assert whole["vm"]["alias"] == "web 1"
    assert whole["explanation"]["headline"]
    assert "cmdline" not in whole["pin"]
    assert Reader(str(tmp_path)).event("dhqfj4w1k2") is None, "three begin so"


def test_moments_of_a_time_are_read_in_order(tmp_path: Path) -> None:
    ledger = Ledger()
    for minute in (1, 2, 3):
        ledger.add_sample(sample(time_ns=minute * 60 * 1_000_000_000))
        with writing(tmp_path) as (book, _):
            book.add(ledger.snapshot())
    reader = Reader(str(tmp_path))
    for since, until, found in ((0, 59, []), (60, 120, [60, 120]), (61, 9999, [120, 180])):
        assert [one["time_s"] for one in reader.moments(since, until)] == found


def test_names_from_hostile_vms_come_back_as_they_are(tmp_path: Path) -> None:
    name = "a'); DROP TABLE events; -- \x1b[31m\n\U0001f600" + "x" * 10_000
    with writing(tmp_path) as (book, _):
        book.add(failure(vm=replace(VM, name=name)))
    (found,) = Reader(str(tmp_path)).events(Wanted(vm=name))
    assert found["vm"] == found["body"]["vm"]["name"] == name


# ---- bounds ---------------------------------------------------------------------------------


def test_a_hundred_thousand_events_stay_within_bounds_beside_a_reader(tmp_path: Path) -> None:
    """Written as fast as can be, in the size of 4 MiB, while somebody reads all the time."""
    limit = 4 << 20
    book = Book(tmp_path / FILE, lambda text: None)
    stop, read = threading.Event(), [0]

    def keep_reading() -> None:
        while not stop.is_set():
            reader = Reader(str(tmp_path))
            found = list(reader.events(Wanted(limit=500)))
            assert [one["time_s"] for one in found] == sorted(one["time_s"] for one in found)
            read[0] += 1

    thread = threading.Thread(target=keep_reading)
    thread.start()
    longest = 0.0
    try:
        for first in range(0, EVENTS, history.BATCH):
            book.add(rows(history.BATCH, first), ())
            if first % 2000 == 0:
                began = time.monotonic()
                book.prune(Limits(size_bytes=limit), NOW_S + EVENTS)
                longest = max(longest, time.monotonic() - began)
                assert book.size_bytes <= limit
    finally:
        stop.set()
        thread.join()
    book.prune(Limits(size_bytes=limit), NOW_S + EVENTS)
    newest = list(Reader(str(tmp_path)).events(Wanted(limit=10)))
    book.close()
    assert read[0] > 5
    assert longest < 5
    assert newest[-1]["time_s"] == NOW_S + EVENTS - 1
    assert (tmp_path / FILE).stat().st_size <= limit * 1.5


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    book = Book(tmp_path / FILE, lambda text: None)
    book.add(rows(1000), [(NOW_S, {}), (NOW_S + 999, {})])
    book.prune(Limits(age_s=100), NOW_S + 1000)
    assert book.events == 100 == len(list(Reader(str(tmp_path)).events(Wanted(limit=9999))))
    assert len(Reader(str(tmp_path)).moments(0, NOW_S + 1000)) == 1
    book.close()


def test_what_a_wrong_clock_dated_ahead_counts_too(tmp_path: Path) -> None:
    book = Book(tmp_path / FILE, lambda text: None)
    book.add(rows(5000), ())
    book.prune(Limits(size_bytes=1 << 20), NOW_S - 3600)
    assert book.size_bytes <= 1 << 20
    book.close()


def test_the_second_of_the_same_id_is_the_same(tmp_path: Path) -> None:
    book = Book(tmp_path / FILE, lambda text: None)
    for _ in range(2):
        book.add(rows(5), ())
        assert book.events == 5
    book.close()


# ---- what goes wrong ------------------------------------------------------------------------


def test_killed_two_hundred_times_nothing_committed_is_lost(tmp_path: Path) -> None:
    path, committed, chance = tmp_path / FILE, 0, random.Random(1)
    for _ in range(KILLS):
        pid, said = fork_writer(path)
        time.sleep(chance.uniform(0.0, 0.05))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with os.fdopen(said) as lines:
            told = [int(line) for line in lines.read().split("\n")[:-1]]
        found = events_in(path)
        assert found >= (told[-1] if told else committed)
        assert found % 3 == 0, "half of a transaction"
        committed = found
    assert committed > KILLS


def fork_writer(path: Path) -> tuple[int, int]:
    """A process that commits three events at a time and says how many there are then: its pid, and
    the pipe. Forked: to start a Python for each would take minutes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            book = Book(path, lambda text: None)
            number = book.events
            while True:
                book.add(rows(3, number), ())
                number += 3
                os.write(writer, b"%d\n" % number)
        finally:
            os._exit(1)
    os.close(writer)
    return pid, reader


def events_in(path: Path) -> int:
    """After a kill; the file must be sound."""
    if not path.exists():
        return 0
    db = sqlite3.connect(path)
    try:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return 0
        return int(db.execute("SELECT count(*) FROM events").fetchone()[0])
    finally:
        db.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", where], check=True)
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def fill(file: Path) -> None:
    """Until there is no room for a page."""
    fd = os.open(file, os.O_CREAT | os.O_WRONLY)
    with suppress(OSError):
        while os.write(fd, bytes(4096)) == 4096:
            pass
    os.close(fd)


def test_a_full_disk_is_counted_and_got_over(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "AGAIN_S", 0.2)
    ballast = small_disk / "ballast"
    with writing(small_disk) as (book, said):
        book.add(failure())
        until(lambda: book.state.events == 1)
        fill(ballast)
        added = 1
        while book.state.writable:
            book.add(failure(id=f"full{added:08}"))
            added += 1
            time.sleep(0.01)
        until(lambda: book.lost > 0)
        assert any("no history is written" in text for text in said)
        ballast.unlink()
        until(lambda: book.state.writable)
        lost = book.lost
        book.add(failure(id="after"))
        until(lambda: Reader(str(small_disk)).event("after") is not None)
        assert book.lost == lost
        assert [text for text in said if text.startswith("history:")] == [
            f"history: {small_disk / FILE}"
        ] * 2


def test_a_directory_that_cannot_be_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with writing(tmp_path / "file" / "below") as (book, said):
        for _ in range(3):
            book.add(failure())
            time.sleep(0.05)
        until(lambda: book.lost == 3)
        assert not book.state.writable
        assert len(said) == 1
        assert "Not a directory" in said[0]


def test_a_disk_that_refuses_while_nothing_happens_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "AGAIN_S", 0.0)
    (tmp_path / "file").write_text("")
    with writing(tmp_path / "file" / "below") as (_, said):
        time.sleep(2.5)
    assert len(said) == 1


def test_what_cannot_be_written_ends_no_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "AGAIN_S", 0.0)
    with writing(tmp_path) as (book, said):
        book.add(failure(id="broken", vm=replace(VM, alias="\udcff")))
        until(lambda: book.lost == 1)
        book.add(failure())
        until(lambda: book.state.events == 1)
        assert book.state.writable
        assert any("no history is written" in text for text in said)


def test_what_was_written_is_not_lost_when_pruning_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Book, "prune", refuse)
    with writing(tmp_path) as (book, said):
        book.add(failure())
        until(lambda: bool(said))
        until(lambda: Reader(str(tmp_path)).event(failure().id) is not None)
        assert book.lost == 0


def test_a_disk_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "WAITING", 1)
    hung = threading.Event()
    monkeypatch.setattr(History, "_write", lambda *_: hung.wait())
    book = History(str(tmp_path), Limits(), lambda text: None)
    book.add(failure())
    book.start()
    until(book._waiting.empty)
    book.add(failure())
    began = time.monotonic()
    book.close()
    hung.set()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("damage", [b"no database at all" * 300, "pages"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes | str) -> None:
    path = tmp_path / FILE
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        book = Book(path, lambda text: None)
        book.add(rows(2000), ())
        book.close()
        with path.open("r+b") as file:
            for offset in range(8192, path.stat().st_size, 4096):
                file.seek(offset)
                file.write(os.urandom(512))
    before = path.read_bytes()
    with writing(tmp_path) as (book_, said):
        book_.add(failure())
        until(lambda: book_.state.events == 1)
    (aside,) = tmp_path.glob(f"{FILE}.damaged-*")
    assert aside.read_bytes()[4096:] == before[4096:]  # its head was looked at
    assert "damaged" in said[0]
    assert str(aside) in said[0]


def test_what_waits_too_long_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "WAITING", 10)
    book = History(str(tmp_path), Limits(), lambda text: None)
    for _ in range(25):
        book.add(failure())
    assert book.lost == 15


def test_one_of_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    Book(tmp_path / FILE, lambda text: None).close()
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(CannotRunError, match="another version"):
        Reader(str(tmp_path))
    with writing(tmp_path) as (book, said):
        book.add(failure())
        until(lambda: book.lost == 1)
    assert "of a newer pinwatch" in said[0]
    assert [path.name for path in tmp_path.glob(f"{FILE}*") if "damaged" in path.name] == []


def test_there_is_none_to_read(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match="cannot read the history"):
        Reader(str(tmp_path / "none"))


def test_only_root_may_read_it(tmp_path: Path) -> None:
    Book(tmp_path / FILE, lambda text: None).close()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_reader_of_a_damaged_file_is_told_so(tmp_path: Path) -> None:
    book = Book(tmp_path / FILE, lambda text: None)
    book.add(rows(100), ())
    book.close()
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(data[:4096] + b"U" * (len(data) - 4096))
    reader = Reader(str(tmp_path))
    asked: tuple[Callable[[], object], ...] = (
        lambda: list(reader.events(Wanted())), lambda: reader.event("d"),
        lambda: reader.moments(0, 1), lambda: reader.last_row,
    )  # fmt: skip
    for ask in asked:
        with pytest.raises(CannotRunError, match="cannot read the history"):
            ask()
