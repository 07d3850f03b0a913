"""Following a guest, with a shell in the guest's place."""

import time
from pathlib import Path

import pytest

from tests.lab import guest
from tests.lab.guest import Layout, Lines, watch
from tests.lab.outcome import Event, Outcome, Status

START = """printf '{"event": "start"}\\n' >>"$0"/channel.jsonl; """
END = """printf '{"event": "end", "status": %s}\\n' 5 >>"$0"/channel.jsonl; """
PANIC = "echo 'Kernel panic - not syncing: sysrq triggered crash' >&2; "


def run(script: str, directory: Path, timeout_s: float = 30) -> tuple[Outcome, list[Event]]:
    seen: list[Event] = []
    vmm = ["sh", "-c", script, str(directory)]
    return watch(vmm, directory, timeout_s=timeout_s, on_event=seen.append), seen


def test_a_guest_that_finishes_gives_its_status_and_its_events(tmp_path: Path) -> None:
    outcome, seen = run(START + END, tmp_path)
    assert (outcome.status, outcome.code) == (Status.FINISHED, 5)
    assert seen == list(outcome.events) == [{"event": "start"}, {"event": "end", "status": 5}]


def test_a_guest_that_vanishes_is_lost(tmp_path: Path) -> None:
    assert run(START, tmp_path)[0].status is Status.LOST


def test_a_guest_that_never_speaks_is_lost(tmp_path: Path) -> None:
    assert run("exit 0", tmp_path)[0].status is Status.LOST


def test_a_guest_that_hangs_runs_out_of_time_and_is_gone(tmp_path: Path) -> None:
    started = time.monotonic()
    outcome, _ = run(START + "exec sleep 60", tmp_path, timeout_s=0.3)
    assert outcome.status is Status.TIMEOUT
    assert time.monotonic() - started < 10


def test_a_guest_that_panics_says_so_on_its_console(tmp_path: Path) -> None:
    assert run(START + PANIC, tmp_path)[0].status is Status.PANIC


def test_a_guest_that_will_not_power_off_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "_POWER_OFF_S", 0.2)
    outcome, _ = run(START + END + "exec sleep 60", tmp_path)
    assert (outcome.status, outcome.code) == (Status.FINISHED, 5)
    assert outcome.seconds < 10


def test_lines_come_whole_and_once(tmp_path: Path) -> None:
    path = tmp_path / "channel.jsonl"
    lines = Lines(path)
    assert lines.new() == []
    path.write_text("one\ntw")
    assert lines.new() == ["one"]
    path.write_text("one\ntwo\nthree\n")
    assert lines.new() == ["two", "three"]
    assert lines.new() == []


def test_a_layout_shapes_machine_and_kernel() -> None:
    layout = Layout(
        name="report",
        memory="2816M",
        max_ram_below_4g="768M",
        kernel_args=("movablecore=2048M",),
        qemu_args=("-icount", "shift=0"),
    )
    assert layout.qemu_options() == [
        *("-machine", "q35,kernel-irqchip=split,max-ram-below-4g=768M"),
        *("-device", "intel-iommu", "-device", "edu", "-icount", "shift=0"),
    ]
    assert {"oops=panic", "panic=-1", "intel_iommu=on"} <= set(layout.kernel_options())
    assert layout.kernel_options()[-1] == "movablecore=2048M"
