"""Everything that a view may show, at one moment. Views read this and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from pinwatch.model.failure import Failure, SlowPin, StuckPin
from pinwatch.model.kernel import HookState
from pinwatch.model.sample import Durations
from pinwatch.model.vm import Vm

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Counters by label values, in the order that expose/metrics.py declares."""

    vms: tuple[Vm, ...]
    counters: dict[str, dict[Labels, float]]  # metric name -> label values -> value
    durations: tuple[Durations, ...]
    losses: dict[str, int]
    reconciliation: dict[str, int]  # vmstat counter -> our sum minus the kernel's
    hooks: tuple[HookState, ...]
    failures: tuple[Failure, ...]  # newest last, bounded
    slow_pins: tuple[SlowPin, ...]  # newest last, bounded
    stuck: tuple[StuckPin, ...]  # now
