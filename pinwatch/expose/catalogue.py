"""The catalogue of metrics: name, kind, labels, meaning, unit and source of each.

The text of HELP, docs/reference.md and the tests of dashboards and rules are made of this, and of
what labels.py says of their labels. Values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus's types, of those that are used."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


# Units of OpenMetrics, which stand at the end of a metric's name.
_UNITS = ("bytes", "seconds", "pages", "ratio")


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric as documented and exposed. The name of an info metric lacks its _info."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str  # sentences
    unit: str  # what one of it is
    source: str  # where the number comes from

    @property
    def exposed_name(self) -> str:
        """As queries name it; a histogram has _bucket, _count and _sum of it."""
        return f"{self.name}_info" if self.kind is Kind.INFO else self.name

    @property
    def help(self) -> str:
        """The text of HELP."""
        return f"{self.meaning} Unit: {self.unit}. Source: {self.source}."

    @property
    def open_unit(self) -> str:
        """For OpenMetrics, which knows only units that the name ends with; else empty."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in _UNITS and self.kind is not Kind.INFO else ""


# Sources that several have.
_PINS = "BPF where operations begin and end, and at __gup_longterm_locked()"
_FAILED_FOLIOS = "BPF at migrate_pages() and at what it calls when a folio stays"
_FORECAST = "placement, free memory and limits of the VM (docs/forecast.md)"
_PAGEMAP = "/proc/PID/pagemap and /proc/kpageflags, sampled"
_ZONEINFO = "/proc/zoneinfo"
_OWN = "the daemon"
_HISTORY = "the daemon's SQLite file"
_ALWAYS_1 = "none, it is always 1"

PINS = MetricSpec(
    "pinwatch_longterm_pins_total",
    Kind.COUNTER,
    ("vm", "source"),
    "Long-term pin operations, failed ones included: a VFIO map is one, however many pages it has.",
    "operations",
    _PINS,
)
PIN_FAILURES = MetricSpec(
    "pinwatch_longterm_pin_failures_total",
    Kind.COUNTER,
    ("vm", "source", "reason", "holder"),
    "Long-term pin operations that failed, by reason and by who was in the way.",
    "operations",
    _PINS,
)
PINNED_PAGES = MetricSpec(
    "pinwatch_longterm_pinned_pages_total",
    Kind.COUNTER,
    ("vm", "source"),
    "Pages that successful long-term pin operations pinned; of iommufd when they are mapped, also "
    "where they are pinned only when a device is attached.",
    "base pages",
    _PINS,
)
VFIO_MAP_FAILURES = MetricSpec(
    "pinwatch_vfio_map_failures_total",
    Kind.COUNTER,
    ("vm", "errno", "reason"),
    "VFIO_IOMMU_MAP_DMA calls that failed, by the errno that the VMM got and the reason.",
    "calls",
    "BPF at vfio_iommu_type1_ioctl()",
)
MIGRATED_PAGES = MetricSpec(
    "pinwatch_pin_migrated_pages_total",
    Kind.COUNTER,
    ("vm",),
    "Pages that had to be moved out of ZONE_MOVABLE or CMA for a pin, and were.",
    "base pages",
    "BPF at the tracepoint migrate:mm_migrate_pages",
)
FAILED_FOLIOS = MetricSpec(
    "pinwatch_pin_migration_failed_folios_total",
    Kind.COUNTER,
    ("vm", "reason", "zone", "order"),
    "Folios that could not be moved for a pin. Zone and order are unknown where a record holds no "
    "more of them (it holds four).",
    "folios",
    _FAILED_FOLIOS,
)
THP_SPLIT_FAILURES = MetricSpec(
    "pinwatch_thp_split_failures_total",
    Kind.COUNTER,
    ("vm", "errno"),
    "Splits of huge pages that were refused in pins that failed; EAGAIN is tried several times, "
    "each counts.",
    "refusals",
    "BPF at __folio_split(), or what this kernel has of that name",
)
HINTS = MetricSpec(
    "pinwatch_vm_hints_total",
    Kind.COUNTER,
    ("vm", "hint", "timing", "errno"),
    "What the VMM said of the VM's memory (ranges of 16 MiB and more), and whether that came "
    "before the memory was there.",
    "system calls",
    "BPF at the system calls (docs/hints.md)",
)
SLOW_PINS = MetricSpec(
    "pinwatch_longterm_slow_pins_total",
    Kind.COUNTER,
    ("vm", "source", "cause"),
    "Long-term pin operations that worked, but took longer than slow_pin_seconds or started "
    "again more than slow_pin_loops times, by where most of the time went.",
    "operations",
    _PINS,
)
VM_COUNTERS = (
    PINS,
    PIN_FAILURES,
    PINNED_PAGES,
    VFIO_MAP_FAILURES,
    MIGRATED_PAGES,
    FAILED_FOLIOS,
    THP_SPLIT_FAILURES,
    HINTS,
    SLOW_PINS,
)

FOLDED = MetricSpec(
    "pinwatch_vms_folded_total",
    Kind.COUNTER,
    (),
    'VMs that were counted under vm="~other", because max_vms others had series of their own.',
    "VMs",
    _OWN,
)
RESCANS = MetricSpec(
    "pinwatch_process_rescans_total",
    Kind.COUNTER,
    (),
    "How often all processes were looked up, because more of them started and ended than the "
    "kernel could tell. Nothing is lost by it.",
    "rescans",
    "ENOBUFS of the proc connector's socket",
)
MIGRATIONS = MetricSpec(
    "pinwatch_host_migrations_total",
    Kind.COUNTER,
    ("migrate_reason", "result"),
    "Pages that the whole host tried to migrate, by the kernel's own reason.",
    "base pages",
    "BPF at the tracepoint migrate:mm_migrate_pages",
)
HOST_SPLIT_FAILURES = MetricSpec(
    "pinwatch_host_thp_split_failures_total",
    Kind.COUNTER,
    ("errno",),
    "Splits of huge pages that were refused on the whole host, retries included.",
    "refusals",
    "BPF at __folio_split(), or what this kernel has of that name",
)
CMA_FAILURES = MetricSpec(
    "pinwatch_cma_alloc_failures_total",
    Kind.COUNTER,
    ("area",),
    "Contiguous allocations that a CMA area could not give.",
    "allocations",
    "BPF at the tracepoint cma:cma_alloc_finish",
)
HOST_COUNTERS = (FOLDED, RESCANS, MIGRATIONS, HOST_SPLIT_FAILURES, CMA_FAILURES)

STUCK = MetricSpec(
    "pinwatch_longterm_pins_stuck",
    Kind.GAUGE,
    ("vm", "source", "state"),
    "Long-term pins that have not returned for more than a second.",
    "operations",
    _PINS,
)
DURATION = MetricSpec(
    "pinwatch_longterm_pin_duration_seconds",
    Kind.HISTOGRAM,
    ("source", "result"),
    "How long long-term pin operations took. Bucket edges are powers of two of a nanosecond.",
    "seconds",
    "BPF, counted in the kernel",
)
VM_INFO = MetricSpec(
    "pinwatch_vm",
    Kind.INFO,
    ("vm", "uuid", "platform", "vmm", "basis", "alias", "project", "pod"),
    "What is known of a VM, and what its name was taken from (docs/vms.md); join with "
    "* on (job, instance, vm) group_left (uuid).",
    _ALWAYS_1,
    "command line, cgroup and libvirt's file of the VM",
)
VM_DEVICE = MetricSpec(
    "pinwatch_vm_device",
    Kind.INFO,
    ("vm", "device", "driver", "iommu_group"),
    "A device that VFIO gave to a VM.",
    _ALWAYS_1,
    "/proc/PID/fd, command line and sysfs",
)
VM_MEMORY = MetricSpec(
    "pinwatch_vm_memory_bytes",
    Kind.GAUGE,
    ("vm", "node", "zone", "cma", "size"),
    "Resident guest memory of a VM by where it lies: node, zone, whether in a CMA area, and size "
    "of its pages.",
    "bytes",
    _PAGEMAP,
)
VM_AT_RISK = MetricSpec(
    "pinwatch_vm_pin_at_risk",
    Kind.GAUGE,
    ("vm",),
    "1 when a VFIO map of all guest memory may fail or will fail now, 0 when it should work.",
    "none",
    _FORECAST,
)
VM_RISK = MetricSpec(
    "pinwatch_vm_pin_risk",
    Kind.GAUGE,
    ("vm", "risk", "verdict"),
    "What stands against a pin of a VM's memory; 1 while it does.",
    "none",
    _FORECAST,
)
VM_HEADROOM = MetricSpec(
    "pinwatch_vm_pin_headroom_bytes",
    Kind.GAUGE,
    ("vm",),
    "What is free for a pin of all guest memory beyond what that needs at most; below 0 when the "
    "kernel must reclaim first.",
    "bytes",
    _FORECAST,
)
VM_MOVE = MetricSpec(
    "pinwatch_vm_pin_must_move_bytes",
    Kind.GAUGE,
    ("vm",),
    "Guest memory in ZONE_MOVABLE or CMA, that a pin must move out first, at most.",
    "bytes",
    _FORECAST,
)
VM_ALLOCATE = MetricSpec(
    "pinwatch_vm_pin_must_allocate_bytes",
    Kind.GAUGE,
    ("vm",),
    "Guest memory that is not there yet, or that a pin replaces by a copy, at most.",
    "bytes",
    _FORECAST,
)
VM_AVAILABLE = MetricSpec(
    "pinwatch_vm_pin_available_bytes",
    Kind.GAUGE,
    ("vm",),
    "Free memory above the low watermarks where the VM's pins may lie: kernel zones without CMA, "
    "on the nodes that its cpuset allows.",
    "bytes",
    f"{_ZONEINFO} and the cpuset of the VM",
)
VM_LOOKED = MetricSpec(
    "pinwatch_vm_placement_timestamp_seconds",
    Kind.GAUGE,
    ("vm",),
    "When a VM's memory was last looked at.",
    "seconds since 1970",
    _OWN,
)
VM_ERROR = MetricSpec(
    "pinwatch_vm_placement_error_ratio",
    Kind.GAUGE,
    ("vm",),
    "What any sum of pinwatch_vm_memory_bytes may be off, as a part of all that is resident, with "
    "95 % confidence; 0 when every page was looked at.",
    "1 is all of it",
    _PAGEMAP,
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
    Kind.GAUGE,
    ("node", "zone", "kind"),
    "Free memory by who may have it: unmovable_usable is for pins too, movable and cma never are.",
    "bytes",
    _ZONEINFO,
)
LOOKING = MetricSpec(
    "pinwatch_placement_cpu_seconds_total",
    Kind.COUNTER,
    (),
    "CPU time spent looking at where VMs' memory lies; placement_cpu_percent bounds it.",
    "seconds",
    _OWN,
)
CMA = MetricSpec(
    "pinwatch_cma_area_pages",
    Kind.GAUGE,
    ("area",),
    "Size of a CMA area.",
    "base pages",
    "the kernel's cma_areas, read by a BPF program",
)
HOOK = MetricSpec(
    "pinwatch_hook_attached",
    Kind.GAUGE,
    ("hook", "symbol", "mode"),
    "1 when the place in the kernel is watched, 0 when not; `pinwatch doctor` says why. No symbol: "
    "this kernel has none.",
    "none",
    _OWN,
)
LOSSES = MetricSpec(
    "pinwatch_losses_total",
    Kind.COUNTER,
    ("kind",),
    "What could not be delivered or read; other counters are lower bounds while this grows.",
    "losses",
    "BPF and the daemon, where each happens",
)
RECONCILIATION = MetricSpec(
    "pinwatch_kernel_reconciliation_pages",
    Kind.GAUGE,
    ("counter",),
    "Our sum minus the kernel's own since the daemon started; 0 is right, docs/metrics.md says "
    "when another value is.",
    "base pages, of thp_* huge pages",
    "BPF and /proc/vmstat",
)
SAMPLED = MetricSpec(
    "pinwatch_sample_timestamp_seconds",
    Kind.GAUGE,
    (),
    "When the kernel's counters were read that all other metrics are made of; while the daemon is "
    "well, that is less than two sample_intervals ago.",
    "seconds since 1970",
    _OWN,
)
REFUSED = MetricSpec(
    "pinwatch_http_requests_refused_total",
    Kind.COUNTER,
    (),
    "Requests that got a 503, because web_max_requests others were being answered.",
    "requests",
    _OWN,
)
BROKEN = MetricSpec(
    "pinwatch_http_connections_broken_total",
    Kind.COUNTER,
    (),
    "Connections that ended before they were answered: clients that broke off, or spoke no TLS.",
    "connections",
    _OWN,
)
HISTORY_WRITABLE = MetricSpec(
    "pinwatch_history_writable",
    Kind.GAUGE,
    (),
    "1 when the history takes what happens, 0 when the disk refuses.",
    "none",
    _HISTORY,
)
HISTORY_BYTES = MetricSpec(
    "pinwatch_history_size_bytes",
    Kind.GAUGE,
    (),
    "Size of the history, without what is free inside its file.",
    "bytes",
    _HISTORY,
)
HISTORY_EVENTS = MetricSpec(
    "pinwatch_history_events",
    Kind.GAUGE,
    (),
    "Failed and slow pins that the history holds.",
    "operations",
    _HISTORY,
)
BUILD = MetricSpec(
    "pinwatch_build",
    Kind.INFO,
    ("version", "kernel"),
    "Version of pinwatch and of the kernel.",
    _ALWAYS_1,
    "uname(2) and pinwatch itself",
)

# What the daemon adds that is in no snapshot, and so in no recording.
OF_THE_DAEMON = (REFUSED, BROKEN, HISTORY_WRITABLE, HISTORY_BYTES, HISTORY_EVENTS)
CATALOGUE = (
    *VM_COUNTERS,
    *HOST_COUNTERS,
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
# Series that carry the id of an event that they counted.
WITH_EXEMPLARS = (
    PIN_FAILURES,
    VFIO_MAP_FAILURES,
    FAILED_FOLIOS,
    THP_SPLIT_FAILURES,
    SLOW_PINS,
    DURATION,
)
