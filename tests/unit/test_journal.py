"""Lines for the log: fields for the real journald, text for all others, and not too many."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinwatch.expose import log
from pinwatch.expose.log import Line, Priority
from pinwatch.journal import LINES_A_SECOND, Log, Pins, datagram
from pinwatch.model.failure import StuckPin
from pinwatch.model.vm import Vm
from tests.unit.make import failure, open_pin, slow_pin


def fields(data: bytes) -> dict[str, str]:
    """Of a datagram, as journald reads it."""
    found = {}
    while data:
        name, _, rest = data.partition(b"\n")
        (length,) = struct.unpack("<Q", rest[:8])
        found[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        data = rest[9 + length :]
    return found


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Its end of the socket; standard error is the journal."""
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "socket"))
        end.settimeout(5)
        yield end


def test_journald_gets_fields(
    journald: socket.socket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = failure()
    Log(tmp_path / "socket").say(log.failed(failed))
    seen = fields(journald.recv(65536))
    assert seen["PRIORITY"] == "4"
    assert seen["MESSAGE"].startswith("pinwatch: VM web-01: VFIO map of ")
    assert seen["MESSAGE_ID"] == log.FAILED_ID
    assert seen["PINWATCH_VM"] == "web-01"
    assert seen["PINWATCH_REASON"] == failed.reason
    assert seen["PINWATCH_EVENT"] == failed.id
    assert capsys.readouterr().err == ""


def test_a_newline_in_a_value_begins_no_field() -> None:
    evil = {"PINWATCH_VM": "a\nPRIORITY=0\nMESSAGE=owned", "MESSAGE": "x"}
    assert fields(datagram(evil)) == evil


def test_without_its_socket_the_journal_gets_text_with_a_priority(
    journald: socket.socket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Log(tmp_path / "none").say(log.failed(failure()))
    assert capsys.readouterr().err.startswith("<4>pinwatch: VM web-01: VFIO map of ")


def test_a_terminal_gets_text_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    Log().say(Line("hello", Priority.WARNING))
    assert capsys.readouterr().err == "pinwatch: hello\n"


def test_a_storm_is_counted_and_not_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    pins = Pins(Log(), lambda: now[0])
    for _ in range(LINES_A_SECOND + 30):
        pins.say(log.failed, failure())
    now[0] += 1
    pins.catch_up()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == LINES_A_SECOND + 1
    assert lines[-1] == "pinwatch: 30 more pins failed or were slow (see `pinwatch events`)"


def test_each_kind_has_its_line() -> None:
    stuck = StuckPin(vm=Vm(name="db-7"), pin=open_pin(), age_s=5.0, livelock=False)
    lines = [log.failed(failure()), log.slow(slow_pin()), log.stuck(stuck)]
    assert len({line.fields["MESSAGE_ID"] for line in lines}) == 3
    assert [line.priority for line in lines] == [4, 5, 4]
    assert all("\n" not in line.text for line in lines)


_IN_A_NAMESPACE = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal || exit 3
/lib/systemd/systemd-journald & daemon=$!
until [ -S /run/systemd/journal/socket ]; do sleep 0.1; done
"$0" -m tests.unit.test_journal 2>&1
journalctl -D /run/log/journal --sync 2>/dev/null
until journalctl -D /run/log/journal -o json PINWATCH_VM=web-01 2>/dev/null | grep .
do sleep 0.2; done
kill $daemon
"""


def test_the_real_journald_has_the_fields() -> None:
    """In a mount namespace with a /run of its own."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _IN_A_NAMESPACE]
    done = subprocess.run(
        [*command, sys.executable], capture_output=True, text=True, timeout=60, check=True
    )
    entry = json.loads(done.stdout.splitlines()[-1])
    assert entry["PINWATCH_VM"] == "web-01"
    assert entry["PINWATCH_REASON"] == "extra_ref_plain"
    assert entry["MESSAGE_ID"] == log.FAILED_ID
    assert entry["PRIORITY"] == "4"
    assert entry["_TRANSPORT"] == "journal"


def _say_one() -> None:
    status = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
    Log().say(log.failed(failure()))


if __name__ == "__main__":
    _say_one()
