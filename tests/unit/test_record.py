"""`pinwatch record` against a server that answers as the daemon's does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinwatch import cli, serve, taps
from pinwatch.playback import Playback
from pinwatch.recorder import Recorder
from pinwatch.recording import Counted, Header, Item, Published, RawRecord, TaskGone, VmFound
from tests.unit.make import FACTS, TASK, pin_record, sample

RECORD = RawRecord(bytes(pin_record(b"qemu-kvm", b"-name", b"web-01")))
BEFORE: tuple[Item, ...] = (
    VmFound(TASK.key, ("qemu-kvm", "-name", "web-01")), RECORD, TaskGone(TASK.key),
)  # fmt: skip
HOST = Counted(sample(), {})


class Host:
    """A recorder that sees a failed pin again and again, and a socket that serves it."""

    def __init__(self, socket: str) -> None:
        self.recorder = Recorder(Header(facts=FACTS, wall_offset_ns=0), "", pytest.fail)
        self._stop = threading.Event()
        self._server = serve.bind_unix(socket)
        app = serve.App(
            latest=pytest.fail, facts=FACTS, ready=lambda: True, record=self.recorder.taps.open
        )
        serve.start(self._server, app)
        self._thread = threading.Thread(target=self._live)
        for item in BEFORE:
            self.recorder.take(item)
        self._thread.start()

    def _live(self) -> None:
        while not self._stop.wait(0.1):
            for item in (HOST, Published()):
                self.recorder.take(item)
            self.recorder.published()
            self.recorder.take(RECORD)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.recorder.close()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[str]:
    host = Host(str(tmp_path / "s"))
    yield str(tmp_path / "s")
    host.close()


def test_it_has_what_came_before(
    socket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "r")
    assert cli.main(["record", "--socket", socket, "-o", path]) == 0
    assert "failed or slow pins; `pinwatch replay" in capsys.readouterr().out
    playback = Playback(path)
    failures = playback.end().failures
    assert failures[0].vm.name == "web-01"
    assert not playback.damage


def test_it_goes_on_for_seconds_and_hides_names(socket: str, tmp_path: Path) -> None:
    path = str(tmp_path / "r")
    assert cli.main(["record", "--socket", socket, "-o", path, "--seconds", "1", "--redact"]) == 0
    playback = Playback(path)
    moments = list(playback.moments())
    assert playback.header.redacted
    assert len(moments) > 3
    assert len(moments[-1].failures) > len(moments[0].failures) > 0
    assert not any("web" in failure.vm.name for failure in moments[-1].failures)


def test_the_path_must_be_writable(socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["record", "--socket", socket, "-o", "/nope/r"]) == 3
    assert "cannot write /nope/r: No such file" in capsys.readouterr().err


def test_seconds_are_a_number(socket: str) -> None:
    for text in ("-1", "x", "1.5"):
        with pytest.raises(SystemExit):
            cli.main(["record", "--socket", socket, "--seconds", text])


def test_who_is_too_far_behind_loses_lines_and_it_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taps, "MAX_BYTES", 10_000)
    recorder = Recorder(Header(facts=FACTS, wall_offset_ns=0), "", pytest.fail)
    lines = recorder.taps.open(60)
    recorder.take(HOST)
    recorder.published()
    assert recorder.new_losses() == 0
    for _ in range(9):
        recorder.take(RECORD)
    lost = recorder.new_losses()
    assert 0 < lost < 9
    recorder.close()
    whole = [line for line in lines if line.endswith(b"\n")]
    assert sum(line.startswith(b'{"record"') for line in whole) == 9 - lost
