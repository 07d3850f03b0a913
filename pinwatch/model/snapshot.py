"""Everything that a view may show, at one moment. Views read this and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pinwatch.model.failure import Failure, SlowPin, StuckPin
from pinwatch.model.forecast import Outlook
from pinwatch.model.hint import HintGiven
from pinwatch.model.kernel import HookState
from pinwatch.model.placement import FreeMemory
from pinwatch.model.sample import Durations
from pinwatch.model.vm import Device, Vm

Labels = tuple[str, ...]
Counters = Mapping[str, Mapping[Labels, float]]  # metric name -> label values -> value


@dataclass(frozen=True, slots=True)
class Exemplar:
    """An event that a counter has counted."""

    event_id: str  # of a Failure or SlowPin
    value: float  # what it added; of durations, how long it took (s)
    time_s: float  # wall clock


@dataclass(frozen=True, slots=True)
class Mark:
    """What OpenMetrics says beside a sample: since when it counts, and the newest event in it."""

    created_s: float  # wall clock
    exemplar: Exemplar | None = None


Marks = Mapping[str, Mapping[Labels, Mark]]  # as Counters, of those that have counted anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Counters by label values, in the order that expose/catalogue.py declares."""

    time_s: float  # wall clock, of the newest sample
    vms: tuple[Vm, ...]  # those with series of their own, and what stands for others (~host)
    hints: Mapping[str, tuple[HintGiven, ...]]  # by vm label, newest last, bounded
    devices: Mapping[str, tuple[Device, ...]]  # VFIO devices by vm label
    host_counters: Counters
    vm_counters: Mapping[str, Counters]  # vm label -> its counters; their labels lack the vm
    durations: tuple[Durations, ...]
    losses: dict[str, int]
    reconciliation: dict[str, int]  # vmstat counter -> our sum minus the kernel's
    hooks: tuple[HookState, ...]
    failures: tuple[Failure, ...]  # newest last, bounded
    slow_pins: tuple[SlowPin, ...]  # newest last, bounded
    stuck: tuple[StuckPin, ...]  # now
    free: FreeMemory | None = None  # the host's, when it was last read
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)  # by vm label
    looking_cpu_s: float = 0.0  # what it took to look at the memory of VMs
    started_s: float = 0.0  # wall clock, of the first sample: all counters of the host began at 0
    vm_marks: Mapping[str, Marks] = field(default_factory=dict)  # by vm label
    # Of failed and slow pins: source, and whether it failed -> slot -> the newest.
    duration_exemplars: Mapping[tuple[str, bool], Mapping[int, Exemplar]] = field(
        default_factory=dict
    )

    @property
    def counters(self) -> dict[str, dict[Labels, float]]:
        """All counters by their whole labels, vm first."""
        flat = {metric: dict(values) for metric, values in self.host_counters.items()}
        for vm, counters in self.vm_counters.items():
            for metric, values in counters.items():
                flat.setdefault(metric, {}).update({(vm, *rest): n for rest, n in values.items()})
        return flat
