"""The DaemonSet's container, run by a real OCI runtime on a host, against VMs in pods."""

from __future__ import annotations

import json

from tests.lab import oci
from tests.lab.conftest import LabRun, as_json, in_guest
from tests.lab.inside.oci import POD
from tests.lab.outcome import Status

container = in_guest("oci", "6.12", full=("6.1", "7.2"))


ABSENT = "this kernel has none of"


@container
def test_it_has_what_the_manifest_gives_it_and_no_more(run: LabRun) -> None:
    assert run.outcome.status is Status.FINISHED, str(run.outcome)
    status = run.result("without")["status"]
    add = oci.daemon_set()["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    held = int(status["CapEff"], 16)
    assert held.bit_count() == len(add["capabilities"]["add"])
    assert {int(status[name], 16) for name in ("CapBnd", "CapPrm")} == {held}
    assert {int(status[name], 16) for name in ("CapInh", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    shared = {
        name for name in ("pid", "net", "mnt", "cgroup", "ipc") if status[f"ns_{name}"] == "True"
    }
    assert shared == {"pid", "net"}


@container
def test_nothing_is_refused(run: LabRun) -> None:
    found = run.result("without")
    attached = [n for name, n in found["metrics"].items() if "hook_attached" in name and n]
    assert len(attached) > 40
    assert found["doctor"]["code"] == 0, as_json(found["doctor"])
    checks = json.loads(found["doctor"]["stdout"])
    refused = [one for one in checks if one["verdict"] != "ok" and ABSENT not in one["detail"]]
    assert not refused, as_json(refused)


@container
def test_nothing_is_lost(run: LabRun) -> None:
    found = run.result("without")
    lost = run.lost(found["metrics"])
    assert not lost, as_json(lost)
    assert found["code"] == 0
    assert found["history"] > 0


@container
def test_a_vm_that_fails_is_named_with_its_reason(run: LabRun) -> None:
    found = run.result("without")
    work = found["failing"]
    assert work["exit_code"] == 1, work["stderr"]
    assert "Cannot allocate memory" in work["stderr"]
    (failure,) = json.loads(found["why"]["stdout"])
    vm = failure["vm"]
    assert (vm["name"], vm["platform"], vm["pod"]) == ("shop_web-01", "kubevirt", POD)
    assert (vm["alias"], vm["project"]) == ("web-01", "shop")
    assert failure["reason"] == "extra_ref_plain"
    assert failure["primary"]["facts"]["zone"] == "Movable"
    assert failure["holder"]["tgid"] == work["holder_pid"]
    assert [device["address"] for device in failure["devices"]] == [work["bdf"]]
    assert found["metrics"][
        'pinwatch_vfio_map_failures_total{errno="ENOMEM",reason="extra_ref_plain",vm="shop_web-01"}'
    ] == 1  # fmt: skip


@container
def test_a_vm_of_another_user_is_known_and_looked_at(run: LabRun) -> None:
    """As soon as it starts; and that its cgroup, of which the container is shown half the path, has
    not room for what it would pin."""
    found = run.result("without")
    quiet = found["quiet"]
    assert quiet["seen_s"] is not None
    # It has pinned nothing: only the proc connector, or a rescan, can have told of it.
    assert found["metrics"]["pinwatch_process_rescans_total{}"] == 0
    assert quiet["looked_s"] is not None
    risks = [name for name in quiet["series"] if name.startswith("pinwatch_vm_pin_risk{")]
    assert any('risk="cgroup_limit"' in name for name in risks), as_json(quiet)
