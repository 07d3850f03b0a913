"""Processes that run VMs: that they start and end, and what is found out about each.

Takes roots; gives items for the pipeline and the kernel's news. What could not be read is counted
in `errors`; nothing is raised for the sake of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pinwatch import attribute
from pinwatch.host import clock, devices, netlink, procfs
from pinwatch.host.vms import Finder
from pinwatch.model.kernel import HookState
from pinwatch.model.sample import TaskKey
from pinwatch.recording import DevicesFound, VmFound

TRIES = 6  # one each housekeeping: libvirt writes its file once QEMU answers, a pin or two later
LOOK_AGAIN_S = 10.0  # which devices a process has: a VM of hundreds of files takes a millisecond


class Lives:
    """Watches from its start; `running` then finds who was there before."""

    def __init__(self, *, root: Path, proc: Path, sys: Path, programs: attribute.Programs) -> None:
        self._proc = proc
        self._sys = sys
        self._programs = programs
        self._finder = Finder(proc, root, programs)
        self._listener = netlink.Listener()
        self._looked: dict[TaskKey, float] = {}
        self._unfinished: dict[TaskKey, tuple[tuple[str, ...], int]] = {}
        self._unreadable = 0

    @property
    def states(self) -> tuple[HookState, ...]:
        return self._listener.states

    @property
    def tells_ends(self) -> bool:
        """Else somebody must look who is still alive."""
        return self._listener.tells_processes

    @property
    def filenos(self) -> tuple[int, ...]:
        """Readable when there is news."""
        return self._listener.filenos

    @property
    def errors(self) -> int:
        return self._finder.errors + self._unreadable

    def news(self) -> Iterator[netlink.News]:
        return self._listener.take()

    def running(self) -> list[TaskKey]:
        """All VMMs, the oldest first: it keeps a name that several bear."""
        tasks = procfs.vmms(self._proc, self._programs)
        return sorted(tasks, key=lambda task: task.start_ns)

    def started(self, tgid: int) -> TaskKey | None:
        """The process, if what it runs now is a VMM."""
        return procfs.vmm(self._proc, tgid, self._programs)

    def is_alive(self, task: TaskKey) -> bool:
        return procfs.is_alive(self._proc, task)

    def about(
        self, task: TaskKey, cmdline: tuple[str, ...] | None = None
    ) -> Iterator[VmFound | DevicesFound]:
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

    def more(self) -> Iterator[VmFound | DevicesFound]:
        """Of those whose file was not there yet."""
        for task, (cmdline, tries) in tuple(self._unfinished.items()):
            self._unfinished[task] = (cmdline, tries - 1)
            yield from self.about(task, cmdline)
            if tries == 1:
                self._unfinished.pop(task, None)

    def devices(self, task: TaskKey, cmdline: tuple[str, ...] = ()) -> Iterator[DevicesFound]:
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

    def forget(self, task: TaskKey) -> None:
        self._looked.pop(task, None)
        self._unfinished.pop(task, None)

    def close(self) -> None:
        self._listener.close()
