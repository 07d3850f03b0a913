"""The metrics: one catalogue of names, labels and help, and a snapshot turned into families.

Takes a Snapshot, gives prometheus_client families; opens nothing and computes no rates. Families
with series for each VM are left to expose/exposition.py, which writes many lines fast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from pinwatch import __version__
from pinwatch.model.failure import StuckPin
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.placement import PAGE_BYTES, FreeMemory
from pinwatch.model.reason import FailureReason
from pinwatch.model.sample import Durations
from pinwatch.model.snapshot import Labels, Snapshot


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric as documented and exposed."""

    name: str
    labels: tuple[str, ...]
    help: str


VM_COUNTERS = (
    MetricSpec(
        "pinwatch_longterm_pins_total",
        ("vm", "source"),
        "Long-term pin operations, failed ones included: a VFIO map is one.",
    ),
    MetricSpec(
        "pinwatch_longterm_pin_failures_total",
        ("vm", "source", "reason", "holder"),
        "Long-term pin operations that failed, by reason and by who was in the way.",
    ),
    MetricSpec(
        "pinwatch_longterm_pinned_pages_total",
        ("vm", "source"),
        "Base pages that successful long-term pin operations pinned.",
    ),
    MetricSpec(
        "pinwatch_vfio_map_failures_total",
        ("vm", "errno", "reason"),
        "VFIO_IOMMU_MAP_DMA calls that failed, by the errno that the VMM got and the reason.",
    ),
    MetricSpec(
        "pinwatch_pin_migrated_pages_total",
        ("vm",),
        "Base pages that had to be moved out of ZONE_MOVABLE or CMA for a pin, and were.",
    ),
    MetricSpec(
        "pinwatch_pin_migration_failed_folios_total",
        ("vm", "reason", "zone", "order"),
        "Folios that could not be moved for a pin.",
    ),
    MetricSpec(
        "pinwatch_thp_split_failures_total",
        ("vm", "errno"),
        "Huge pages that a pin could not split; EAGAIN is tried several times, each counts.",
    ),
    MetricSpec(
        "pinwatch_vm_hints_total",
        ("vm", "hint", "timing", "errno"),
        "What the VMM said of the VM's memory (ranges of 16 MiB and more), and whether that came "
        "before the memory was there.",
    ),
    MetricSpec(
        "pinwatch_longterm_slow_pins_total",
        ("vm", "source", "cause"),
        "Long-term pin operations that worked, but took longer than slow_pin_seconds or started "
        "again more than slow_pin_loops times, by where most of the time went.",
    ),
)
HOST_COUNTERS = (
    MetricSpec(
        "pinwatch_vms_folded_total",
        (),
        'VMs that were counted under vm="~other", because max_vms others had series of their own.',
    ),
    MetricSpec(
        "pinwatch_process_rescans_total",
        (),
        "How often all processes were looked up, because more of them started and ended than the "
        "kernel could tell.",
    ),
    MetricSpec(
        "pinwatch_host_migrations_total",
        ("migrate_reason", "result"),
        "Base pages that the whole host migrated, by the kernel's reason.",
    ),
    MetricSpec(
        "pinwatch_host_thp_split_failures_total",
        ("errno",),
        "Huge pages of the whole host that could not be split, retries included.",
    ),
    MetricSpec(
        "pinwatch_cma_alloc_failures_total",
        ("area",),
        "Contiguous allocations that a CMA area could not give.",
    ),
)
STUCK = MetricSpec(
    "pinwatch_longterm_pins_stuck",
    ("vm", "source", "state"),
    "Long-term pins that have not returned for more than a second: isolation_livelock starts again "
    "and again, the others wait.",
)
DURATION = MetricSpec(
    "pinwatch_longterm_pin_duration_seconds",
    ("source", "result"),
    "How long long-term pin operations took. Bucket edges are powers of two of a nanosecond.",
)
VM_INFO = MetricSpec(
    "pinwatch_vm",
    ("vm", "uuid", "platform", "vmm", "basis", "alias", "project", "pod"),
    "What is known of a VM, and what its name was taken from; always 1.",
)
VM_DEVICE = MetricSpec(
    "pinwatch_vm_device",
    ("vm", "device", "driver", "iommu_group"),
    "A device that VFIO gave to a VM; always 1.",
)
VM_MEMORY = MetricSpec(
    "pinwatch_vm_memory_bytes",
    ("vm", "node", "zone", "cma", "size"),
    "Resident guest memory of a VM by where it lies, from a sample of /proc/PID/pagemap: node, "
    "zone, whether in a CMA area, and size of its pages.",
)
VM_AT_RISK = MetricSpec(
    "pinwatch_vm_pin_at_risk",
    ("vm",),
    "1 when a VFIO map of all guest memory may fail or will fail now, 0 when it should work.",
)
VM_RISK = MetricSpec(
    "pinwatch_vm_pin_risk",
    ("vm", "risk", "verdict"),
    "What stands against a pin of a VM's memory (docs/forecast.md); 1 while it does.",
)
VM_HEADROOM = MetricSpec(
    "pinwatch_vm_pin_headroom_bytes",
    ("vm",),
    "What is free for a pin of all guest memory beyond what that needs; below 0 when it does not "
    "do without reclaim.",
)
VM_MOVE = MetricSpec(
    "pinwatch_vm_pin_must_move_bytes",
    ("vm",),
    "Guest memory in ZONE_MOVABLE or CMA, that a pin must move out first, at most.",
)
VM_ALLOCATE = MetricSpec(
    "pinwatch_vm_pin_must_allocate_bytes",
    ("vm",),
    "Guest memory that is not there yet, or that a pin replaces by a copy, at most.",
)
VM_AVAILABLE = MetricSpec(
    "pinwatch_vm_pin_available_bytes",
    ("vm",),
    "Free memory above the low watermarks where the VM's pins may lie: kernel zones without CMA, "
    "on the nodes that its cpuset allows.",
)
VM_LOOKED = MetricSpec(
    "pinwatch_vm_placement_timestamp_seconds", ("vm",), "When a VM's memory was last looked at."
)
VM_ERROR = MetricSpec(
    "pinwatch_vm_placement_error_ratio",
    ("vm",),
    "Of resident guest memory: what sums of pinwatch_vm_memory_bytes may be off, with 95 % "
    "confidence.",
)
VM_GAUGES = (
    VM_MEMORY,
    VM_AT_RISK,
    VM_RISK,
    VM_HEADROOM,
    VM_MOVE,
    VM_ALLOCATE,
    VM_AVAILABLE,
    VM_LOOKED,
    VM_ERROR,
)
FREE = MetricSpec(
    "pinwatch_host_free_bytes",
    ("node", "zone", "kind"),
    "Free memory by who may have it: unmovable_usable is for pins too, movable and cma are not.",
)
LOOKING = MetricSpec(
    "pinwatch_placement_cpu_seconds_total",
    (),
    "CPU time spent looking at where VMs' memory lies; placement_cpu_percent bounds it.",
)
CMA = MetricSpec(
    "pinwatch_cma_area_pages", ("area",), "Base pages of a CMA area (the kernel's cma_areas)."
)
HOOK = MetricSpec(
    "pinwatch_hook_attached",
    ("hook", "symbol", "mode"),
    "1 when the place in the kernel is watched, 0 when not (`pinwatch doctor` says why).",
)
LOSSES = MetricSpec(
    "pinwatch_losses_total",
    ("kind",),
    "What could not be delivered or read; other counters are lower bounds while this grows.",
)
RECONCILIATION = MetricSpec(
    "pinwatch_kernel_reconciliation_pages",
    ("counter",),
    "Our sum minus the kernel's own /proc/vmstat counter since the daemon started; 0 is right.",
)
SAMPLED = MetricSpec(
    "pinwatch_sample_timestamp_seconds",
    (),
    "When the kernel's counters were read that all other metrics are made of.",
)
REFUSED = MetricSpec(
    "pinwatch_http_requests_refused_total",
    (),
    "Requests that got a 503, because too many others were being answered.",
)
BROKEN = MetricSpec(
    "pinwatch_http_connections_broken_total",
    (),
    "Connections that ended before they were answered: clients that broke off, or spoke no TLS.",
)
HISTORY_WRITABLE = MetricSpec(
    "pinwatch_history_writable",
    (),
    "1 when the history takes what happens, 0 when the disk refuses.",
)
HISTORY_BYTES = MetricSpec(
    "pinwatch_history_size_bytes", (), "Of the history, without what is free inside its file."
)
HISTORY_EVENTS = MetricSpec(
    "pinwatch_history_events", (), "Failed and slow pins that the history holds."
)
BUILD = MetricSpec(
    "pinwatch_build", ("version", "kernel"), "Version of pinwatch and of the kernel."
)

# What the daemon adds that is in no snapshot, and so in no recording.
OF_THE_DAEMON = (REFUSED, BROKEN, HISTORY_WRITABLE, HISTORY_BYTES, HISTORY_EVENTS)
COUNTERS = (*VM_COUNTERS, *HOST_COUNTERS)
CATALOGUE = (
    *COUNTERS,
    STUCK,
    DURATION,
    VM_INFO,
    VM_DEVICE,
    *VM_GAUGES,
    FREE,
    LOOKING,
    CMA,
    HOOK,
    LOSSES,
    RECONCILIATION,
    SAMPLED,
    *OF_THE_DAEMON,
    BUILD,
)

FIRST_SLOT = 10  # 1 µs: nothing shorter is worth a bucket


def host_families(snapshot: Snapshot, facts: KernelFacts) -> Iterator[Metric]:
    """What has no series for each VM."""
    for spec in HOST_COUNTERS:
        yield counter_family(spec, snapshot.host_counters.get(spec.name, {}))
    yield gauge_family(FREE, free_bytes(snapshot.free))
    yield counter_family(LOOKING, {(): snapshot.looking_cpu_s})
    areas = facts.cma_areas or {}
    yield gauge_family(
        CMA, {(name,): sum(end - start for start, end in of) for name, of in areas.items()}
    )
    yield _stuck(snapshot)
    yield _durations(snapshot.durations)
    yield gauge_family(
        HOOK, {(h.hook, h.symbol, str(h.mode)): int(h.attached) for h in snapshot.hooks}
    )
    yield counter_family(LOSSES, {(kind,): n for kind, n in snapshot.losses.items()})
    yield gauge_family(RECONCILIATION, {(n,): d for n, d in snapshot.reconciliation.items()})
    yield GaugeMetricFamily(SAMPLED.name, SAMPLED.help, value=snapshot.time_s)
    yield InfoMetricFamily(
        BUILD.name, BUILD.help, value={"version": __version__, "kernel": facts.release}
    )


def counter_family(spec: MetricSpec, values: Mapping[Labels, float]) -> CounterMetricFamily:
    """A family of counters, by the values of all its labels."""
    family = CounterMetricFamily(spec.name, spec.help, labels=spec.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def gauge_family(spec: MetricSpec, values: Mapping[Labels, float]) -> GaugeMetricFamily:
    """A family of gauges, in the same way."""
    family = GaugeMetricFamily(spec.name, spec.help, labels=spec.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def free_bytes(host: FreeMemory | None) -> dict[Labels, float]:
    """Free bytes by node, zone and who may have them."""
    values: dict[Labels, float] = {}
    for zone in host.zones if host else ():
        kind = "unmovable_usable" if zone.pinnable else "movable"
        values[str(zone.node), zone.name, kind] = (zone.free - zone.free_cma) * PAGE_BYTES
        if zone.cma:
            values[str(zone.node), zone.name, "cma"] = zone.free_cma * PAGE_BYTES
    return values


def _stuck(snapshot: Snapshot) -> GaugeMetricFamily:
    states = Counter[Labels](
        (s.vm.label, str(s.pin.source), stuck_state(s)) for s in snapshot.stuck
    )
    return gauge_family(STUCK, states)


def stuck_state(stuck: StuckPin) -> str:
    """isolation_livelock, or what it waits for; `working` when it is just long."""
    if stuck.livelock:
        return FailureReason.ISOLATION_LIVELOCK
    return stuck.pin.wait or "working"


def _durations(durations: tuple[Durations, ...]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(DURATION.name, DURATION.help, labels=DURATION.labels)
    for histogram in durations:
        result = "failed" if histogram.failed else "ok"
        family.add_metric(
            (histogram.source, result), buckets(histogram.slots), histogram.sum_ns / 1e9
        )
    return family


def buckets(slots: tuple[int, ...]) -> list[tuple[str, float]]:
    """Cumulative buckets; slot n holds durations of at most 2^n ns."""
    found, count = [], 0
    for slot, amount in enumerate(slots):
        count += amount
        if slot >= FIRST_SLOT and slot < len(slots) - 1:
            found.append((repr(2**slot / 1e9), float(count)))
    return [*found, ("+Inf", float(count))]
