"""One reading of counters: what the programs in the kernel have counted, and the kernel itself."""

from __future__ import annotations

from dataclasses import dataclass

from pinwatch.model.pin import PinSource


@dataclass(frozen=True, slots=True, order=True)
class TaskKey:
    """A process over its whole life: the tgid, and its start, which tells a reused tgid."""

    tgid: int
    start_ns: int  # CLOCK_BOOTTIME


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTotals:
    """What one process has pinned through one source since its first pin."""

    task: TaskKey
    source: PinSource
    pins: int
    failures: int
    pages: int
    migrated: int
    migrate_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """Histogram of pin operations: slot n counts those of at most 2^n ns (abi Duration)."""

    source: PinSource
    failed: bool
    sum_ns: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSample:
    """Every counter of the BPF side at one moment, summed over CPUs."""

    totals: tuple[TaskTotals, ...]
    durations: tuple[Durations, ...]
    witnesses: dict[str, int]  # /proc/vmstat's name -> our own sum of the same thing
    losses: dict[str, int]  # kind -> how often
