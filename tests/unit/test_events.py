"""`pinwatch events` and `why` of the past, as somebody types them."""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pinwatch import cli, serve
from pinwatch.aggregate.ledger import Ledger
from pinwatch.commands import events, times
from pinwatch.expose import state
from pinwatch.history import FILE, Book, Limits, Reader, Wanted, row
from pinwatch.model.failure import Failure, SlowPin
from pinwatch.model.vm import Vm
from tests.unit.make import FACTS, TASK, VM, failure, slow_pin

EVIL = "evil\x1b]0;owned\x07\nname"
NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    """A history of four: two of web-01, one an hour old; one of another; a slow one."""
    book, now_s = Book(tmp_path / FILE, lambda text: None), time.time()
    pins: tuple[Failure | SlowPin, ...] = (
        failure(id="aa1", time_s=now_s - 3600),
        failure(id="aa2", time_s=now_s - 60),
        failure(id="ab3", time_s=now_s - 30, vm=Vm(name="other")),
        slow_pin(id="ac4", time_s=now_s - 10),
    )
    book.add(map(row, pins), ())
    book.close()
    return str(tmp_path)


def pinwatch(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(list(words))
    return code, capsys.readouterr().out


def ids(capsys: pytest.CaptureFixture[str], directory: str, *words: str) -> list[str]:
    _, out = pinwatch(capsys, "events", "--json", "--state-dir", directory, *words)
    return [json.loads(line)["id"] for line in out.splitlines()]


def test_filters(capsys: pytest.CaptureFixture[str], directory: str) -> None:
    for words, found in (
        ((), ["aa1", "aa2", "ab3", "ac4"]),
        (("--vm", "other"), ["ab3"]),
        (("--kind", "slow"), ["ac4"]),
        (("--since", "10m"), ["aa2", "ab3", "ac4"]),
        (("--until", "10m"), ["aa1"]),
        (("--reason", "extra_ref_plain", "--vm", VM.name), ["aa1", "aa2"]),
        (("--source", "iommufd"), []),
        (("--limit", "2"), ["ab3", "ac4"]),
    ):
        assert ids(capsys, directory, *words) == found, words


def test_a_table_for_people(capsys: pytest.CaptureFixture[str], directory: str) -> None:
    code, out = pinwatch(capsys, "events", "--state-dir", directory)
    assert code == 0
    for words in ("web-01", "other", "ENOMEM", "extra_ref_plain", "writeback", "aa2", "ac4"):
        assert words in out
    _, out = pinwatch(capsys, "events", "--state-dir", directory, "--vm", "nobody")
    assert out == "the history has no such event\n"


def test_csv_has_a_row_each(capsys: pytest.CaptureFixture[str], directory: str) -> None:
    _, out = pinwatch(capsys, "events", "--csv", "--state-dir", directory)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [one["id"] for one in rows] == ["aa1", "aa2", "ab3", "ac4"]
    assert rows[0]["vm"] == "web-01"
    assert rows[0]["errno"] == "ENOMEM"


def test_a_hostile_name_does_not_reach_the_terminal_raw(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Names are cleaned where they are found; the file is not trusted all the same."""
    book = Book(tmp_path / FILE, lambda text: None)
    book.add([row(failure(vm=replace(VM, name=EVIL)))], ())
    book.close()
    for shape in ((), ("--csv",), ("--json",)):
        _, out = pinwatch(capsys, "events", *shape, "--state-dir", str(tmp_path))
        assert "evil" in out
        assert "\x1b" not in out
        assert "\x07" not in out


def test_why_of_the_past(capsys: pytest.CaptureFixture[str], directory: str) -> None:
    for words, found in (
        (("--event", "aa1"), ["aa1"]),
        (("--event", "ab"), ["ab3"]),
        (("--at", "45s"), ["aa2"]),
        (("--at", "45s", "--last", "5"), ["aa2", "aa1"]),
        (("--at", "0s", "web-01"), ["aa2"]),
        (("--at", "0s", "--slow"), ["ac4"]),
        (("--at", "3d"), []),
    ):
        _, out = pinwatch(capsys, "why", "--json", "--state-dir", directory, *words)
        assert [one["id"] for one in json.loads(out)] == found, words
    _, out = pinwatch(capsys, "why", "--event", "aa1", "--state-dir", directory)
    assert "VM web-01: VFIO map" in out
    assert cli.main(["why", "--event", "a", "--state-dir", directory]) == 2
    assert "or several that begin so" in capsys.readouterr().err


def test_why_of_an_event_that_no_disk_has(
    capsys: pytest.CaptureFixture[str], directory: str, tmp_path: Path
) -> None:
    """An exemplar names it, and the history is full, or there is none: the daemon remembers."""
    ledger, path = Ledger(), str(tmp_path / "pinwatch.sock")
    ledger.add_failure(failure(id="new1"))
    ledger.add_slow(slow_pin(id="new2"))
    server = serve.bind_unix(path)
    serve.start(server, serve.App(latest=ledger.snapshot, facts=FACTS, ready=lambda: True))
    for state_dir in (directory, str(tmp_path / "none")):
        for event in ("new1", "new2"):
            asked = ("why", "--json", "--event", event, "--socket", path, "--state-dir", state_dir)
            _, out = pinwatch(capsys, *asked)
            assert [one["id"] for one in json.loads(out)] == [event]
    server.shutdown()
    server.server_close()
    gone = ("why", "--event", "new1", "--socket", path, "--state-dir")
    assert pinwatch(capsys, *gone, directory)[0] == 2
    assert pinwatch(capsys, *gone, str(tmp_path / "none"))[0] == 3


def test_events_are_followed(directory: str) -> None:
    command = [
        sys.executable,
        "-u",
        "-m",
        "pinwatch",
        "events",
        "--follow",
        "--state-dir",
        directory,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert [process.stdout.readline()[-6:] for _ in range(4)][-1] == "[ac4]\n"
            book = Book(Path(directory) / FILE, lambda text: None)
            book.add([row(failure(id="zz9", time_s=time.time()))], ())
            book.close()
            assert process.stdout.readline().endswith("[zz9]\n")
        finally:
            process.kill()


def test_they_are_followed_when_all_before_them_were_too_old(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host on which nothing fails for a month: rows are numbered from 1 again."""
    monkeypatch.setattr(events, "POLL_S", 0.0)
    reader, wanted = Reader(directory), Wanted()
    following = events._all(
        list(reader.events(wanted)), argparse.Namespace(follow=True), reader, wanted
    )
    assert [next(following)["id"] for _ in range(4)][-1] == "ac4"
    book = Book(Path(directory) / FILE, lambda text: None)
    book.prune(Limits(age_s=0), time.time() + 1)
    monkeypatch.setattr(time, "sleep", lambda _: book.add([row(failure(id="zz9"))], ()))
    assert next(following)["id"] == "zz9"
    book.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("03:12", NOON.replace(hour=3, minute=12)),
        ("12:00:00", NOON),
        ("23:59", NOON.replace(hour=23, minute=59) - timedelta(days=1)),
        ("2h", NOON - timedelta(hours=2)),
        ("1.5d ago", NOON - timedelta(days=1.5)),
        ("2026-11-20T01:02:03+00:00", datetime(2026, 11, 20, 1, 2, 3, tzinfo=UTC)),
    ],
)
def test_times(text: str, found: datetime) -> None:
    assert times.parse(text, NOON) == found


@pytest.mark.parametrize("text", ["", "soon", "25:00", "2 weeks", "1e999d"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        times.parse(text, NOON)


def test_top_of_the_past(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The state that was the newest at that time."""
    now_s = time.time()
    book = Book(tmp_path / FILE, lambda text: None)
    for minutes, name in ((50, "early"), (20, "later")):
        ledger = Ledger()
        ledger.name_task(TASK.key, Vm(name=name))
        moment = replace(ledger.snapshot(), time_s=now_s - 60 * minutes)
        book.add((), [(moment.time_s, state.document(moment))])
    book.close()
    for at, name in (("40m", "early"), ("10m", "later")):
        where = ("--once", "--at", at, "--state-dir", str(tmp_path))
        code, out = pinwatch(capsys, "top", *where)
        assert code == 0
        assert f"> {name} " in out
    assert cli.main(["top", "--once", "--at", "55m", "--state-dir", str(tmp_path)]) == 2
