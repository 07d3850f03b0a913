"""Return probes as events of a tracefs made by hand; real ones are in the lab."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pinwatch.host import syscalls
from pinwatch.host.tracefs import ReturnProbes

OWN = f"_{os.getpid()}_"


@pytest.fixture
def tracing(tmp_path: Path) -> Path:
    root = tmp_path / "kernel/tracing"
    root.mkdir(parents=True)
    (root / "kprobe_events").write_text("")
    return root


def test_a_probe_asks_for_many_slots(tracing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attached: list[tuple[int, int]] = []

    def attach(program: int, event: int) -> int:
        attached.append((program, event))
        return 9

    monkeypatch.setattr(syscalls, "attach_event", attach)
    event = tracing / f"events/pinwatch/iopt_map{OWN}0"
    event.mkdir(parents=True)
    (event / "id").write_text("1789\n")
    probes = ReturnProbes(tracing.parents[1])
    assert probes.attach(5, "iopt_map") == 9
    assert attached == [(5, 1789)]
    assert f"r512:pinwatch/iopt_map{OWN}0 iopt_map" in (tracing / "kprobe_events").read_text()


def test_what_a_killed_daemon_left_is_removed(tracing: Path) -> None:
    (tracing / "kprobe_events").write_text(
        "r512:pinwatch/iopt_map_77_3 iopt_map\nr:other/iopt_map iopt_map\np:pinwatch2/x y\n"
    )
    ReturnProbes(tracing.parents[1])
    written = (tracing / "kprobe_events").read_text().splitlines()
    assert [line for line in written if "-:" in line] == ["-:pinwatch/iopt_map_77_3"]


def test_misses_are_those_of_all_probes_of_this_process(tracing: Path) -> None:
    probes = ReturnProbes(tracing.parents[1])
    assert probes.missed() == 0, "there is no such file"
    profile = tracing / "kprobe_profile"
    profile.write_text(f"  iopt_map{OWN}0  40  14\n  iopt_map_1_0  5  5\n  other  1  1\n")
    assert probes.missed() == 14
    profile.write_text(f"  iopt_map{OWN}1  3  2\n")  # its module was loaded again
    assert probes.missed() == 16


def test_it_says_why_there_are_none(tmp_path: Path) -> None:
    probes = ReturnProbes(tmp_path)
    assert probes.refused == f"{tmp_path}/kernel/tracing: No such file or directory"
    with pytest.raises(OSError, match="No such file"):
        probes.attach(5, "iopt_map")
    probes.remove_unused()
    assert probes.missed() == 0


def test_one_that_is_refused_ends_the_attempts(tracing: Path) -> None:
    probes = ReturnProbes(tracing.parents[1])
    with pytest.raises(OSError, match="No such file"):
        probes.attach(5, "iopt_map")  # this tracefs makes no event
    assert probes.refused
