"""Processes that run VMs: that they start and end, and what is found out about each.

Takes roots and the kernel's news; gives items for the pipeline. What could not be read is counted
in `errors`; nothing is raised for the sake of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from pinwatch import attribute
from pinwatch.host import clock, devices, procfs
from pinwatch.host.netlink import (
    DriverChanged,
    Executed,
    Exited,
    Listener,
    ModuleAdded,
    Overrun,
)
from pinwatch.host.vms import Finder
from pinwatch.model.kernel import HookState
from pinwatch.model.sample import TaskKey
from pinwatch.recording import DevicesFound, Item, Rescanned, TaskEnded, VmFound

TRIES = 6  # for libvirt's file, which is written once QEMU answers, a pin or two later
LOOKS = 50  # for devices, at one time
LOOK_AGAIN_S = 10.0  # at the devices of a VM: of one with hundreds of files it takes a millisecond


class Lives:
    """Watches from its start; `running` then finds who was there before. `on_module` is called when
    a kernel module was loaded."""

    def __init__(
        self,
        *,
        root: Path,
        proc: Path,
        sys: Path,
        programs: attribute.Programs,
        on_module: Callable[[], object],
    ) -> None:
        self._proc = proc
        self._sys = sys
        self._programs = programs
        self._on_module = on_module
        self._finder = Finder(proc, root, programs)
        self._listener = Listener()
        self._running: set[TaskKey] = set()  # VMMs, as /proc knows them
        self._ended: set[int] = set()  # tgids
        self._doubt = False  # whether all are alive that are known
        self._unfinished: dict[TaskKey, tuple[tuple[str, ...], int]] = {}  # cmdline, tries left
        self._looked: dict[TaskKey, float] = {}  # when, for devices
        self._pins: dict[TaskKey, int] = {}  # at that time
        self._unreadable = 0

    @property
    def states(self) -> tuple[HookState, ...]:
        return self._listener.states

    @property
    def filenos(self) -> tuple[int, ...]:
        """Readable when there is something to hear."""
        return self._listener.filenos

    @property
    def errors(self) -> int:
        return self._finder.errors + self._unreadable

    # ---- starts and ends --------------------------------------------------------------------

    def running(self) -> Iterator[Item]:
        """All VMMs, the oldest first: it keeps a name that several bear."""
        tasks = procfs.vmms(self._proc, self._programs)
        yield from self._partings()
        for task in sorted(tasks, key=lambda task: task.start_ns):
            yield from self._welcome(task)

    def hear(self) -> Iterator[Item]:
        """What the kernel has told by itself. So a VM is known before it pins, and gone when it
        ends."""
        for news in self._listener.take():
            match news:
                case Executed(tgid):
                    if task := procfs.vmm(self._proc, tgid, self._programs):
                        yield from self._partings()
                        yield from self._welcome(task)
                case Exited(tgid):
                    self._ended.add(tgid)
                case DriverChanged(driver):
                    if "vfio" in driver:
                        self._pins.clear()
                case ModuleAdded():
                    self._on_module()
                case Overrun():
                    self._doubt = True
                    yield Rescanned()
                    yield from self.running()

    def _welcome(self, task: TaskKey) -> Iterator[Item]:
        self._running.add(task)
        yield from self.about(task)

    def _partings(self) -> Iterator[Item]:
        """Before one starts, since it may be a VM that just ended: that has its name until then."""
        for task in tuple(self._running):
            told = self._doubt or task.tgid in self._ended
            if told and not procfs.is_alive(self._proc, task):
                self._running.discard(task)
                yield TaskEnded(task)

    def gone(self, known: Iterable[TaskKey]) -> list[TaskKey]:
        """Which of these have ended. One whose first thread has ended before others is looked at
        again the next time."""
        asked = [task for task in known if self._doubt or task.tgid in self._ended]
        alive = {task for task in asked if procfs.is_alive(self._proc, task)}
        self._ended &= {task.tgid for task in alive}
        self._doubt = False
        ended = [task for task in asked if task not in alive]
        self._running.difference_update(ended)
        for task in ended:
            for kept in (self._unfinished, self._looked, self._pins):
                kept.pop(task, None)
        return ended

    # ---- what is found of them --------------------------------------------------------------

    def about(self, task: TaskKey, cmdline: tuple[str, ...] | None = None) -> Iterator[Item]:
        """What names the VM of a process, and its devices."""
        if cmdline is None:
            cmdline = self._finder.cmdline(task.tgid)
        found = self._finder.evidence(task, cmdline)
        yield VmFound(task, cmdline, found.cgroup, found.domain)
        if found.domain is None and any(attribute.wanted(found, self._programs)):
            self._unfinished.setdefault(task, (cmdline, TRIES))
        else:
            self._unfinished.pop(task, None)
        if cmdline and self._programs.vmm(cmdline[0]) is not None:
            self._looked.pop(task, None)
            yield from self.devices(task, cmdline)

    def devices(self, task: TaskKey, cmdline: tuple[str, ...] = ()) -> Iterator[Item]:
        """Its devices now, unless that was asked a moment ago. One that has opened none yet, or is
        gone already, has those that its command line names."""
        now = clock.monotonic_s()
        if now < self._looked.get(task, -LOOK_AGAIN_S) + LOOK_AGAIN_S:
            return
        self._looked[task] = now
        try:
            found = devices.opened(self._proc, self._sys, task.tgid)
        except OSError:
            self._unreadable += 1
            found = ()
        if found := found or devices.named(self._sys, cmdline):
            yield DevicesFound(task, found)

    def more(self, pins: Mapping[TaskKey, int]) -> Iterator[Item]:
        """What nobody tells, to be asked for now and then: who is gone, where the kernel does not
        tell; what libvirt has written meanwhile; and devices that were plugged into VMs, which have
        pinned more since. `pins` are those of VMs."""
        self._doubt = self._doubt or not self._listener.tells_processes
        for task, (cmdline, tries) in tuple(self._unfinished.items()):
            self._unfinished[task] = (cmdline, tries - 1)
            yield from self.about(task, cmdline)
            if tries == 1:
                self._unfinished.pop(task, None)
        changed = (task for task, count in pins.items() if self._pins.get(task) != count)
        for task in islice(changed, LOOKS):
            self._pins[task] = pins[task]
            yield from self.devices(task)

    def close(self) -> None:
        self._listener.close()
