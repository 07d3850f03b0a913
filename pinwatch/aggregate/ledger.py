"""Count: the one place with state that changes.

Takes decoded events and samples, gives a frozen Snapshot. Knows no clock and no files.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

from pinwatch.model.event import PinEnded
from pinwatch.model.failure import Failure, SlowPin, StuckPin
from pinwatch.model.holder import Holder
from pinwatch.model.kernel import HookState
from pinwatch.model.pin import PinSource
from pinwatch.model.reason import FailureReason
from pinwatch.model.sample import Durations, KernelSample, TaskKey, TaskTotals
from pinwatch.model.snapshot import Labels, Snapshot
from pinwatch.model.vm import HOST, UNATTRIBUTED, Vm

KEPT_FAILURES = 1000

# Reasons and errno that a VM's series start with at 0, so that increase() sees the first failure.
_FIRST_ERRNO = {
    FailureReason.INTERRUPTED: "EINTR",
    FailureReason.VFIO_DMA_EXISTS: "EEXIST",
    FailureReason.VFIO_DMA_LIMIT: "ENOSPC",
    FailureReason.VFIO_IOVA_INVALID: "EINVAL",
    FailureReason.IOMMU_MAP_FAILED: "EINVAL",
    FailureReason.DEVICE_COHERENT_FAILED: "EBUSY",
    FailureReason.FSDAX_REFUSED: "EOPNOTSUPP",
    FailureReason.SPECIAL_PTE: "EEXIST",
    FailureReason.P2PDMA_REFUSED: "EREMOTEIO",
    **dict.fromkeys(
        (
            FailureReason.VMA_ABSENT,
            FailureReason.VMA_PERM,
            FailureReason.VMA_IO_PFNMAP,
            FailureReason.VMA_SECRETMEM,
            FailureReason.FILE_WRITE_REFUSED,
            FailureReason.FAULT_SIGBUS,
            FailureReason.HWPOISON,
        ),
        "EFAULT",
    ),
}


def usual_errno(reason: FailureReason) -> str:
    """What user space gets for a reason, normally."""
    return _FIRST_ERRNO.get(reason, "ENOMEM")


class Ledger:
    """All counters since the daemon started."""

    def __init__(self) -> None:
        self._names: dict[TaskKey, Vm] = {}
        self._vms: dict[str, Vm] = {}
        self._counters: dict[str, dict[Labels, float]] = {}
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

    # ---- who --------------------------------------------------------------------------------

    def name_task(self, key: TaskKey, vm: Vm) -> None:
        """This process belongs to that VM (or to the host)."""
        self._names[key] = vm
        if vm.name not in self._vms:
            self._vms[vm.name] = vm
            self._start_series(vm)

    def vm_of(self, key: TaskKey) -> Vm:
        """The VM of a process; UNATTRIBUTED when nothing has named it."""
        return self._names.get(key, UNATTRIBUTED)

    def knows(self, key: TaskKey) -> bool:
        return key in self._names

    @property
    def tasks(self) -> tuple[TaskKey, ...]:
        return tuple(self._names)

    def forget_task(self, key: TaskKey) -> None:
        """A process is gone; what it counted stays with its VM."""
        self._names.pop(key, None)
        for source in PinSource:
            self._totals.pop((key, source), None)

    def _start_series(self, vm: Vm) -> None:
        self._add("pinwatch_pin_migrated_pages_total", (vm.name,), 0)
        for source in PinSource:
            self._add("pinwatch_longterm_pins_total", (vm.name, source), 0)
            self._add("pinwatch_longterm_pinned_pages_total", (vm.name, source), 0)
        if vm is HOST:
            return
        for reason in FailureReason:
            holder = Holder.UNKNOWN if reason.about_references else Holder.NONE
            self._add(
                "pinwatch_longterm_pin_failures_total",
                (vm.name, PinSource.VFIO_TYPE1, reason, holder),
                0,
            )
            self._add("pinwatch_vfio_map_failures_total", (vm.name, usual_errno(reason), reason), 0)

    # ---- what -------------------------------------------------------------------------------

    def _add(self, metric: str, labels: Labels, amount: float) -> None:
        values = self._counters.setdefault(metric, {})
        key = tuple(map(str, labels))
        values[key] = values.get(key, 0) + amount

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def add_failure(self, failure: Failure) -> None:
        """Count a failed pin by VM, reason, holder, zone and order."""
        self._failures.append(failure)
        vm, pin, reason = failure.vm.name, failure.pin, failure.reason
        self._add(
            "pinwatch_longterm_pin_failures_total",
            (vm, pin.source, reason, failure.holder.holder),
            1,
        )
        if pin.source is PinSource.VFIO_TYPE1:
            self._add("pinwatch_vfio_map_failures_total", (vm, errno_name(pin.errno), reason), 1)
        for folio in failure.folios:
            zone, order = folio.facts.zone or "unknown", str(folio.facts.order)
            self._add(
                "pinwatch_pin_migration_failed_folios_total", (vm, folio.reason, zone, order), 1
            )
        if pin.folios_dropped:
            self._add(
                "pinwatch_pin_migration_failed_folios_total",
                (vm, reason, "unknown", "unknown"),
                pin.folios_dropped,
            )
        if pin.split_failed:
            self._add(
                "pinwatch_thp_split_failures_total",
                (vm, errno_name(pin.split_errno)),
                pin.split_failed,
            )

    def add_slow(self, slow: SlowPin) -> None:
        """Count a slow pin by VM, source and cause."""
        self._slow.append(slow)
        labels = (slow.vm.name, slow.pin.source, slow.cause)
        self._add("pinwatch_longterm_slow_pins_total", labels, 1)

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
        """Take over the counters that the kernel side keeps: absolute values."""
        self._durations = sample.durations
        self._kernel_losses = sample.losses
        for totals in sample.totals:
            self._add_totals(totals)
        self._counters["pinwatch_host_migrations_total"] = {
            (migrations.reason, result): pages
            for migrations in sample.migrations
            for result, pages in (("ok", migrations.succeeded), ("failed", migrations.failed))
        }
        self._counters["pinwatch_host_thp_split_failures_total"] = {
            (error,): folios for error, folios in sample.split_errors.items()
        }
        self._counters["pinwatch_cma_alloc_failures_total"] = {
            (area,): allocations for area, allocations in sample.cma_failures.items()
        }

    def _add_totals(self, new: TaskTotals) -> None:
        source = new.source
        old = self._totals.get((new.task, source))
        self._totals[(new.task, source)] = new
        vm = self.vm_of(new.task).name
        self._add("pinwatch_longterm_pins_total", (vm, source), new.pins - _of(old, "pins"))
        self._add(
            "pinwatch_longterm_pinned_pages_total", (vm, source), new.pages - _of(old, "pages")
        )
        self._add("pinwatch_pin_migrated_pages_total", (vm,), new.migrated - _of(old, "migrated"))

    # ---- how well we see --------------------------------------------------------------------

    def add_loss(self, kind: str, amount: int = 1) -> None:
        """Something was not delivered, here in user space."""
        self._losses[kind] += amount

    def set_reconciliation(self, differences: dict[str, int]) -> None:
        self._reconciliation = dict(differences)

    def set_hooks(self, hooks: tuple[HookState, ...]) -> None:
        self._hooks = hooks

    def snapshot(self) -> Snapshot:
        """A frozen copy of all of it."""
        return Snapshot(
            vms=tuple(self._vms.values()),
            counters={name: dict(values) for name, values in self._counters.items()},
            durations=self._durations,
            losses={**self._kernel_losses, **self._losses},
            reconciliation=dict(self._reconciliation),
            hooks=self._hooks,
            failures=tuple(self._failures),
            slow_pins=tuple(self._slow),
            stuck=self._stuck,
        )


def _of(totals: TaskTotals | None, name: str) -> int:
    return 0 if totals is None else int(getattr(totals, name))


def errno_name(number: int) -> str:
    """ENOMEM for 12; unknown:N for a number without a name."""
    return errno.errorcode.get(number, f"unknown:{number}")
