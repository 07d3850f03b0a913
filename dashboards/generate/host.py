"""Host: zones, CMA, migrations, hooks, losses, cost."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards.generate.parts import (
    BAD_ABOVE_0,
    BAD_BELOW_0,
    DOUBTFUL_ABOVE_0,
    alerts,
    board,
    buckets,
    graph,
    listing,
    number,
)
from dashboards.generate.promql import FAILURES, SLOW, Query, count, grown, over_time, total


def build(uid: str) -> Dashboard:
    made = board(
        uid,
        "One host: what failed, what memory there is for pins, what moves, and what watching "
        "costs.",
        "HOST",
    )
    _now(made)
    _pins(made)
    _memory(made)
    _moves(made)
    _watching(made)
    return made


def _now(made: Dashboard) -> None:
    for panel in (
        number(
            "Failed pins", "Long-term pins that failed on this host in the time range.",
            "short", count(FAILURES, "HOST"), steps=BAD_ABOVE_0,
        ),
        number(
            "Stuck pins", "Long-term pins that have not returned for more than a second, now.",
            "short", "sum(pinwatch_longterm_pins_stuck{HOST}) or vector(0)", steps=BAD_ABOVE_0,
        ),
        number(
            "VMs that would fail",
            "VMs of which a VFIO map of all guest memory may fail or will fail, if it came now.",
            "short", "sum(instance:pinwatch_vm_pin_at_risk:sum{HOST}) or vector(0)",
            steps=DOUBTFUL_ABOVE_0,
        ),
        number(
            "Least headroom",
            "Of all VMs, the least that is free for a pin of all their memory beyond what that "
            "needs. Below 0 the kernel must reclaim first.",
            "bytes", "min(instance:pinwatch_vm_pin_headroom_bytes:min{HOST})", steps=BAD_BELOW_0,
        ),
        number(
            "CMA failures",
            "Contiguous allocations that a CMA area could not give, in the time range.",
            "short", "round(sum(increase(pinwatch_cma_alloc_failures_total{HOST}[$__range])))"
            " or vector(0)", steps=DOUBTFUL_ABOVE_0,
        ),
        number(
            "Losses",
            "What pinwatch could not deliver or read in the time range. Above 0, all counters are "
            "lower bounds.",
            "short", "round(sum(increase(pinwatch_losses_total{HOST}[$__range]))) or vector(0)",
            steps=DOUBTFUL_ABOVE_0,
        ),
    ):  # fmt: skip
        made.with_panel(panel)
    made.with_panel(
        listing(
            "VMs that failed",
            "Failed long-term pins of the time range by VM, source and reason, with who was in the "
            "way. On the host, `pinwatch why VM` shows the page and what to do.",
            "short",
            f"{total(FAILURES, 'instance, vm, source, reason, holder', 'HOST')} > 0",
            ("instance", "vm", "source", "reason", "holder"),
            "Failed",
            width=14,
        )
    )
    made.with_panel(alerts(10, "HOST"))


def _pins(made: Dashboard) -> None:
    made.with_row(Row("Pins"))
    for panel in (
        graph(
            "Failed pins by reason",
            "How many long-term pins failed in each step, by the reason that the kernel had.",
            "short", Query(over_time(FAILURES, "reason", "HOST"), "{{reason}}"), counted=True,
        ),
        graph(
            "Slow pins by cause",
            "Long-term pins that worked and took long or started again often, by where the time "
            "went.",
            "short", Query(over_time(SLOW, "cause", "HOST"), "{{cause}}"), counted=True,
        ),
        graph(
            "Pins",
            "Long-term pins a second, failed ones included, by who asks for them.",
            "ops",
            Query("sum by (source) (rate(pinwatch_longterm_pins_total{HOST}[$__rate_interval]))",
                  "{{source}}"),
        ),
        graph(
            "How long pins take",
            "Half and 99 of 100 long-term pins return within this time, by result. Each dot is one "
            "that failed or was slow: `pinwatch why --event ID` on the host tells all of it.",
            "s",
            *(
                Query(
                    f"histogram_quantile({quantile}, sum by (le, result) (rate("
                    "pinwatch_longterm_pin_duration_seconds_bucket{HOST}[$__rate_interval])))",
                    f"{{{{result}}}} p{quantile * 100:g}",
                )
                for quantile in (0.5, 0.99)
            ),
            events=True,
        ),
        buckets(
            "How long pins took",
            "Long-term pins by how long they took. Buckets are powers of two of a nanosecond.",
            "sum by (le) (increase("
            "pinwatch_longterm_pin_duration_seconds_bucket{HOST}[$__rate_interval]))",
            width=24,
        ),
    ):  # fmt: skip
        made.with_panel(panel)


def _memory(made: Dashboard) -> None:
    made.with_row(Row("Memory, and who may pin in it"))
    for panel in (
        graph(
            "Free memory by who may have it",
            "Free memory of the host. Only `unmovable_usable` serves pins; `movable` "
            "(ZONE_MOVABLE) and `cma` never do, however much of them is free.",
            "bytes",
            Query("sum by (kind) (pinwatch_host_free_bytes{HOST})", "{{kind}}"), stacked=True,
        ),
        graph(
            "Guest memory by zone",
            "Resident memory of the host's VMs by the zone where it lies. What lies in Movable or "
            "in CMA must move before it can be pinned.",
            "bytes",
            Query("sum by (zone, cma) (pinwatch_vm_memory_bytes{HOST})", "{{zone}}, CMA: {{cma}}"),
            stacked=True,
        ),
        listing(
            "VMs by headroom",
            "For each VM: what is free for a pin of all its memory beyond the need, what must move "
            "first, what must be allocated, and whether it is at risk (1) now.",
            "bytes",
            "min by (instance, vm) (pinwatch_vm_pin_headroom_bytes{HOST})",
            ("instance", "vm"),
            "Headroom",
            also={
                "Must move": (
                    "max by (instance, vm) (pinwatch_vm_pin_must_move_bytes{HOST})", "bytes"),
                "Must allocate": (
                    "max by (instance, vm) (pinwatch_vm_pin_must_allocate_bytes{HOST})", "bytes"),
                "At risk": ("max by (instance, vm) (pinwatch_vm_pin_at_risk{HOST})", "short"),
            },
            least_first=True,
        ),
        listing(
            "Free memory by zone",
            "Free memory by NUMA node and zone, and who may have it.",
            "bytes",
            "sum by (node, zone, kind) (pinwatch_host_free_bytes{HOST})",
            ("node", "zone", "kind"),
            "Free",
        ),
    ):  # fmt: skip
        made.with_panel(panel)


def _moves(made: Dashboard) -> None:
    made.with_row(Row("CMA, migrations, huge pages"))
    for panel in (
        graph(
            "CMA allocation failures",
            "Contiguous allocations that a CMA area could not give. Who needed them (a driver, "
            "hugetlb_cma) did without or failed.",
            "short",
            Query(grown("pinwatch_cma_alloc_failures_total", "area", "HOST"), "{{area}}"), width=8,
        ),
        graph(
            "Pages that could not be migrated",
            "Base pages a second that the whole host tried to move and could not, by the kernel's "
            "own reason. Compaction fails all the time; `longterm_pin` matters here.",
            "ops",
            Query(
                "sum by (migrate_reason) (rate(pinwatch_host_migrations_total"
                '{HOST, result="failed"}[$__rate_interval]))', "{{migrate_reason}}"),
            width=8,
        ),
        graph(
            "Pages that were migrated",
            "Base pages a second that the whole host moved, by the kernel's own reason.",
            "ops",
            Query(
                "sum by (migrate_reason) (rate(pinwatch_host_migrations_total"
                '{HOST, result="ok"}[$__rate_interval]))', "{{migrate_reason}}"),
            width=8,
        ),
        graph(
            "Huge pages that could not be split",
            "Refused splits of huge pages a second on the whole host, by errno; EAGAIN is tried "
            "again and each try counts. A pin needs a split where no huge block is free.",
            "ops",
            Query(
                "sum by (errno) (rate("
                "pinwatch_host_thp_split_failures_total{HOST}[$__rate_interval]))", "{{errno}}"),
            width=8,
        ),
        listing(
            "CMA areas",
            "CMA areas and their size. What lies in one must move before it can be pinned; what is "
            "free in them is the kind `cma` above.",
            "bytes",
            "4096 * sum by (area) (pinwatch_cma_area_pages{HOST})",
            ("area",), "Size", width=8,
        ),
        graph(
            "Pages moved for pins",
            "Base pages a second that had to leave ZONE_MOVABLE or CMA for a pin, and did, by VM: "
            "the ten VMs with the most.",
            "ops",
            Query(
                "topk(10, sum by (vm) (rate("
                "pinwatch_pin_migrated_pages_total{HOST}[$__rate_interval])))", "{{vm}}"),
            width=8,
        ),
    ):  # fmt: skip
        made.with_panel(panel)


def _watching(made: Dashboard) -> None:
    made.with_row(Row("Can these numbers be trusted, and what do they cost?"))
    for panel in (
        listing(
            "Hooks that are off",
            "Places in the kernel that pinwatch does not watch on this host. Without a kernel "
            "function, this kernel has no such place; `waiting`: its module is not loaded; `off` "
            "with a function is refused by the kernel and raises an alert.",
            "none",
            "max by (hook, symbol, mode) (pinwatch_hook_attached{HOST}) == 0",
            ("hook", "symbol", "mode"), "Attached", width=8, shown=False,
        ),
        graph(
            "Losses",
            "What could not be delivered or read, by kind (docs/metrics.md). While this grows, "
            "other counters are lower bounds.",
            "short", Query(grown("pinwatch_losses_total", "kind", "HOST"), "{{kind}}"), width=8,
        ),
        graph(
            "Cost",
            "CPU seconds a second of the daemon, and of that what looking at VMs' memory takes.",
            "percentunit",
            Query("sum(rate(process_cpu_seconds_total{HOST}[$__rate_interval]))", "daemon"),
            Query("sum(rate(pinwatch_placement_cpu_seconds_total{HOST}[$__rate_interval]))",
                  "looking"),
            width=8,
        ),
    ):  # fmt: skip
        made.with_panel(panel)
