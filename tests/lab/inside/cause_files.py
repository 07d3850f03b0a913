"""The memory is a file's page cache: its pages are being written, or belong to a journal."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.inside import pages, slow, surroundings, syscalls
from tests.lab.inside.memory import PAGE
from tests.lab.inside.slow import Disk
from tests.lab.inside.surroundings import beside, wait_until
from tests.lab.inside.vfio import Container

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """A page in ZONE_MOVABLE that a slow disk is just being given."""

    disk: Disk
    address: int
    pfn: int

    def under_writeback(self) -> bool:
        return bool(pages.flags(self.pfn) & pages.WRITEBACK)

    def on_lru(self) -> bool:
        return bool(pages.flags(self.pfn) & pages.LRU)


@contextmanager
def _under_writeback(
    write_ms: int, size: int = PAGE, confined: AbstractContextManager[object] | None = None
) -> Iterator[Written]:
    with (
        slow.file_system() as (disk, directory),
        slow.mapped_file(directory, size) as (fd, address),
        confined or nullcontext(),
    ):
        disk.delay(write_ms=write_ms)
        os.pwrite(fd, b"b" * size, 0)
        syscalls.start_writeback(fd)
        written = Written(disk, address, pages.frame(address))
        wait_until(written.under_writeback, "writeback to begin")
        try:
            yield written
        finally:
            disk.delay()


def slow_writeback() -> dict[str, Any]:
    """No failure: a pin that waits for the disk, as the page must be written before it moves."""
    container = Container()
    with _under_writeback(write_ms=3000) as written:
        where = pages.zone(written.pfn)
        error, wall, cpu = _timed(lambda: container.map_range(written.address, PAGE, write=False))
        moved_to = pages.zone(pages.frame(written.address))
        container.close()
    return {"errno": error, "zone": where, "moved_to": moved_to, "wall_s": wall, "cpu_s": cpu}


def _timed(work: Callable[[], int]) -> tuple[int, float, float]:
    """What `work` gives, with the wall clock's and this thread's CPU seconds."""
    began, cpu = time.monotonic(), time.thread_time()
    result = work()
    return result, time.monotonic() - began, time.thread_time() - cpu


@contextmanager
def _isolated_by_another(written: Written) -> Iterator[None]:
    """Another process moves the page to node 1: it takes the page off the LRU, then waits for the
    disk.  Whoever wants to pin the page meanwhile tries again and again."""

    def move() -> None:
        syscalls.read_pages(written.address, PAGE)
        syscalls.move_page(written.address, 1)

    with beside(move):
        wait_until(lambda: not written.on_lru(), "the page to be isolated")
        try:
            yield
        finally:
            written.disk.delay()  # or the child, though killed, waits for its end


def isolation_livelock() -> dict[str, Any]:
    """The pin spins until the other process is done with the page, then works."""
    container = Container()
    with _under_writeback(write_ms=8000) as written:
        where = pages.zone(written.pfn)
        with _isolated_by_another(written):
            error, wall, cpu = _timed(
                lambda: container.map_range(written.address, PAGE, write=False)
            )
            moved_to = pages.zone(pages.frame(written.address))
        container.close()
    return {"errno": error, "zone": where, "moved_to": moved_to, "wall_s": wall, "cpu_s": cpu}


def interrupted() -> dict[str, Any]:
    """The pinning process is killed while it waits for the disk, and learns of it when that is
    done.  EINTR is what the kernel gave it; nobody was left to see that."""
    with _under_writeback(write_ms=3000) as written:

        def pin() -> None:
            Container().map_range(written.address, PAGE, write=False)

        with beside(pin) as pinning:
            stack = Path(f"/proc/{pinning}/stack")
            wait_until(lambda: "folio_wait_writeback" in stack.read_text(), "the pin to wait")
            os.kill(pinning, signal.SIGKILL)
            _, status, _ = os.wait4(pinning, 0)
    return {"errno": errno.EINTR, "pid": pinning, "signal": os.WTERMSIG(status)}


def killed_livelock() -> dict[str, Any]:
    """As isolation_livelock, but the pinning process is killed while it spins."""
    ready, go = os.pipe(), os.pipe()
    with _under_writeback(write_ms=20_000) as written:

        def pin() -> None:
            container = Container()
            # Mapped here before it is isolated: a fault would wait for the page's lock instead.
            syscalls.read_pages(written.address, PAGE)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            container.map_range(written.address, PAGE, write=False)

        with beside(pin) as pinning:
            os.read(ready[0], 1)
            with _isolated_by_another(written):
                os.write(go[1], b"x")
                return _killed_while_spinning(pinning, written)


def _killed_while_spinning(pinning: int, written: Written) -> dict[str, Any]:
    idle = pages.cpu_seconds(pinning)
    wait_until(lambda: pages.cpu_seconds(pinning) - idle > 3, "the pin to spin")
    isolated, syscall = not written.on_lru(), pages.syscall_of(pinning)
    began = time.monotonic()
    os.kill(pinning, signal.SIGKILL)
    _, status, usage = os.wait4(pinning, 0)
    return {
        "errno": errno.EINTR,
        "pid": pinning,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "kernel_cpu_s": usage.ru_stime,
        "isolated": isolated,
        "syscall": syscall,
        "died_after_s": time.monotonic() - began,
        "still_under_writeback": written.under_writeback(),
    }


def journal_buffers() -> dict[str, Any]:
    """ext4 with data=journal: what was written belongs to the open transaction, until commit."""
    container = Container()
    with (
        slow.file_system(options="data=journal,commit=100", features="has_journal") as (_, where),
        slow.mapped_file(where, PAGE) as (fd, address),
    ):
        os.pwrite(fd, b"b" * PAGE, 0)
        zone = pages.zone(pages.frame(address))
        error = container.map_range(address, PAGE, write=False)
        os.sync()
        afterwards = container.map_range(address, PAGE, write=False)
        container.close()
    return {"errno": error, "zone": zone, "errno_afterwards": afterwards}


def split_under_writeback() -> dict[str, Any]:
    """A large folio of ext4 that must be split, as no destination of its size is to be had (node 1
    is all Movable), and cannot, as it is being written."""
    container = Container()
    # It begins in there: a process that enters brings its memory along, and waits for its disk.
    node_1 = surroundings.cgroup(cpuset_mems="1")
    with _under_writeback(write_ms=20_000, size=2 * MIB, confined=node_1) as written:
        error = container.map_range(written.address, 2 * MIB, write=False)
        writeback, where = written.under_writeback(), pages.zone(written.pfn)
        large = bool(pages.flags(pages.frame(written.address + PAGE)) & pages.COMPOUND_TAIL)
        container.close()
    return {"errno": error, "zone": where, "large_folio": large, "under_writeback": writeback}


def dirty_on_minix() -> dict[str, Any]:
    """A dirty page of a file system that cannot migrate pages itself: it is written first."""
    return _dirty_without_migrate_op("minix")


def dirty_on_nilfs2() -> dict[str, Any]:
    """The same, but this one only notes that the page is to be written, and keeps it dirty."""
    return _dirty_without_migrate_op("nilfs2")


def _dirty_without_migrate_op(kind: str) -> dict[str, Any]:
    container = Container()
    with (
        slow.file_system(kind=kind) as (disk, directory),
        slow.mapped_file(directory, PAGE) as (fd, address),
    ):
        os.pwrite(fd, b"b" * PAGE, 0)
        pfn = pages.frame(address)
        where, dirty, writes = pages.zone(pfn), bool(pages.flags(pfn) & pages.DIRTY), disk.writes()
        error = container.map_range(address, PAGE, write=False)
        moved_to, writes = pages.zone(pages.frame(address)), disk.writes() - writes
        container.close()
    return {
        "errno": error,
        "zone": where,
        "dirty": dirty,
        "moved_to": moved_to,
        "writes": writes,
    }


def writable_file() -> dict[str, Any]:
    """A device may not write into a file's pages for the long term: the file system tracks who
    makes them dirty."""
    container = Container()
    with (
        slow.file_system() as (_, directory),
        slow.mapped_file(directory, PAGE) as (_, address),
    ):
        error = container.map_range(address, PAGE)
        container.close()
    return {"errno": error}


def direct_access() -> dict[str, Any]:
    """A file of a persistent memory device that is mapped straight from there (-o dax)."""
    subprocess.run(["modprobe", "-a", "nd_e820", "nd_pmem", "ext4"], check=True)
    wait_until(lambda: Path("/dev/pmem0").exists(), "/dev/pmem0")
    mount = Path("/run/pinwatch-dax")
    mount.mkdir(exist_ok=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "/dev/pmem0"], check=True)
    syscalls.mount("/dev/pmem0", mount, "ext4", "dax")
    container = Container()
    try:
        with slow.mapped_file(mount, PAGE) as (_, address):
            error = container.map_range(address, PAGE, write=False)
            container.close()
        return {"errno": error, "mount": _mount_options(mount)}
    finally:
        syscalls.unmount(mount)


def _mount_options(mount: Path) -> str:
    lines = Path("/proc/mounts").read_text().splitlines()
    return next(line.split()[3] for line in lines if line.split()[1] == str(mount))
