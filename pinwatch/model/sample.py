"""One reading of counters: what the programs in the kernel have counted, and the kernel itself."""

from __future__ import annotations

from dataclasses import dataclass

from pinwatch.model.pin import PinSource, Wait

TICK_NS = 10_000_000


@dataclass(frozen=True, slots=True, order=True)
class TaskKey:
    """A process over its whole life: the tgid, and its start, which tells a reused tgid."""

    tgid: int
    start_ns: int  # CLOCK_BOOTTIME

    @property
    def in_ticks(self) -> TaskKey:
        """As /proc knows the start, which is in units of 10 ms (USER_HZ)."""
        return TaskKey(self.tgid, self.start_ns // TICK_NS * TICK_NS)


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
class Migrations:
    """Base pages that the whole host migrated for a reason (enum migrate_reason), and did not."""

    reason: str
    succeeded: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPin:
    """A long-term pin that has not returned yet. Times are CLOCK_MONOTONIC nanoseconds."""

    task: TaskKey
    source: PinSource
    start_ns: int
    vaddr: int
    length_bytes: int
    loops: int  # VMAs looked up in the GUP call that is open: 1 or 2, unless it starts again
    rounds: int  # of migration in that call
    wait: Wait | None  # what it waits for right now


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSample:
    """Every counter of the BPF side at one moment, summed over CPUs."""

    time_ns: int  # CLOCK_MONOTONIC
    totals: tuple[TaskTotals, ...]
    durations: tuple[Durations, ...]
    witnesses: dict[str, int]  # /proc/vmstat's name -> our own sum of the same thing
    losses: dict[str, int]  # kind -> how often
    migrations: tuple[Migrations, ...]
    split_errors: dict[str, int]  # errno name -> huge pages
    cma_failures: dict[str, int]  # area -> allocations
    open_pins: tuple[OpenPin, ...]
