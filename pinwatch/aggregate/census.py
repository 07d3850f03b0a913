"""Which VMs there are: births, deaths, the label of each, and how long its series stay.

A VM is known by its name and uuid, a process by its TaskKey. Times are those of samples; there is
no clock here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, count

from pinwatch.aggregate.series import Series
from pinwatch.model.forecast import Outlook
from pinwatch.model.hint import HintGiven
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import HOST, OTHER, UNATTRIBUTED, Device, SeriesLimits, Vm

_LEARNT = ("alias", "project", "pod")
KEPT_HINTS = 32  # of a VM
UUID_PART = 8  # characters, as in 6f3a1c52-...


@dataclass(slots=True, kw_only=True)
class Resident:
    """A VM, or what stands for processes that are none, with its series."""

    vm: Vm
    given_name: str  # before another VM of that name made a suffix necessary
    series: Series
    tasks: set[TaskKey] = field(default_factory=set)  # alive, or not yet counted to the end
    ended: set[TaskKey] = field(default_factory=set)  # those of them that are not alive
    devices: tuple[Device, ...] = ()  # VFIO's, as last seen
    hints: deque[HintGiven] = field(default_factory=lambda: deque(maxlen=KEPT_HINTS))
    outlook: tuple[TaskKey, Outlook] | None = None  # of the process that has the guest's memory
    gone_ns: int = 0  # when the last of them went (CLOCK_MONOTONIC); holds while there are none

    def lives_apart_from(self, task: TaskKey) -> bool:
        """It has a process that cannot be this one. A process that was found in /proc and then made
        a record has two keys, because /proc rounds the start; two processes alive never share a
        tgid."""
        return any(other.tgid != task.tgid for other in self.tasks - self.ended)


class Census:
    """Residents by the label that each bears for its whole life."""

    def __init__(self, limits: SeriesLimits) -> None:
        self._limits = limits
        self._vms: dict[str, Resident] = {}
        self._others: dict[str, Resident] = {}  # ~host, ~unattributed, ~other: they never go
        self._homes: dict[TaskKey, Resident] = {}
        self.folded = 0  # VMs, since the start

    # ---- who --------------------------------------------------------------------------------

    def vm_of(self, task: TaskKey) -> Vm:
        """UNATTRIBUTED when nothing has named the process."""
        home = self._homes.get(task)
        return home.vm if home else UNATTRIBUTED

    def series_of(self, task: TaskKey) -> Series:
        """Where a process counts."""
        return (self._homes.get(task) or self._other(UNATTRIBUTED)).series

    def knows(self, task: TaskKey) -> bool:
        return task in self._homes

    def is_vm(self, task: TaskKey) -> bool:
        home = self._homes.get(task)
        return home is not None and home.vm.name in self._vms

    def devices_of(self, task: TaskKey) -> tuple[Device, ...]:
        home = self._homes.get(task)
        return home.devices if home else ()

    def hints_of(self, task: TaskKey) -> tuple[HintGiven, ...]:
        return tuple(self._homes[task].hints) if self.is_vm(task) else ()

    def give_devices(self, task: TaskKey, devices: tuple[Device, ...]) -> None:
        """Processes that are no VM share a home, and their devices are nobody's."""
        if self.is_vm(task):
            self._homes[task].devices = devices

    def add_hint(self, task: TaskKey, hint: HintGiven) -> None:
        if self.is_vm(task):
            self._homes[task].hints.append(hint)

    def set_outlook(self, task: TaskKey, outlook: Outlook) -> None:
        """Of a VM with several processes, the one with the most guest memory counts."""
        if not self.is_vm(task):
            return
        home = self._homes[task]
        if home.outlook is not None and home.outlook[0] != task:
            size = home.outlook[1].case.placement.guest_bytes
            if outlook.case.placement.guest_bytes <= size:
                return
        home.outlook = task, outlook

    @property
    def outlooks(self) -> tuple[tuple[TaskKey, Outlook], ...]:
        return tuple(home.outlook for home in self._vms.values() if home.outlook)

    @property
    def tasks(self) -> tuple[TaskKey, ...]:
        return tuple(self._homes)

    @property
    def members(self) -> tuple[tuple[TaskKey, Vm], ...]:
        """Processes of VMs that have series of their own. One that has two keys is told once, by
        the one that /proc knows."""
        return tuple(
            (task, home.vm)
            for home in self._vms.values()
            if not home.vm.folded
            for task in home.tasks
            if task == task.in_ticks or task.in_ticks not in home.tasks
        )

    @property
    def shown(self) -> tuple[Resident, ...]:
        """All that have series of their own."""
        own = (resident for resident in self._vms.values() if not resident.vm.folded)
        return (*self._others.values(), *own)

    def _other(self, vm: Vm) -> Resident:
        if vm.name not in self._others:
            self._others[vm.name] = Resident(vm=vm, given_name=vm.name, series=Series())
        return self._others[vm.name]

    # ---- births and deaths ------------------------------------------------------------------

    def settle(self, task: TaskKey, vm: Vm) -> None:
        """This process belongs to that VM. A process of a VM stays with it; one that was no VM's
        may become one (exec)."""
        home = self._homes.get(task) or self._join(task, vm)
        if home is not None:
            if home.vm.name in self._vms:
                _learn(home, vm)
                return
            if vm in (home.vm, UNATTRIBUTED):
                return
            home.tasks.discard(task)
        home = self._other(vm) if vm in (HOST, UNATTRIBUTED) else self._find(task, vm)
        home.tasks.add(task)
        self._homes[task] = home

    def _join(self, task: TaskKey, vm: Vm) -> Resident | None:
        """Where this process is at home already under the key that /proc knows it by, unless more
        is known of it now."""
        home = self._homes.get(task.in_ticks)
        if home is None or home.vm.name not in self._vms:
            return None
        same = vm.name == home.given_name and vm.uuid in ("", home.vm.uuid)
        if not same and vm != UNATTRIBUTED:
            return None
        home.tasks.add(task)
        if task.in_ticks in home.ended:
            home.ended.add(task)
        self._homes[task] = home
        return home

    def end(self, task: TaskKey) -> None:
        """A process lives no more under any of its keys: another may bear the label of its VM. What
        it still counts is its VM's until it leaves."""
        home = self._homes.get(task)
        if home is not None:
            home.ended.update(other for other in home.tasks if other.tgid == task.tgid)

    def leave(self, task: TaskKey, now_ns: int) -> None:
        """A process is gone."""
        home = self._homes.pop(task, None)
        if home is None:
            return
        home.tasks.discard(task)
        home.ended.discard(task)
        home.gone_ns = now_ns
        if home.outlook is not None and home.outlook[0] == task:
            home.outlook = None
        if home.vm.folded and not home.tasks:
            del self._vms[home.vm.name]

    def begin(self, now_s: float) -> None:
        """Whoever is new counts from now on (wall clock)."""
        for resident in (*self._others.values(), *self._vms.values()):
            if not resident.series.since_s:
                resident.series.since_s = now_s

    def retire(self, now_ns: int) -> None:
        """Let go of VMs that have been gone for so long that everyone has seen their series."""
        last = now_ns - self._limits.retention_ns
        for name, vm in tuple(self._vms.items()):
            if not vm.tasks and vm.gone_ns <= last:
                del self._vms[name]

    def _find(self, task: TaskKey, vm: Vm) -> Resident:
        """Itself, if it is here already; else the first label that nobody alive bears."""
        for label in _labels_of(vm):
            resident = self._vms.get(label)
            if (
                resident
                and vm.uuid
                and (resident.given_name, resident.vm.uuid) == (vm.name, vm.uuid)
            ):
                _learn(resident, vm)
                return resident
        for label in chain(_labels_of(vm), _numbered(vm)):
            resident = self._vms.get(label)
            if resident is None:
                return self._admit(label, vm)
            if not resident.lives_apart_from(task):
                return _take_over(resident, vm)
        raise AssertionError("numbers never end")

    def _admit(self, label: str, vm: Vm) -> Resident:
        own = sum(not resident.vm.folded for resident in self._vms.values())
        folded = own >= self._limits.max_vms
        series = self._other(OTHER).series if folded else Series()
        self.folded += folded
        self._vms[label] = Resident(
            vm=replace(vm, name=label, folded=folded), given_name=vm.name, series=series
        )
        return self._vms[label]


def _take_over(resident: Resident, vm: Vm) -> Resident:
    """The series go on. A process that is here already may be told again, with less: what is known
    of it stays."""
    if vm.uuid or not resident.tasks - resident.ended:
        resident.vm = replace(vm, name=resident.vm.name, folded=resident.vm.folded)
        resident.given_name = vm.name
    return resident


def _learn(resident: Resident, vm: Vm) -> None:
    """The same VM, told again: libvirt writes its file when QEMU has started, so what is read later
    may say more. What says less is read of a process that is gone."""
    known = resident.vm
    same = (vm.name, vm.uuid) == (resident.given_name, known.uuid)
    if same and all(getattr(vm, field) or not getattr(known, field) for field in _LEARNT):
        resident.vm = replace(vm, name=known.name, folded=known.folded)


def _labels_of(vm: Vm) -> tuple[str, ...]:
    """The plain name; with the uuid's first part, or all of it, when another VM bears that."""
    if not vm.uuid:
        return (vm.name,)
    return (vm.name, f"{vm.name}~{vm.uuid[:UUID_PART]}", f"{vm.name}~{vm.uuid}")


def _numbered(vm: Vm) -> Iterator[str]:
    """Without a uuid, a number tells VMs apart: not the pid, with which a VM that starts again and
    again, faster than its deaths are noticed, would leave ever new series."""
    return (f"{vm.name}~{number}" for number in count(2))
