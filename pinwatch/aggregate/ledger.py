"""Count: the one place with state that changes.

Takes decoded events and samples, gives a frozen Snapshot. Knows no clock and no files.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pinwatch.aggregate.census import Census
from pinwatch.model.event import PinEnded
from pinwatch.model.failure import Failure, SlowPin, StuckPin
from pinwatch.model.forecast import Outlook
from pinwatch.model.hint import HintGiven
from pinwatch.model.kernel import HookState
from pinwatch.model.pin import PinSource
from pinwatch.model.placement import FreeMemory
from pinwatch.model.sample import Durations, KernelSample, TaskKey, TaskTotals
from pinwatch.model.snapshot import Counters, Exemplar, Labels, Snapshot
from pinwatch.model.vm import Device, SeriesLimits, Vm

KEPT_FAILURES = 1000


class Ledger:
    """All counters since the daemon started."""

    def __init__(self, limits: SeriesLimits | None = None, wall_offset_ns: int = 0) -> None:
        """The offset is what CLOCK_MONOTONIC is behind the wall clock."""
        self._census = Census(limits or SeriesLimits())
        self._wall_offset_ns = wall_offset_ns
        self._host_counters: dict[str, dict[Labels, float]] = {}
        self._totals: dict[tuple[TaskKey, PinSource], TaskTotals] = {}
        self._failures: deque[Failure] = deque(maxlen=KEPT_FAILURES)
        self._slow: deque[SlowPin] = deque(maxlen=KEPT_FAILURES)
        self._stuck: tuple[StuckPin, ...] = ()
        self._durations: tuple[Durations, ...] = ()
        self._losses: Counter[str] = Counter()  # in user space
        self._kernel_losses: dict[str, int] = {}
        self._reconciliation: dict[str, int] = {}
        self._hooks: tuple[HookState, ...] = ()
        self._number = 0
        self._rescans = 0
        self._now_ns = 0  # of the newest sample, CLOCK_MONOTONIC
        self._started_s = 0.0  # of the first one, wall clock
        self._duration_exemplars: dict[tuple[str, bool], dict[int, Exemplar]] = {}
        self._free: FreeMemory | None = None
        self._looking_cpu_s = 0.0

    # ---- who --------------------------------------------------------------------------------

    def name_task(self, key: TaskKey, vm: Vm) -> None:
        """This process belongs to that VM (or to the host)."""
        self._census.settle(key, vm)

    def vm_of(self, key: TaskKey) -> Vm:
        """The VM of a process; UNATTRIBUTED when nothing has named it."""
        return self._census.vm_of(key)

    def knows(self, key: TaskKey) -> bool:
        return self._census.knows(key)

    @property
    def tasks(self) -> tuple[TaskKey, ...]:
        """All processes of which anything is kept, named or not."""
        return tuple({*self._census.tasks, *(task for task, _ in self._totals)})

    @property
    def vms(self) -> tuple[tuple[TaskKey, Vm], ...]:
        """Processes of VMs that are alive, each once."""
        return self._census.members

    def end_task(self, key: TaskKey) -> None:
        """A process has ended; it is known until it is forgotten."""
        self._census.end(key)

    def forget_task(self, key: TaskKey) -> None:
        """A process is gone; what it counted stays with its VM until that is retired."""
        self._census.leave(key, self._now_ns)
        for source in PinSource:
            self._totals.pop((key, source), None)

    def is_vm(self, key: TaskKey) -> bool:
        """The process is one of a VM's."""
        return self._census.is_vm(key)

    def give_devices(self, key: TaskKey, devices: tuple[Device, ...]) -> None:
        """The VM of this process has these VFIO devices now."""
        self._census.give_devices(key, devices)

    def devices_of(self, key: TaskKey) -> tuple[Device, ...]:
        return self._census.devices_of(key)

    def hints_of(self, key: TaskKey) -> tuple[HintGiven, ...]:
        return self._census.hints_of(key)

    # ---- what may come ----------------------------------------------------------------------

    def set_free(self, free: FreeMemory, cpu_s: float) -> None:
        """The host's free side, and the CPU time that looking has taken so far."""
        self._free = free
        self._looking_cpu_s = cpu_s

    def set_outlook(self, key: TaskKey, outlook: Outlook) -> None:
        """What a look at this process says of its VM."""
        self._census.set_outlook(key, outlook)

    @property
    def outlooks(self) -> tuple[tuple[TaskKey, Outlook], ...]:
        """The newest of each VM."""
        return self._census.outlooks

    # ---- what -------------------------------------------------------------------------------

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def add_failure(self, failure: Failure) -> None:
        """Count a failed pin by VM, reason, holder, zone and order."""
        self._failures.append(failure)
        pin, reason = failure.pin, failure.reason
        series = self._census.series_of(pin.task.key)
        add = partial(series.add, time_s=failure.time_s, event_id=failure.id)
        add("pinwatch_longterm_pin_failures_total", (pin.source, reason, failure.holder.holder), 1)
        if pin.source is PinSource.VFIO_TYPE1:
            add("pinwatch_vfio_map_failures_total", (errno_name(pin.errno), reason), 1)
        for folio in failure.folios:
            where = (folio.facts.zone or "unknown", str(folio.facts.order))
            add("pinwatch_pin_migration_failed_folios_total", (folio.reason, *where), 1)
        if pin.folios_dropped:
            labels = (reason, "unknown", "unknown")
            add("pinwatch_pin_migration_failed_folios_total", labels, pin.folios_dropped)
        if pin.split_failed:
            error = errno_name(pin.split_errno)
            add("pinwatch_thp_split_failures_total", (error,), pin.split_failed)
        self._add_duration(failure, failed=True)

    def add_slow(self, slow: SlowPin) -> None:
        """Count a slow pin by VM, source and cause."""
        self._slow.append(slow)
        self._census.series_of(slow.pin.task.key).add(
            "pinwatch_longterm_slow_pins_total", (slow.pin.source, slow.cause), 1,
            time_s=slow.time_s, event_id=slow.id,
        )  # fmt: skip
        self._add_duration(slow, failed=False)

    def _add_duration(self, of: Failure | SlowPin, *, failed: bool) -> None:
        """The kernel side has counted it; this is who it was."""
        took_ns = of.pin.duration_ns
        slot = (took_ns - 1).bit_length() if took_ns else 0
        newest = self._duration_exemplars.setdefault((str(of.pin.source), failed), {})
        newest[slot] = Exemplar(of.id, took_ns / 1e9, of.time_s)

    def add_hint(self, key: TaskKey, hint: HintGiven) -> None:
        """Count what a VM's process said of its memory, and keep the newest of it."""
        labels = (hint.hint, hint.timing, errno_name(hint.errno) if hint.errno else "")
        self._census.series_of(key).add(
            "pinwatch_vm_hints_total", labels, 1, time_s=self._wall_s(hint.time_ns)
        )
        self._census.add_hint(key, hint)

    def name_callers(self, caller: Callable[[PinEnded], tuple[str, ...]]) -> None:
        """Names of kernel functions have come: tell again who called."""
        for at, failure in enumerate(self._failures):
            if failure.pin.stack:
                self._failures[at] = replace(failure, caller=caller(failure.pin))
        for at, slow in enumerate(self._slow):
            if slow.pin.stack:
                self._slow[at] = replace(slow, caller=caller(slow.pin))

    def set_stuck(self, stuck: tuple[StuckPin, ...]) -> None:
        self._stuck = stuck

    def add_sample(self, sample: KernelSample) -> None:
        """Take over the counters that the kernel side keeps: absolute values. Its time is now."""
        self._now_ns = max(self._now_ns, sample.time_ns)
        now_s = self._wall_s(self._now_ns)
        self._started_s = self._started_s or now_s
        self._census.begin(now_s)
        self._census.retire(self._now_ns)
        self._durations = sample.durations
        self._kernel_losses = sample.losses
        for totals in sample.totals:
            self._add_totals(totals)
        self._host_counters["pinwatch_host_migrations_total"] = {
            (migrations.reason, result): pages
            for migrations in sample.migrations
            for result, pages in (("ok", migrations.succeeded), ("failed", migrations.failed))
        }
        self._host_counters["pinwatch_host_thp_split_failures_total"] = {
            (error,): folios for error, folios in sample.split_errors.items()
        }
        self._host_counters["pinwatch_cma_alloc_failures_total"] = {
            (area,): allocations for area, allocations in sample.cma_failures.items()
        }

    def _add_totals(self, new: TaskTotals) -> None:
        old = self._totals.get((new.task, new.source))
        if new == old:
            return
        self._totals[(new.task, new.source)] = new
        series, labels = self._census.series_of(new.task), (new.source,)
        add = partial(series.add, time_s=self._wall_s(self._now_ns))
        add("pinwatch_longterm_pins_total", labels, new.pins - _of(old, "pins"))
        add("pinwatch_longterm_pinned_pages_total", labels, new.pages - _of(old, "pages"))
        add("pinwatch_pin_migrated_pages_total", (), new.migrated - _of(old, "migrated"))

    # ---- how well we see --------------------------------------------------------------------

    def add_loss(self, kind: str, amount: int = 1) -> None:
        """Something was not delivered, here in user space."""
        self._losses[kind] += amount

    def add_rescan(self) -> None:
        """All processes were looked up, because not every start and end was told."""
        self._rescans += 1

    def set_reconciliation(self, differences: dict[str, int]) -> None:
        self._reconciliation = dict(differences)

    def set_hooks(self, hooks: tuple[HookState, ...]) -> None:
        self._hooks = hooks

    def set_clock(self, wall_offset_ns: int) -> None:
        """From now on; times that were told stay."""
        self._wall_offset_ns = wall_offset_ns

    def _wall_s(self, time_ns: int) -> float:
        return (time_ns + self._wall_offset_ns) / 1e9

    def snapshot(self) -> Snapshot:
        """All of it, frozen."""
        shown = self._census.shown
        own: Counters = {
            "pinwatch_vms_folded_total": {(): self._census.folded},
            "pinwatch_process_rescans_total": {(): self._rescans},
        }
        return Snapshot(
            time_s=self._wall_s(self._now_ns),
            started_s=self._started_s,
            vms=tuple(resident.vm for resident in shown),
            hints={r.vm.name: tuple(r.hints) for r in shown if r.hints},
            devices={r.vm.name: r.devices for r in shown if r.devices},
            host_counters={**self._host_counters, **own},
            vm_counters={resident.vm.name: resident.series.frozen() for resident in shown},
            vm_marks={r.vm.name: r.series.marks for r in shown if r.series.marks},
            durations=self._durations,
            duration_exemplars={of: dict(by) for of, by in self._duration_exemplars.items()},
            losses={**self._kernel_losses, **self._losses},
            reconciliation=dict(self._reconciliation),
            hooks=self._hooks,
            failures=tuple(self._failures),
            slow_pins=tuple(self._slow),
            stuck=self._stuck,
            free=self._free,
            outlooks={r.vm.name: r.outlook[1] for r in shown if r.outlook},
            looking_cpu_s=self._looking_cpu_s,
        )


def _of(totals: TaskTotals | None, name: str) -> int:
    return 0 if totals is None else int(getattr(totals, name))


# Python names the first by its other name, and the second only from 3.14 on.
_NAMES = {95: "EOPNOTSUPP", 133: "EHWPOISON"}


def errno_name(number: int) -> str:
    """ENOMEM for 12; unknown:N for a number without a name."""
    return _NAMES.get(number) or errno.errorcode.get(number, f"unknown:{number}")
