"""`pinwatch top` in a real terminal (tmux): what it shows, and what it leaves behind.

SCREENS=write renews the expected screens (`make screens`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from pinwatch import serve
from pinwatch.aggregate.ledger import Ledger
from pinwatch.expose import state
from pinwatch.model.sample import TaskKey
from pinwatch.model.snapshot import Counters
from pinwatch.model.vm import Vm
from tests.unit.make import free, outlook

ROOT = Path(__file__).resolve().parents[2]
SCREENS = Path(__file__).parent / "screens"
RECORDING = ROOT / "tests/replay/6.12-plain.jsonl.gz"
NUMBERS = count()
SIZES = ((80, 24), (120, 40), (200, 60))


class Tmux:
    """A server of its own with one shell."""

    def __init__(self, name: str, width: int, height: int) -> None:
        self._name = name
        shell = "env -u NO_COLOR TZ=UTC LC_ALL=C.UTF-8 PS1=ready PYTHONPATH=" + str(ROOT)
        self.run("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height),
                 f"{shell} bash --norc --noprofile")  # fmt: skip

    def run(self, *words: str) -> str:
        command = ("tmux", "-u", "-L", self._name, *words)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def keys(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def screen(self, *options: str) -> str:
        rows = self.run("capture-pane", "-p", *options).splitlines()
        return "\n".join(row.rstrip() for row in rows) + "\n"

    def state(self, what: str) -> str:
        return self.run("display-message", "-p", what).strip()

    def wait(self, text: str, *options: str) -> str:
        for _ in range(200):
            if text in (seen := self.screen(*options)):
                return seen
            time.sleep(0.05)
        raise AssertionError(f"no {text!r} in:\n{seen}")


@pytest.fixture
def size() -> tuple[int, int]:
    return SIZES[0]


@pytest.fixture
def tmux(size: tuple[int, int]) -> Iterator[Tmux]:
    server = Tmux(f"pinwatch-test-{os.getpid()}-{next(NUMBERS)}", *size)
    yield server
    with suppress(subprocess.CalledProcessError):  # a shell that was hung up has ended it
        server.run("kill-server")


def start(tmux: Tmux, before: str = "") -> None:
    tmux.keys(f"{before} {sys.executable} -m pinwatch top --replay {RECORDING}", "Enter")
    tmux.wait("newest failures")


def compare(name: str, seen: str) -> None:
    path = SCREENS / f"{name}.txt"
    if os.environ.get("SCREENS") == "write":
        path.write_text(seen)
    assert seen == path.read_text()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_screens(tmux: Tmux, size: tuple[int, int]) -> None:
    start(tmux)
    name = f"{size[0]}x{size[1]}"
    compare(f"list-{name}", tmux.wait("q quit"))
    tmux.keys("Enter")
    compare(f"detail-{name}", tmux.wait("q back"))
    tmux.keys("q")
    tmux.wait("q quit")
    tmux.keys("?")
    compare(f"help-{name}", tmux.wait("not there yet"))


@pytest.mark.parametrize("signal", ["TERM", "HUP", "INT"])
def test_the_terminal_is_clean_after_a_signal(tmux: Tmux, signal: str, tmp_path: Path) -> None:
    before, after, pid = tmp_path / "before", tmp_path / "after", tmp_path / "pid"
    tmux.keys(f"stty -a > {before}", "Enter")
    start(tmux, f"sh -c 'echo $$ > {pid}; exec \"$@\"' -")
    assert (tmux.state("#{alternate_on}"), tmux.state("#{cursor_flag}")) == ("1", "0")
    os.kill(int(pid.read_text()), {"TERM": 15, "HUP": 1, "INT": 2}[signal])
    tmux.keys(f"stty -a > {after}; echo en''ded", "Enter")
    tmux.wait("ended")
    assert (tmux.state("#{alternate_on}"), tmux.state("#{cursor_flag}")) == ("0", "1")
    assert after.read_text() == before.read_text()


def test_stopped_and_continued(tmux: Tmux) -> None:
    start(tmux)
    tmux.keys("C-z")
    tmux.wait("Stopped")
    assert (tmux.state("#{alternate_on}"), tmux.state("#{cursor_flag}")) == ("0", "1")
    tmux.keys("fg", "Enter")
    tmux.wait("newest failures")
    assert tmux.state("#{alternate_on}") == "1"


def test_another_size(tmux: Tmux) -> None:
    start(tmux)
    tmux.run("resize-window", "-x", "120", "-y", "40")
    until = time.monotonic() + 10
    while tmux.wait("until") != (SCREENS / "list-120x40.txt").read_text():
        if time.monotonic() > until:
            break
        time.sleep(0.1)
    compare("list-120x40", tmux.wait("until"))


def test_no_colour(tmux: Tmux) -> None:
    start(tmux, "NO_COLOR=1")
    assert "\x1b[3" not in tmux.wait("q quit", "-e").replace("\x1b[39m", "")


@contextmanager
def daemon_with(vms: int, path: Path) -> Iterator[None]:
    """A daemon's socket, with so many VMs, of which one pins all the time."""
    ledger = Ledger()
    for number in range(vms):
        ledger.name_task(TaskKey(number, number), Vm(name=f"vm-{number:03}"))
        ledger.set_outlook(TaskKey(number, number), outlook())
    whole = ledger.snapshot()

    def answer(_environ: object, start: Callable[..., object]) -> list[bytes]:
        now = time.time()
        pages: Counters = {"pinwatch_pin_migrated_pages_total": {(): now % 1e6 * 1000}}
        counters = {**whole.vm_counters, "vm-007": pages}
        moment = replace(whole, time_s=now, free=free(), vm_counters=counters)
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(state.document(moment)).encode()]

    server = serve.bind_unix(str(path))
    serve.start(server, answer)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_five_hundred_vms_cost_little(tmux: Tmux, tmp_path: Path) -> None:
    """Of CPU, and of a slow link."""
    sent, pid = tmp_path / "sent", tmp_path / "pid"
    with daemon_with(500, tmp_path / "socket"):
        command = f"{sys.executable} -m pinwatch top --socket {tmp_path}/socket"
        tmux.keys(f"sh -c 'echo $$ > {pid}; exec {command}'", "Enter")
        tmux.wait("vm-000")
        tmux.run("pipe-pane", f"cat > {sent}")
        before, began = cpu_s(int(pid.read_text())), time.monotonic()
        tmux.wait("/s")  # the VM that moves, after two documents
        time.sleep(6)
        passed = time.monotonic() - began
        used = (cpu_s(int(pid.read_text())) - before) / passed
        tmux.keys("/")
        tmux.keys("-l", "vm-007")
        tmux.keys("Enter")
        assert "vm-008" not in tmux.wait("/ filter: vm-007")
        tmux.keys("q")
    assert used < 0.10
    assert sent.stat().st_size / passed < 1000


def test_a_daemon_that_goes_is_told_and_found_again(tmux: Tmux, tmp_path: Path) -> None:
    with daemon_with(3, tmp_path / "socket"):
        tmux.keys(f"{sys.executable} -m pinwatch top --socket {tmp_path}/socket", "Enter")
        tmux.wait("vm-002")
    tmux.wait("the daemon does not answer")
    with daemon_with(4, tmp_path / "socket"):
        assert "does not answer" not in tmux.wait("vm-003")
