"""Read what names the VM of a process: command line, cgroup, and the file that attribute/ wants.

Names of files come from the VM's owner. Each is one component, opened inside a directory that is
already open, and a link is not followed; so no name leads out of that directory.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pinwatch import attribute
from pinwatch.attribute import cgroups, libvirt
from pinwatch.host import procfs
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import Evidence, LibvirtDomain

MAX_BYTES = 1 << 20  # a domain with hundreds of devices has some 200 KiB
MAX_NAME_BYTES = 255  # NAME_MAX
PATIENCE_S = 0.2
MAX_WAITING = 8


class Finder:
    """Finds evidence; what could not be read is counted in `errors`, and nothing is raised."""

    def __init__(self, proc: Path, root: Path, programs: attribute.Programs) -> None:
        self._proc = proc
        self._root = root
        self._programs = programs
        self._free = threading.BoundedSemaphore(MAX_WAITING)
        self.errors = 0

    def cmdline(self, tgid: int) -> tuple[str, ...]:
        """The arguments of a process; none when it is gone, or they cannot be had soon.

        Reading them takes the lock of its memory (mm/memory.c: access_remote_vm) and queues behind
        a writer that waits for a pin to end: for ever, when that pin is in a livelock. So another
        thread waits, and few of them.
        """
        answer: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()

        def read() -> None:
            try:
                answer.put(procfs.cmdline(self._proc, tgid))
            finally:
                self._free.release()

        try:
            if self._free.acquire(blocking=False):
                threading.Thread(target=read, daemon=True).start()
                return answer.get(timeout=PATIENCE_S)
        except queue.Empty:
            pass
        except RuntimeError:  # no thread is to be had
            self._free.release()
        self.errors += 1
        return ()

    def evidence(self, task: TaskKey, cmdline: tuple[str, ...]) -> Evidence:
        """All that is known of a process now. Of one that is no VMM only its command line."""
        bare = Evidence(tgid=task.tgid, cmdline=cmdline)
        if cmdline and self._programs.vmm(cmdline[0]) is None:
            return bare
        found = replace(bare, cgroup=self._cgroup(task))
        return replace(found, domain=self._first(attribute.wanted(found, self._programs)))

    def _cgroup(self, task: TaskKey) -> str:
        """Nothing when the process is gone. Asked afterwards, as its number may be used again."""
        path = cgroups.path_of(procfs.cgroup(self._proc, task.tgid))
        return path if procfs.is_alive(self._proc, task) else ""

    def _first(self, files: Iterable[libvirt.WantedFile]) -> LibvirtDomain | None:
        for file in files:
            if domain := self._domain(file):
                return domain
        return None

    def _domain(self, file: libvirt.WantedFile) -> LibvirtDomain | None:
        try:
            data = read_inside(self._root / file.directory, file.name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.errors += 1
            return None
        domain = libvirt.parse(data.decode("utf-8", "replace"))
        self.errors += domain is None
        return domain


def read_inside(directory: Path, name: str, limit: int = MAX_BYTES) -> bytes:
    """A regular file of that directory. OSError when it cannot be read, ValueError when the name is
    none of a file there or the file is longer than `limit`."""
    encoded = os.fsencode(name)
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(encoded) > MAX_NAME_BYTES:
        raise ValueError("not the name of a file in a directory")
    inside = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # NONBLOCK: opening a FIFO must not wait for its other end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(encoded, flags, dir_fd=inside), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("not a regular file")
            data = file.read(limit + 1)
    finally:
        os.close(inside)
    if len(data) > limit:
        raise ValueError(f"longer than {limit} bytes")
    return data
