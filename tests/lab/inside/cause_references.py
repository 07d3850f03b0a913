"""Something else refers to the memory that is to be pinned: a pipe, a process, a slow disk."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from typing import Any

from tests.lab.inside import memory, pages, slow, surroundings, syscalls
from tests.lab.inside.cause import running_kernel
from tests.lab.inside.memory import PAGE, Memory
from tests.lab.inside.surroundings import beside, wait_until
from tests.lab.inside.vfio import Container

MIB = 1 << 20
_HUGE = 2 * MIB
_PREADV = ("295", "327")


def by_pipe() -> dict[str, Any]:
    """One of 256 pages sits in a pipe that nobody reads (vmsplice: a plain reference)."""
    ram = memory.memfd(MIB)
    memory.hold_in_pipe(ram, MIB // 2)
    where = pages.zone(pages.frame(ram.address + MIB // 2))
    return {"errno": Container().map(ram), "zone": where}


def by_process_vm_readv() -> dict[str, Any]:
    """Another process reads 16 pages of shared memory, and stops in the middle."""
    ram = memory.memfd(MIB)  # a name, or Python unmaps it
    return _pinned_by_reader(ram.address)


def anonymous_by_process_vm_readv() -> dict[str, Any]:
    """The same with private memory: a pinned page of it cannot even be unmapped."""
    address = syscalls.map_memory(MIB)
    syscalls.advise(address, MIB, syscalls.MADV_NOHUGEPAGE)
    # Written after the fork below: pages that a child shares are not this process's own.
    return _pinned_by_reader(address, after_fork=lambda: syscalls.touch(address, MIB))


def _pinned_by_reader(
    address: int, after_fork: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    container = Container()
    go = os.pipe()
    reader_of = os.getpid()

    def read_and_stop() -> None:
        # The reader pins up to 16 pages, then copies them to where userfaultfd makes it wait.
        os.read(go[0], 1)
        syscalls.read_of_process(reader_of, address, syscalls.missing_page(), 16 * PAGE)

    with beside(read_and_stop) as pid:
        after_fork()
        where = pages.zone(pages.frame(address))
        before = pages.outstanding_pins()
        os.write(go[1], b"x")
        wait_until(lambda: pages.waits_in(pid) == "handle_userfault", "the reader to stop")
        pins = pages.outstanding_pins() - before
        error = container.map_range(address, MIB)
        still = pages.waits_in(pid)
    wait_until(lambda: pages.outstanding_pins() <= before, "the pins to be gone")
    return {
        "errno": error,
        "zone": where,
        "pins": pins,
        "reader": still,
        "errno_afterwards": container.map_range(address, MIB),
    }


def by_direct_io() -> dict[str, Any]:
    """Another process reads from a slow disk straight into the memory (O_DIRECT)."""
    container = Container()
    ram = memory.memfd(MIB)

    with slow.device() as disk:
        disk.delay(read_ms=30_000)

        def read() -> None:
            fd = os.open(disk.path, os.O_RDONLY | os.O_DIRECT)
            os.preadv(fd, [memoryview(ram.view)[: 4 * PAGE]], 0)

        before = pages.outstanding_pins()
        with beside(read) as pid:
            wait_until(lambda: pages.syscall_of(pid) in _PREADV, "the read to be under way")
            time.sleep(0.2)  # from the call's beginning to where it has the pages
            where = pages.zone(pages.frame(ram.address))
            pins = pages.outstanding_pins() - before
            error = container.map(ram)
            still = pages.syscall_of(pid) in _PREADV
            disk.delay()
    return {
        "errno": error,
        "zone": where,
        "pins": pins,
        "still_reading": still,
        "errno_afterwards": container.map(ram),
    }


def hugetlb_by_pipe() -> dict[str, Any]:
    """A 2 MiB page of hugetlbfs in ZONE_MOVABLE, held by a pipe; the kernel zone has room."""
    with surroundings.hugepages(node=0, count=4):
        ram = _hugetlb(_HUGE)
        where = pages.zone(pages.frame(ram.address))
        reader = memory.hold_in_pipe(ram, 0)
        container = Container()
        error = container.map(ram)
        os.read(reader, PAGE)
        afterwards = container.map(ram)
        moved_to = pages.zone(pages.frame(ram.address))
        container.close()
        _give_back(ram)
    return {
        "errno": error,
        "zone": where,
        "errno_afterwards": afterwards,
        "moved_to": moved_to,
    }


def hugetlb_in_movable() -> dict[str, Any]:
    """6.1 takes no page of hugetlbfs that lies in ZONE_MOVABLE, though nobody else holds it: what
    makes the lockless walk fall back is an error in the slow one (and a warning in the log)."""
    with surroundings.hugepages(node=0, count=4):
        ram = _hugetlb(_HUGE)
        where = pages.zone(pages.frame(ram.address))
        container = Container()
        error = container.map(ram)
        container.close()
        _give_back(ram)
    return {"errno": error, "zone": where}


def _hugetlb(size: int) -> Memory:
    fd = os.memfd_create("pinwatch-lab", os.MFD_HUGETLB | os.MFD_HUGE_2MB)
    os.ftruncate(fd, size)
    return memory.map_fd(fd, size)


def _give_back(ram: Memory) -> None:
    """Unmap: the view itself lives as long as the process, and so would its huge pages."""
    syscalls.unmap(ram.address, ram.size)
    ram.close()


def no_destination() -> dict[str, Any]:
    """Base pages of a process that may only use node 1, which is all ZONE_MOVABLE."""
    container = Container()
    with surroundings.cgroup(cpuset_mems="1"):
        ram = memory.memfd(MIB)
        where = pages.zone(pages.frame(ram.address))
        error = container.map(ram)
    return {"errno": error, "zone": where, "errno_afterwards": container.map(ram)}


def no_hugetlb_destination() -> dict[str, Any]:
    """The same with a huge page out of node 1's pool."""
    container = Container()
    with surroundings.hugepages(node=1, count=2):
        with surroundings.cgroup(cpuset_mems="1"):
            ram = _hugetlb(_HUGE)
            where = pages.zone(pages.frame(ram.address))
            error = container.map(ram)
        afterwards = container.map(ram)
        container.close()
        _give_back(ram)
    return {"errno": error, "zone": where, "errno_afterwards": afterwards}


def in_mlock_batch(times: int = 30, patience_s: float = 30) -> dict[str, Any]:
    """Another process on the other CPU has the last page locked on fault (mlock2) and faults it in
    all the time, which parks it in that CPU's batch.  The kernel drains the batches when it comes
    to the first page, so this is a race: it must be parked again until the last one.
    (mlock and munlock do not do: they drain their own CPU before they return.)
    On 6.1 a tenth of them fail, each for the batch; on 7.2 nearly all do, a fifth of them for a
    batch that is still full afterwards. So it goes on until enough have failed, or for so long."""
    enough = 3 if running_kernel() == "6.1" else 40
    container = Container()
    ram = memory.memfd(_HUGE)  # what VFIO pins at a time
    size = PAGE  # the fewer, the longer until the batch is full, and emptied
    last = ram.address + ram.size - size
    here, there = sorted(os.sched_getaffinity(0))[:2]

    def fault_again_and_again() -> None:
        os.sched_setaffinity(0, {there})
        syscalls.mlock_on_fault(last, size)
        while True:
            syscalls.advise(last, size, syscalls.MADV_DONTNEED_LOCKED)
            syscalls.read_pages(last, size)

    errors: dict[int, int] = {}
    with beside(fault_again_and_again) as pid:
        os.sched_setaffinity(0, {here})
        began, tried = time.monotonic(), 0
        while tried < times or (
            tried - errors.get(0, 0) < enough and time.monotonic() - began < patience_s
        ):
            tried += 1
            ram.view.madvise(mmap.MADV_REMOVE)
            syscalls.touch(ram.address, ram.size)
            where = pages.zone(pages.frame(last))
            error = container.map(ram)
            errors[error] = errors.get(error, 0) + 1
            if not error:
                container.unmap(ram.size)
        cpu = pages.cpu_seconds(pid)
    return {
        "errno": max(errors),
        "times": tried,
        "failed": tried - errors.get(0, 0),
        "errors": errors,
        "zone": where,
        "other_cpu_s": cpu,
    }
