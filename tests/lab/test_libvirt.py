"""Every VM by its name: those of a real libvirtd, those that libvirt's cgroup names, those that are
dead before anybody looks, and those that ran before the daemon did.

They run inside the guest (tests/lab/inside/libvirt.py); here they are judged. Only with --full
(make test-full).
"""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

import pytest

from tests.lab.conftest import LabRun, Observed, as_json, in_guest
from tests.lab.outcome import Status

pytestmark = [pytest.mark.full, in_guest("libvirt", "6.12")]

ENOMEM = 12
FAILURES = "pinwatch_vfio_map_failures_total"
UUIDS = {
    "web-01": "6d1f4a3e-9b52-4c57-8d0e-2f7a3c9e1b01",
    "instance-0000002a": "6d1f4a3e-9b52-4c57-8d0e-2f7a3c9e1b02",
    "db-01": "6d1f4a3e-9b52-4c57-8d0e-2f7a3c9e1b03",
    "web-02": "0b6a0e57-6a0b-4c6e-8f43-0b5ad5a3b902",
    "web-03": "0b6a0e57-6a0b-4c6e-8f43-0b5ad5a3b903",
}
PINS = "pinwatch_longterm_pins_total"
UNATTRIBUTED = "~unattributed"
MOMENTARY = ("short_lives", "lives_unseen")


def only_failure(seen: Observed) -> dict[str, Any]:
    assert len(seen.failures) == 1, as_json(seen.failures)
    return seen.failures[0]


def series_of(seen: Observed, vm: str) -> dict[str, float]:
    """All that was counted for a VM."""
    return {name: n for name, n in seen.metrics.items() if f'vm="{vm}"' in name}


def check_nothing_lost(seen: Observed) -> None:
    assert not series_of(seen, UNATTRIBUTED)
    assert seen.total("pinwatch_losses_total") == 0


def test_guest_ran_to_its_end(run: LabRun) -> None:
    assert run.outcome.status is Status.FINISHED, str(run.outcome)
    assert run.outcome.code == 0


def test_domain_whose_start_fails_is_named(run: LabRun) -> None:
    """QEMU maps each region of its memory, and says of each that it failed: RAM, which is there and
    has nowhere to move to, and firmware, of which not all is there."""
    seen = run.scenario("real_libvirt")
    start = seen.workload["started"]["web-01"]
    assert start["exit_code"] == 1, as_json(start)
    assert "Cannot allocate memory" in start["stderr"]
    failed = start["log"].count("VFIO_MAP_DMA failed: Cannot allocate memory")
    assert len(seen.failures) == failed > 0, as_json(start)
    for failure in seen.failures:
        assert failure["vm"]["name"] == "web-01"
        assert failure["vm"]["uuid"] == UUIDS["web-01"]
        assert failure["vm"]["platform"] == "libvirt"
        assert failure["vm"]["alias"] == "the shop"
    ram = seen.failures[-1]
    assert ram["reason"] == "dst_alloc_failed"
    assert ram["primary"]["facts"]["node"] == 1
    assert ram["primary"]["facts"]["zone"] == "Movable"
    reasons = Counter(failure["reason"] for failure in seen.failures)
    assert set(reasons) <= {"dst_alloc_failed", "fault_oom"}
    for reason, times in reasons.items():
        assert seen.metric(FAILURES, vm="web-01", errno="ENOMEM", reason=reason) == times
    assert seen.total(FAILURES) == failed
    why = " ".join(seen.workload["why"].split())
    assert "VM web-01 (the shop): VFIO map of" in why
    check_nothing_lost(seen)


def test_nothing_else_that_libvirt_runs_is_a_vm(run: LabRun) -> None:
    """It starts a QEMU or two to ask what it can do."""
    info = run.scenario("real_libvirt").workload["info"]
    assert {"web-01", "instance-0000002a"} <= set(info) <= set(UUIDS)


def test_domain_beside_it_is_untouched(run: LabRun) -> None:
    seen = run.scenario("real_libvirt")
    name = "instance-0000002a"
    assert seen.workload["started"][name]["exit_code"] == 0, as_json(seen.workload)
    assert seen.metric(PINS, vm=name, source="vfio_type1") > 0
    assert (
        seen.metric("pinwatch_longterm_pinned_pages_total", vm=name, source="vfio_type1")
        >= 64 * 256
    )
    assert not [series for series in series_of(seen, name) if "fail" in series]


def test_nova_s_names_are_read_from_the_live_domain(run: LabRun) -> None:
    info = run.scenario("real_libvirt").workload["info"]["instance-0000002a"]
    assert info["platform"] == "openstack"
    assert info["uuid"] == UUIDS["instance-0000002a"]
    assert (info["alias"], info["project"]) == ("billing", "accounts")


@pytest.mark.parametrize("scenario", MOMENTARY)
def test_each_of_a_hundred_short_lives_is_named(run: LabRun, scenario: str) -> None:
    seen = run.scenario(scenario)
    names = seen.workload["names"]
    assert len(set(names)) == 100
    assert seen.workload["errors"] == [ENOMEM] * 100
    # 10 ms were measured in emulation, which makes it some twenty times longer than it is
    assert statistics.median(seen.workload["lives_ms"]) <= 100
    assert sorted(failure["vm"]["name"] for failure in seen.failures) == names
    for name in names:
        assert seen.metric(FAILURES, vm=name, errno="ENOMEM", reason="extra_ref_plain") == 1
    assert seen.total(FAILURES) == 100
    assert len({failure["vm"]["uuid"] for failure in seen.failures}) == 100
    check_nothing_lost(seen)


def test_vmm_in_libvirt_s_scope_is_named(run: LabRun) -> None:
    seen = run.scenario("libvirt_scope")
    assert seen.workload["exit_code"] == 1, seen.workload["stderr"]
    assert "Cannot allocate memory" in seen.workload["stderr"]
    failure = only_failure(seen)
    assert failure["vm"]["name"] == "web-02"
    assert failure["vm"]["uuid"] == UUIDS["web-02"]
    assert failure["vm"]["platform"] == "libvirt"
    assert seen.metric(FAILURES, vm="web-02", errno="ENOMEM", reason="extra_ref_plain") == 1
    assert seen.total(FAILURES) == 1
    check_nothing_lost(seen)


def test_scope_alone_tells_that_a_vm_is_libvirt_s(run: LabRun) -> None:
    seen = run.scenario("libvirt_scope")
    info = seen.workload["info"]["web-03"]
    assert info["platform"] == "libvirt"
    assert info["uuid"] == UUIDS["web-03"]
    assert seen.metric(PINS, vm="web-03", source="vfio_type1") > 0


def test_running_vms_are_found_again_after_a_restart(run: LabRun) -> None:
    result = run.result("restarted")
    assert result["code"] == result["second_code"] == 0
    assert sorted(result["running"]) == ["db-01", "instance-0000002a"]
    info = result["info"]
    assert set(info) == {"db-01", "instance-0000002a", "web-03"}
    for name in ("instance-0000002a", "web-03"):
        assert info[name] == result["before"][name]
    assert (info["db-01"]["uuid"], info["db-01"]["platform"]) == (UUIDS["db-01"], "libvirt")
