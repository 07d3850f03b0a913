"""The kernel says no before any page would move: mappings, faults, limits, VFIO's own rules."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path
from typing import Any

from tests.lab.inside import memory, pages, surroundings, syscalls, vfio
from tests.lab.inside.memory import PAGE
from tests.lab.inside.vfio import Container
from tests.lab.inside.workload import drop_capability

MIB = 1 << 20
_IPC_LOCK = 14
_ENTRY_LIMIT = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"


def hole() -> dict[str, Any]:
    """One page in the middle of the range is not mapped."""
    ram = memory.memfd(MIB)
    syscalls.unmap(ram.address + MIB // 2, PAGE)
    return {"errno": Container().map(ram), "hole": MIB // 2}


def read_only() -> dict[str, Any]:
    """Memory that may only be read, for a device that may write."""
    address = syscalls.map_memory(MIB, protection=syscalls.PROT_READ)
    return {"errno": Container().map_range(address, MIB)}


def pci_bar() -> dict[str, Any]:
    """A PCI device's registers (a pfn mapping), given to io_uring as a buffer."""
    resource0 = os.open(vfio.find_edu() / "resource0", os.O_RDWR | os.O_SYNC)
    address = syscalls.map_memory(PAGE, fd=resource0)
    return {"errno": syscalls.register_buffer(syscalls.io_uring(), address, PAGE)}


def secret() -> dict[str, Any]:
    """memfd_secret(2): memory that is in no page table but its owner's."""
    fd = syscalls.memfd_secret()
    os.ftruncate(fd, MIB)
    address = syscalls.map_memory(MIB, fd=fd)
    syscalls.touch(address, MIB)
    return {"errno": Container().map_range(address, MIB)}


def beyond_the_end() -> dict[str, Any]:
    """A memfd that became shorter than its mapping."""
    ram = memory.memfd(MIB)
    os.ftruncate(ram.fd, MIB // 2)
    return {"errno": Container().map(ram), "end": MIB // 2}


def out_of_memory() -> dict[str, Any]:
    """A cgroup's limit is met while the pin faults the memory in, and nobody may be killed."""
    container = Container()
    ram = memory.memfd(3 * MIB // 2, populate=False)
    # Since 6.12 the IOMMU's page tables are charged as well: here they exist already.
    container.map(memory.memfd(PAGE), iova=(16 << 20))
    Path("/proc/self/oom_score_adj").write_text("-1000")
    with surroundings.cgroup(memory_max=str(MIB)) as group:
        error = container.map(ram, iova=(16 << 20) + PAGE)
        # First of all: at the limit, Python itself cannot go on.
        ram.view.madvise(mmap.MADV_REMOVE)
        events = surroundings.memory_events(group)
    return {"errno": error, **events}


def out_of_page_tables() -> dict[str, Any]:
    """The limit is met by the IOMMU's page tables, one for each 2 MiB that have a page in them."""
    container, ram = Container(), memory.memfd(PAGE)
    Path("/proc/self/oom_score_adj").write_text("-1000")
    with surroundings.cgroup(memory_max=str(MIB // 2)) as group:
        for mapped in range(1024):
            if error := container.map(ram, iova=(mapped + 1) << 21):
                break
        container.close()
        events = surroundings.memory_events(group)
    return {"errno": error, "mapped": mapped, **events}


def poisoned() -> dict[str, Any]:
    """A page that broke (madvise MADV_HWPOISON simulates it).  The guest does without it then."""
    ram = memory.memfd(MIB)
    where = ram.address + MIB // 2
    pfn = pages.frame(where)
    syscalls.advise(where, PAGE, syscalls.MADV_HWPOISON)
    poisoned_page = bool(pages.flags(pfn) & pages.HWPOISON)
    error = Container().map(ram)
    ram.view.madvise(mmap.MADV_REMOVE)
    return {"errno": error, "poisoned": poisoned_page}


def memlock() -> dict[str, Any]:
    """VFIO counts pinned pages against RLIMIT_MEMLOCK."""
    container, ram = Container(), memory.memfd(4 * MIB)
    _limit_memlock(MIB)
    return {"errno": container.map(ram), "limit": MIB, "size": ram.size}


def memlock_io_uring() -> dict[str, Any]:
    """io_uring does so too, over all processes of the user."""
    ram = memory.memfd(4 * MIB)
    _limit_memlock(MIB)
    error = syscalls.register_buffer(syscalls.io_uring(), ram.address, ram.size)
    return {"errno": error, "limit": MIB, "size": ram.size}


def _limit_memlock(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    drop_capability(_IPC_LOCK)


def twice() -> dict[str, Any]:
    """IO addresses that are mapped already."""
    container, ram = Container(), memory.memfd(MIB)
    first = container.map(ram)
    return {"errno": container.map(ram, size=PAGE), "errno_first": first}


def too_many() -> dict[str, Any]:
    """More mappings than the module's dma_entry_limit."""
    vfio.load_modules()
    with surroundings.setting(_ENTRY_LIMIT, "4"):
        container = Container()
    ram = memory.memfd(MIB)
    errors = [container.map(ram, offset=n * PAGE, size=PAGE, iova=(n + 1) << 24) for n in range(5)]
    return {"errno": errors[-1], "errors": errors}


def beyond_the_aperture() -> dict[str, Any]:
    """IO addresses that this IOMMU does not have: 39 bits are all."""
    container, ram = Container(), memory.memfd(MIB)
    errors = [container.map(ram, iova=1 << bits) for bits in (24, 39, 47)]
    return {"errno": errors[1], "errors": errors}


def misaligned() -> dict[str, Any]:
    """An IO address in the middle of a page."""
    return {"errno": Container().map(memory.memfd(MIB), iova=(1 << 24) + 512)}
