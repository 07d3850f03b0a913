"""VM: pins, placement, hints, failures, forecast."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards.generate.parts import (
    BAD_ABOVE_0,
    BAD_BELOW_0,
    DOUBTFUL_ABOVE_0,
    board,
    graph,
    listing,
    number,
)
from dashboards.generate.promql import FAILURES, SLOW, Query, grown, or_0, over_time, total

# Two hosts may have VMs of one name, and one that migrates is on two: everything is by host.
BY_HOST = "{{instance}}"


def build(uid: str) -> Dashboard:
    made = board(
        uid,
        "One VM: what it pinned, what failed and why, where its memory lies, what its VMM said of "
        "it, and whether the next pin would work. VMs of one name on several hosts stay apart.",
        "VM",
    )
    _now(made)
    _pins(made)
    _forecast(made)
    _memory(made)
    return made


def _grown(metric: str, *by: str) -> str:
    return grown(metric, ", ".join(("instance", *by)), "VM")


def _now(made: Dashboard) -> None:
    for panel in (
        number(
            "Failed pins", "Long-term pins of this VM that failed in the time range.",
            "short", or_0(total(FAILURES, "instance", "VM")), steps=BAD_ABOVE_0, legend=BY_HOST,
        ),
        number(
            "Stuck pins",
            "Long-term pins of this VM that have not returned for more than a second, now.",
            "short", or_0("sum by (instance) (pinwatch_longterm_pins_stuck{VM})"),
            steps=BAD_ABOVE_0, legend=BY_HOST,
        ),
        number(
            "Would fail now",
            "1 if a VFIO map of all guest memory may fail or will fail, if it came now; nothing "
            "while pinwatch has not looked at its memory.",
            "short", "max by (instance) (pinwatch_vm_pin_at_risk{VM})", steps=DOUBTFUL_ABOVE_0,
            legend=BY_HOST,
        ),
        number(
            "Headroom",
            "What is free for a pin of all its memory beyond what that needs. Below 0 the kernel "
            "must reclaim first.",
            "bytes", "min by (instance) (pinwatch_vm_pin_headroom_bytes{VM})", steps=BAD_BELOW_0,
            legend=BY_HOST,
        ),
        number(
            "Slow pins", "Long-term pins of this VM that worked and took long, in the time range.",
            "short", or_0(total(SLOW, "instance", "VM")), steps=DOUBTFUL_ABOVE_0, legend=BY_HOST,
        ),
        number(
            "Last look",
            "How long ago pinwatch looked at where this VM's memory lies.",
            "s", "max by (instance) (time() - pinwatch_vm_placement_timestamp_seconds{VM})",
            legend=BY_HOST,
        ),
    ):  # fmt: skip
        made.with_panel(panel)
    made.with_panel(
        listing(
            "What failed, and why",
            "Failed long-term pins of the time range by source, reason and who was in the way. "
            "`pinwatch why VM` on the host shows the page and what to do.",
            "short",
            f"{total(FAILURES, 'instance, vm, source, reason, holder', 'VM')} > 0",
            ("instance", "vm", "source", "reason", "holder"),
            "Failed",
        )
    )
    made.with_panel(
        listing(
            "What stands against its next pin",
            "Risks that hold now, each explained in docs/forecast.md. `will_fail` stops the pin, "
            "`at_risk` may. Empty when a pin should work.",
            "none",
            "max by (instance, vm, risk, verdict) (pinwatch_vm_pin_risk{VM}) == 1",
            ("instance", "vm", "risk", "verdict"),
            "Holds",
            shown=False,
        )
    )


def _pins(made: Dashboard) -> None:
    made.with_row(Row("Pins"))
    for panel in (
        graph(
            "Failed pins by reason",
            "How many long-term pins failed in each step, by the reason that the kernel had.",
            "short",
            Query(over_time(FAILURES, "instance, reason", "VM"), "{{reason}} on {{instance}}"),
            counted=True,
        ),
        graph(
            "Failed pins and their events",
            "Long-term pins that failed lately, by who asked and what was in the way. Each dot is "
            "one of them: `pinwatch why --event ID` on the host tells all of it.",
            "short",
            Query(_grown("pinwatch_longterm_pin_failures_total", "source", "reason", "holder"),
                  "{{source}}: {{reason}}, {{holder}} on {{instance}}"),
            events=True,
        ),
        graph(
            "Pins",
            "Long-term pins lately, failed ones included, by who asked for them.",
            "short",
            Query(_grown("pinwatch_longterm_pins_total", "source"), "{{source}} on {{instance}}"),
            width=8,
        ),
        graph(
            "Pinned",
            "What successful long-term pins covered lately, by who asked.",
            "bytes",
            Query(f"4096 * {_grown('pinwatch_longterm_pinned_pages_total', 'source')}",
                  "{{source}} on {{instance}}"),
            width=8,
        ),
        graph(
            "Moved for pins",
            "What had to leave ZONE_MOVABLE or CMA for a pin lately, and did.",
            "bytes",
            Query(f"4096 * {_grown('pinwatch_pin_migrated_pages_total')}", BY_HOST),
            width=8,
        ),
        graph(
            "Folios that could not move",
            "Folios that stayed where they may not be pinned, by what kept them, zone and order.",
            "short",
            Query(_grown("pinwatch_pin_migration_failed_folios_total", "reason", "zone", "order"),
                  "{{reason}} in {{zone}}, order {{order}} on {{instance}}"),
        ),
        graph(
            "Refused splits of huge pages",
            "Splits that the kernel refused in failed pins of this VM, by errno; EAGAIN is tried "
            "again and each try counts.",
            "short",
            Query(_grown("pinwatch_thp_split_failures_total", "errno"),
                  "{{errno}} on {{instance}}"),
        ),
    ):  # fmt: skip
        made.with_panel(panel)


def _forecast(made: Dashboard) -> None:
    made.with_row(Row("Would the next pin work?"))
    for panel in (
        graph(
            "What a pin needs, and what there is",
            "Guest memory that must move out of ZONE_MOVABLE or CMA, and that must be allocated, "
            "both at most; and what is free where its pins may lie.",
            "bytes",
            Query("sum by (instance) (pinwatch_vm_pin_must_move_bytes{VM})",
                  "must move on {{instance}}"),
            Query("sum by (instance) (pinwatch_vm_pin_must_allocate_bytes{VM})",
                  "must allocate on {{instance}}"),
            Query("min by (instance) (pinwatch_vm_pin_available_bytes{VM})",
                  "available on {{instance}}"),
        ),
        graph(
            "Headroom",
            "What is free for a pin of all its memory beyond what that needs at most.",
            "bytes",
            Query("min by (instance) (pinwatch_vm_pin_headroom_bytes{VM})", BY_HOST),
        ),
    ):  # fmt: skip
        made.with_panel(panel)


def _memory(made: Dashboard) -> None:
    made.with_row(Row("Its memory, and who it is"))
    for panel in (
        graph(
            "Guest memory by place",
            "Resident guest memory by NUMA node, zone and CMA, from a sample of its pages.",
            "bytes",
            Query("sum by (instance, node, zone, cma) (pinwatch_vm_memory_bytes{VM})",
                  "node {{node}}, {{zone}}, CMA: {{cma}} on {{instance}}"),
            stacked=True, width=8,
        ),
        graph(
            "Guest memory by page size",
            "Resident guest memory by the size of its pages.",
            "bytes",
            Query("sum by (instance, size) (pinwatch_vm_memory_bytes{VM})",
                  "{{size}} on {{instance}}"),
            stacked=True, width=8,
        ),
        graph(
            "How sure that is",
            "What any sum of the two may be off, as a part of what is resident, with 95 % "
            "confidence. 0: every page was looked at.",
            "percentunit",
            Query("max by (instance) (pinwatch_vm_placement_error_ratio{VM})", BY_HOST), width=8,
        ),
        listing(
            "What the VMM said of the memory",
            "Hints on ranges of 16 MiB and more since the VM is known. A hint that came after the "
            "memory was there changes nothing of what is there (docs/hints.md).",
            "short",
            "sum by (instance, hint, timing, errno) (pinwatch_vm_hints_total{VM})",
            ("instance", "hint", "timing", "errno"), "Times", width=8,
        ),
        listing(
            "Devices", "Devices that VFIO gave to the VM, each with its IOMMU group.",
            "none",
            "max by (instance, device, driver, iommu_group) (pinwatch_vm_device_info{VM})",
            ("instance", "device", "driver", "iommu_group"), "Given", width=6, shown=False,
        ),
        listing(
            "Who it is", "What is known of the VM, and what its name was taken from.",
            "none",
            "max by (instance, vm, uuid, platform, vmm, basis, alias, project, pod) "
            "(pinwatch_vm_info{VM})",
            ("instance", "vm", "uuid", "platform", "vmm", "basis", "alias", "project", "pod"),
            "Known", width=10, shown=False,
        ),
    ):  # fmt: skip
        made.with_panel(panel)
