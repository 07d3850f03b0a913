"""Faults of a host: one line what, one line what to do, the right exit code; nothing breaks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.conftest import LabRun, as_json, in_guest

# What is tested here does not differ between kernels.
pytestmark = in_guest("faults", "6.12")


def check_two_lines(result: dict[str, Any], what: str, remedy: str) -> None:
    lines = result["stderr"].splitlines()
    assert result["code"] == 3, as_json(result)
    assert len(lines) == 2, as_json(result)
    assert what in lines[0]
    assert remedy in lines[1]
    assert result["stdout"] == ""
    assert not result["left"], "it left its socket behind"


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("no_btf", "no type information", "CONFIG_DEBUG_INFO_BTF"),
        ("no_bcc", "bcc is not usable", "apt install python3-bpfcc"),
        ("no_permission", "missing capabilities: CAP_BPF", "run as root"),
        ("no_bpf", "bpf(2) is refused: Operation not permitted", "seccomp"),
    ],
)
def test_cannot_run(run: LabRun, name: str, what: str, remedy: str) -> None:
    check_two_lines(run.result(name), what, remedy)


def test_ready_means_attached_and_answering(run: LabRun) -> None:
    result = run.result("ready_is_true")
    assert result["message"].startswith("READY=1\n")
    assert result["watchdog"] == "WATCHDOG=1"
    hooks = result["hooks"]
    assert sum(hooks.values()) > 30
    assert [name for name in hooks if 'mode="off"' in name] == [
        'pinwatch_hook_attached{hook="cma_finish",mode="off",symbol=""}'  # 6.12 is without CMA
    ]
    waiting = [name for name in hooks if 'mode="waiting"' in name]
    assert any('hook="vfio_map"' in name for name in waiting)
    assert not any(hooks[name] for name in waiting)
    assert result["code"] == 0


def test_a_clock_that_is_set_is_noticed(run: LabRun) -> None:
    assert 0 <= run.result("ready_is_true")["behind_s"] < 60


def test_a_second_daemon_says_so(run: LabRun) -> None:
    check_two_lines(run.result("ready_is_true")["second"], "Address already in use", "--listen")


def test_doctor_names_the_one_thing_missing(run: LabRun) -> None:
    doctor = run.result("ready_is_true")["doctor"]
    assert doctor["code"] == 0, as_json(doctor)
    not_ok = [check for check in doctor["checks"] if check["verdict"] != "ok"]
    assert [check["name"] for check in not_ok] == ["hook cma_finish"], as_json(not_ok)
    assert "this kernel has none of: cma_alloc_finish" in not_ok[0]["detail"]
    details = {check["name"]: check["detail"] for check in doctor["checks"]}
    assert "module vfio_iommu_type1 is not loaded" in details["hook vfio_map"]


def test_without_tracefs_what_is_not_seen_to_end_is_a_loss(run: LabRun) -> None:
    result = run.result("no_tracefs")
    metrics = result["metrics"]
    assert result["errors"] == [12, 0] * 12
    seen = metrics['pinwatch_longterm_pins_total{source="vfio_type1",vm="~host"}']
    lost = run.lost(metrics)
    assert 10 <= seen < 24, as_json(metrics)
    assert lost == {'pinwatch_losses_total{kind="frame_stale"}': 24 - seen}
    assert not [n for name, n in metrics.items() if "pins_stuck" in name and n]
    assert "hooks have limits: no more than 10 at once are seen to end" in result["log"]
    limited = {
        check["name"] for check in result["doctor"]["checks"] if "at once" in check["detail"]
    }
    assert {"hook vfio_map", "hook io_pin"} <= limited
    assert "hook split" not in limited
    assert result["code"] == 0


def test_kill_and_restart_in_the_middle_of_maps(run: LabRun) -> None:
    result = run.result("killed_in_the_middle")
    assert result["failed"] == 0, "the workload noticed"
    assert result["before"] >= 3
    assert 3 <= result["after"] < result["maps"] - result["before"], (
        "counting resumed, from 0: a visible gap"
    )
    assert result["started"] > 0
    assert not result["left"], "definitions of probes, also those of the one that was killed"
    assert result["code"] == 0
