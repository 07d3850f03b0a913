"""Fleet: which hosts fail, why, and which will. Made of recording rules, so that it stays cheap."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards.generate.parts import (
    BAD_ABOVE_0,
    BAD_AT_0,
    DOUBTFUL_ABOVE_0,
    alerts,
    board,
    graph,
    listing,
    number,
    ranking,
)
from dashboards.generate.promql import FAILURES, SLOW, Query, count, over_time, total


def build(uid: str) -> Dashboard:
    made = board(
        uid,
        "Which hosts fail to pin memory of VMs, why, who was in the way, and which VMs will fail.",
        "HOSTS",
    )
    _now(made)
    _why(made)
    _will(made)
    return made


def _now(made: Dashboard) -> None:
    for panel in (
        number(
            "Failed pins",
            "Long-term pins that failed in the time range: VFIO and iommufd maps, and whatever "
            "else pins. Most of them are a VM that did not start or a device that did not come.",
            "short", count(FAILURES, "HOSTS"), steps=BAD_ABOVE_0,
        ),
        number(
            "Hosts that failed",
            "Hosts on which at least one long-term pin failed in the time range.",
            "short", f"count({total(FAILURES, 'job, instance', 'HOSTS')}) or vector(0)",
            steps=BAD_ABOVE_0,
        ),
        number(
            "Stuck pins",
            "Long-term pins that have not returned for more than a second, as of the last minute. "
            "A VM hangs in each.",
            "short", "sum(instance:pinwatch_longterm_pins_stuck:sum{HOSTS}) or vector(0)",
            steps=BAD_ABOVE_0,
        ),
        number(
            "VMs that would fail",
            "VMs of which a VFIO map of all guest memory may fail or will fail, if it came now.",
            "short", "sum(instance:pinwatch_vm_pin_at_risk:sum{HOSTS}) or vector(0)",
            steps=DOUBTFUL_ABOVE_0, width=3,
        ),
        number(
            "VMs", "VMs that pinwatch knows, on all chosen hosts.",
            "short", "sum(instance:pinwatch_vms:count{HOSTS}) or vector(0)", width=3,
        ),
        number(
            "Hosts watched",
            "Hosts where pinwatch answers Prometheus. With 0, all else here says nothing.",
            "short", "count(up{HOSTS} == 1) or vector(0)", steps=BAD_AT_0, width=3,
        ),
        number(
            "Hosts not watched",
            "Hosts where pinwatch does not answer Prometheus: what fails there is not seen. A host "
            "that Prometheus is not told to ask is in neither number.",
            "short", "count(up{HOSTS} == 0) or vector(0)", steps=BAD_ABOVE_0, width=3,
        ),
    ):  # fmt: skip
        made.with_panel(panel)
    made.with_panel(
        listing(
            "Where pins failed",
            "Failed long-term pins of the time range by host, VM, source and reason, with who was "
            "in the way. Host and VM lead to their dashboards; reasons and holders are explained "
            "in docs/reasons.md.",
            "short",
            f"{total(FAILURES, 'instance, vm, source, reason, holder', 'HOSTS')} > 0",
            ("instance", "vm", "source", "reason", "holder"),
            "Failed",
            width=14,
        )
    )
    made.with_panel(alerts(10, "HOSTS"))


def _why(made: Dashboard) -> None:
    made.with_row(Row("Why"))
    made.with_panel(
        graph(
            "Failed pins by reason",
            "How many long-term pins failed in each step, by the reason that the kernel had.",
            "short", Query(over_time(FAILURES, "reason", "HOSTS"), "{{reason}}"), counted=True,
        )
    )  # fmt: skip
    made.with_panel(
        ranking(
            "Who was in the way",
            "Failed long-term pins of the time range by what held the page. `none`: the reason is "
            "not about references; `unknown`: nothing that pinwatch watches held it.",
            "short", Query(total(FAILURES, "holder", "HOSTS"), "{{holder}}"), width=6,
        )
    )  # fmt: skip
    made.with_panel(
        ranking(
            "Slow pins",
            "Long-term pins of the time range that worked and took long, by where the time went. A "
            "cause that grows today is a failure tomorrow.",
            "short", Query(total(SLOW, "cause", "HOSTS"), "{{cause}}"), width=6,
        )
    )  # fmt: skip


def _will(made: Dashboard) -> None:
    made.with_row(Row("What will fail"))
    made.with_panel(
        listing(
            "Hosts by VMs at risk",
            "For each host: VMs whose next VFIO map may or will fail, the least headroom of any "
            "VM (below 0: the kernel must reclaim first), the most that one VM needs, and what is "
            "free in zones where pins may lie.",
            "short",
            "sum by (instance) (instance:pinwatch_vm_pin_at_risk:sum{HOSTS})",
            ("instance",),
            "VMs at risk",
            also={
                "Least headroom": (
                    "min by (instance) (instance:pinwatch_vm_pin_headroom_bytes:min{HOSTS})",
                    "bytes",
                ),
                "Largest need": (
                    "max by (instance) (instance:pinwatch_vm_pin_need_bytes:max{HOSTS})", "bytes"),
                "Free for pins": (
                    "sum by (instance) (instance:pinwatch_host_unmovable_usable_bytes:sum{HOSTS})",
                    "bytes",
                ),
            },
        )
    )  # fmt: skip
    made.with_panel(
        ranking(
            "What stands against pins",
            "VMs by what stands against a pin of their memory now. Each risk is explained in "
            "docs/forecast.md; `will_fail` stops the pin, `at_risk` may.",
            "short",
            Query(
                "sum by (risk, verdict) (instance_risk_verdict:pinwatch_vm_pin_risk:sum{HOSTS})",
                "{{risk}} ({{verdict}})",
            ),
            width=12,
        )
    )
    made.with_panel(
        graph(
            "VMs at risk",
            "VMs whose next VFIO map may or will fail, by host: the ten hosts with the most.",
            "short",
            Query(
                "topk(10, sum by (instance) (instance:pinwatch_vm_pin_at_risk:sum{HOSTS}))",
                "{{instance}}",
            ),
        )
    )
    made.with_panel(
        graph(
            "Free for pins",
            "Free memory in kernel zones outside of CMA, where alone pinned pages may lie: the ten "
            "hosts with the least.",
            "bytes",
            Query(
                "bottomk(10, sum by (instance) "
                "(instance:pinwatch_host_unmovable_usable_bytes:sum{HOSTS}))",
                "{{instance}}",
            ),
        )
    )
