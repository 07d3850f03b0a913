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


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Counters by label values, in the order that expose/metrics.py declares."""

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

    @property
    def counters(self) -> dict[str, dict[Labels, float]]:
        """All counters by their whole labels, vm first."""
        flat = {metric: dict(values) for metric, values in self.host_counters.items()}
        for vm, counters in self.vm_counters.items():
            for metric, values in counters.items():
                flat.setdefault(metric, {}).update({(vm, *rest): n for rest, n in values.items()})
        return flat
