"""VMs that a forecast is made of: memory of a kind, in surroundings that let a pin of it work, or
not. Each is a context manager that a process of its own enters, and that yields the memory.
"""

from __future__ import annotations

import mmap
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.inside import memory, slow, surroundings, syscalls
from tests.lab.inside.iouring import Ring
from tests.lab.inside.memory import PAGE
from tests.lab.inside.surroundings import beside, wait_until
from tests.lab.inside.vfio import Container
from tests.lab.inside.workload import drop_capability

MIB = 1 << 20
HUGE = 2 * MIB
SHMEM_THP = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
_CAP_IPC_LOCK, _MBIND, _MPOL_BIND = 14, 237, 2
_KEEP_FREE = 96 * MIB  # of kernel zones, when they are filled: below that, others die
_FULL = Path("/run/pinwatch-full")
Region = tuple[int, int]  # address, bytes
Setup = Callable[[Container], AbstractContextManager[Region]]


@dataclass(frozen=True, slots=True)
class Expected:
    """What `check` has to say; of 6.1 where that differs. `hidden`: what makes the pin fail is
    nothing that can be seen from outside."""

    verdict: str
    in_6_1: str = ""
    hidden: bool = False


# ---- enough ---------------------------------------------------------------------------------


@contextmanager
def small_pages(_container: Container) -> Iterator[Region]:
    """All in ZONE_MOVABLE, and room to move to."""
    ram = memory.memfd(128 * MIB)
    yield ram.address, ram.size


@contextmanager
def nothing_there(_container: Container) -> Iterator[Region]:
    """A file that nobody has written to: the pin itself brings the pages."""
    ram = memory.memfd(128 * MIB, populate=False)
    yield ram.address, ram.size


@contextmanager
def huge_pages(_container: Container) -> Iterator[Region]:
    """Huge pages of shmem in ZONE_MOVABLE, and whole blocks to move them to."""
    with surroundings.setting(SHMEM_THP, "force"):
        ram = memory.memfd(128 * MIB)
    yield ram.address, ram.size


@contextmanager
def zero_pages(_container: Container) -> Iterator[Region]:
    """Private memory that was only read: one zero page everywhere, which a pin replaces."""
    address = private_memory(64 * MIB)
    syscalls.read_pages(address, 64 * MIB)
    yield address, 64 * MIB


@contextmanager
def pinned_already(container: Container) -> Iterator[Region]:
    """Another map of the same memory has moved it."""
    ram = memory.memfd(64 * MIB)
    if error := container.map(ram, iova=1 << 33):
        raise OSError(error, "the first map")
    yield ram.address, ram.size


@contextmanager
def policy_of_movable_node(_container: Container) -> Iterator[Region]:
    """mbind(2) to a node of ZONE_MOVABLE only. What moves pages for a pin does not ask it."""
    ram = memory.memfd(64 * MIB, populate=False)
    syscalls.bind(ram.address, ram.size, node=1)
    syscalls.touch(ram.address, ram.size)
    yield ram.address, ram.size


@contextmanager
def hugetlb(_container: Container) -> Iterator[Region]:
    """A pool in ZONE_MOVABLE of a node that has kernel memory as well. 6.1 refuses it."""
    with surroundings.hugepages(0, 16):
        address = huge_memory(16)
        syscalls.touch(address, 16 * HUGE)
        yield address, 16 * HUGE


# ---- not --------------------------------------------------------------------------------------


@contextmanager
def held_page(_container: Container) -> Iterator[Region]:
    """One page is in a pipe. No file of the kernel tells how often a page is held."""
    ram = memory.memfd(64 * MIB)
    memory.hold_in_pipe(ram, 32 * MIB)
    yield ram.address, ram.size


@contextmanager
def movable_only_node(_container: Container) -> Iterator[Region]:
    """Confined by cpuset to a node that has nothing but ZONE_MOVABLE."""
    with surroundings.cgroup(cpuset_mems="1"):
        ram = memory.memfd(32 * MIB)
        yield ram.address, ram.size


@contextmanager
def low_memlock(_container: Container) -> Iterator[Region]:
    """RLIMIT_MEMLOCK below what is to be pinned, and no CAP_IPC_LOCK."""
    ram = memory.memfd(64 * MIB)
    yield from _limited(ram.address, ram.size)


def _limited(address: int, size: int) -> Iterator[Region]:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (16 * MIB, 16 * MIB))
    drop_capability(_CAP_IPC_LOCK)
    yield address, size


@contextmanager
def small_cgroup(_container: Container) -> Iterator[Region]:
    """The pin must bring more pages than memory.max lets the process have."""
    with surroundings.cgroup(memory_max=str(64 * MIB)):
        ram = memory.memfd(256 * MIB, populate=False)
        yield ram.address, ram.size


@contextmanager
def secret_memory(_container: Container) -> Iterator[Region]:
    """memfd_secret(2), most of it not there: 6.1 gives no more than some MiB."""
    fd = syscalls.memfd_secret()
    os.ftruncate(fd, 32 * MIB)
    address = syscalls.map_memory(32 * MIB, fd=fd)
    syscalls.touch(address, MIB)
    yield address, 32 * MIB


@contextmanager
def shared_file(_container: Container) -> Iterator[Region]:
    """A file of ext4, mapped shared."""
    with (
        slow.file_system() as (_, directory),
        slow.mapped_file(directory, 32 * MIB) as (_, address),
    ):
        yield address, 32 * MIB


@contextmanager
def hugetlb_of_movable_node(_container: Container) -> Iterator[Region]:
    """A pool on a node of ZONE_MOVABLE only, and none elsewhere."""
    with surroundings.hugepages(1, 16), surroundings.cgroup(cpuset_mems="0-1"):
        address = huge_memory(16)
        syscalls.touch(address, 16 * HUGE)
        yield address, 16 * HUGE


# ---- a host that is full ------------------------------------------------------------------------


@contextmanager
def too_little(_container: Container) -> Iterator[Region]:
    """Kernel zones have less left than must move; ZONE_MOVABLE has plenty."""
    with beside(_fill_kernel_zones):
        _until_full()
        ram = memory.memfd(512 * MIB)
        yield ram.address, ram.size


@contextmanager
def too_little_for_new(_container: Container) -> Iterator[Region]:
    """The same, and the memory is not even there yet."""
    with beside(_fill_kernel_zones):
        _until_full()
        ram = memory.memfd(512 * MIB, populate=False)
        yield ram.address, ram.size


@contextmanager
def no_huge_blocks(_container: Container) -> Iterator[Region]:
    """Room enough, in pieces: huge pages must be split, which works if nobody holds them."""
    with beside(_fragment_kernel_zones):
        _until_full()
        with surroundings.setting(SHMEM_THP, "force"):
            ram = memory.memfd(128 * MIB)
        yield ram.address, ram.size


def _until_full() -> None:
    wait_until(_FULL.exists, "kernel zones to be full", patience_s=300)
    _die_first()


def settle() -> None:
    """Wait until what filled the host has been given back."""
    if _FULL.exists():
        free = int(_FULL.read_text())
        wait_until(
            lambda: free_kernel_bytes() > free * 9 // 10, "the host to be empty", patience_s=60
        )
        _FULL.unlink()


def _die_first() -> None:
    """Whoever runs out of memory here, it shall be this process."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def _fill_kernel_zones() -> None:
    """Pins move pages there, and keep them."""
    os.closerange(3, 1024)  # the container is not ours
    free = free_kernel_bytes()
    while (room := free_kernel_bytes() - _KEEP_FREE) > 0:
        if error := Ring().pin(memory.memfd(min(32 * MIB, room // PAGE * PAGE))):
            raise OSError(error, "pin")
    _stay(free)


def _fragment_kernel_zones() -> None:
    """Pin all, let go, and pin one page in each 256 KiB; the rest goes back. What is free between
    the pinned pages stays in pieces."""
    os.closerange(3, 1024)  # the container is not ours
    step, portion, free = 64, 32 * MIB, free_kernel_bytes()
    rams = []
    ring = Ring()
    while free_kernel_bytes() > _KEEP_FREE:
        ram = memory.memfd(portion)
        if error := ring.pin(ram):
            raise OSError(error, "pin")
        ring.unregister()
        rams.append(ram)
    for ram in rams:
        own = Ring()
        numbers = range(0, ram.size // PAGE, step)
        own.register([(ram.address + number * PAGE, PAGE) for number in numbers])
        for number in numbers:
            memory.punch(ram, (number + 1) * PAGE, (step - 1) * PAGE)
    _stay(free)


def _stay(free: int) -> None:
    """`free`: what there was before."""
    _FULL.write_text(str(free))
    time.sleep(3600)


def free_kernel_bytes() -> int:
    """Free memory in zones that pins may have."""
    return sum(free * PAGE for zone, free in memory.free_pages() if zone != "Movable")


# ---- CMA ---------------------------------------------------------------------------------------


@contextmanager
def in_cma(_container: Container) -> Iterator[Region]:
    """Most of it in CMA, with room beside."""
    ram = memory.memfd(512 * MIB)
    yield ram.address, ram.size


@contextmanager
def too_much_in_cma(_container: Container) -> Iterator[Region]:
    """More of it in CMA than there is room beside."""
    _die_first()
    ram = memory.memfd(1900 * MIB)
    yield ram.address, ram.size


# ---- memory --------------------------------------------------------------------------------------


def private_memory(size: int) -> int:
    address = syscalls.map_memory(size)
    syscalls.advise(address, size, syscalls.MADV_NOHUGEPAGE)
    return address


def huge_memory(count: int) -> int:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000  # MAP_HUGETLB
    return syscalls.map_memory(count * HUGE, flags=flags)


SETUPS: dict[str, dict[Setup, Expected]] = {
    "forecast": {
        small_pages: Expected("fine"),
        nothing_there: Expected("fine"),
        huge_pages: Expected("fine"),
        zero_pages: Expected("fine"),
        pinned_already: Expected("fine"),
        policy_of_movable_node: Expected("fine"),
        hugetlb: Expected("fine", in_6_1="will_fail"),
        held_page: Expected("fine", hidden=True),
        movable_only_node: Expected("will_fail"),
        low_memlock: Expected("will_fail"),
        small_cgroup: Expected("at_risk"),
        secret_memory: Expected("will_fail"),
        shared_file: Expected("will_fail", in_6_1="at_risk"),
        hugetlb_of_movable_node: Expected("will_fail"),
        no_huge_blocks: Expected("at_risk"),
        too_little: Expected("will_fail"),
        too_little_for_new: Expected("will_fail"),
    },
    "forecast-cma": {
        in_cma: Expected("fine"),
        too_much_in_cma: Expected("will_fail"),
    },
}
