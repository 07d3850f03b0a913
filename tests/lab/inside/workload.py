"""Processes that pin: `python -m tests.lab.inside.workload NAME JSON-ARGUMENTS`.

Each says on standard output, as one JSON line, what it did; that is the count which pinwatch's
numbers are compared with. A process of its own, because pinwatch counts by process.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.lab.inside import memory, momentary
from tests.lab.inside.memory import PAGE, Memory
from tests.lab.inside.vfio import Container

MIB = 1 << 20
_MBIND, _MLOCK2, _PR_SET_THP_DISABLE = 237, 325, 41
_libc = ctypes.CDLL(None, use_errno=True)


def maps(
    *, mib: int, times: int, fresh: bool = True, hold: int = -1, until: str = ""
) -> dict[str, Any]:
    """Map `mib` MiB `times` times, each time fresh memory or the same; `hold` is the offset of a
    page that a pipe holds. The file `until`, once there, ends it sooner."""
    container = Container()
    size = mib * MIB
    ram = memory.memfd(size)
    errors, began, pinned_before = [], time.monotonic(), _foll_pins()
    for _ in range(times):
        if until and Path(until).exists():
            break
        if hold >= 0:
            memory.hold_in_pipe(ram, hold)
        result = container.map(ram)
        errors.append(result)
        if not result:
            container.unmap(size)
        if fresh:
            ram.view.madvise(9)  # MADV_REMOVE: the pages go, the next are new
            ram.view.madvise(23)  # MADV_POPULATE_WRITE
    seconds = time.monotonic() - began
    acquired = _foll_pins() - pinned_before
    return {"errors": errors, "pages": size // PAGE, "seconds": seconds, "foll_pins": acquired}


def crowd(*, mib: int, threads: int) -> dict[str, Any]:
    """Map from all threads at once, which wait for each other in the kernel (for the container's
    lock); of every second one a pipe holds a page."""
    container = Container()
    memories = [memory.memfd(mib * MIB) for _ in range(threads)]
    for ram in memories[::2]:
        memory.hold_in_pipe(ram, 0)
    ready = threading.Barrier(threads)

    def map_one(number: int) -> int:
        ready.wait()
        return container.map(memories[number], iova=(1 << 30) + number * mib * MIB)

    with ThreadPoolExecutor(threads) as pool:
        errors = list(pool.map(map_one, range(threads)))
    return {"errors": errors}


def _foll_pins() -> int:
    """nr_foll_pin_acquired, settled. Read here and not around the whole scenario, because file
    systems of the lab (9p) pin pages as well while programs start."""
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    return _vmstat("nr_foll_pin_acquired")


def _vmstat(name: str) -> int:
    text = Path("/proc/vmstat").read_text()
    return int(text.split(f"\n{name} ")[1].split()[0])


def cma_map(*, mib: int, held: bool) -> dict[str, Any]:
    """Map memory of which most lies in CMA; `held`: a pipe holds one page that does."""
    container = Container()
    ram = memory.memfd(mib * MIB)
    area = memory.cma_range()
    inside = [pfn in area for pfn in memory.pfns(ram)]
    if held:
        memory.hold_in_pipe(ram, inside.index(True) * PAGE)
    result = container.map(ram)
    after = sum(pfn in area for pfn in memory.pfns(ram))
    in_cma = {"before": sum(inside), "after": after}
    return {"errors": [result], "pages": ram.size // PAGE, "in_cma": in_cma}


def memlock(*, mib: int, limit_mib: int) -> dict[str, Any]:
    """Map more than RLIMIT_MEMLOCK allows."""
    container = Container()
    ram = memory.memfd(mib * MIB)
    limit_locked_memory(limit_mib)
    return {"errors": [container.map(ram)], "pages": mib * MIB // PAGE}


def limit_locked_memory(mib: int) -> None:
    """RLIMIT_MEMLOCK that holds: without CAP_IPC_LOCK (bit 14)."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (mib * MIB, mib * MIB))
    drop_capability(14)


def drop_capability(bit: int) -> None:
    """Take one bit out of the effective and permitted sets (capset(2), version 3)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _libc.capget(header, data)
    data[0] &= ~(1 << bit)
    data[1] &= ~(1 << bit)
    if _libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def fragmented(*, fill_mib: int, every_kib: int, thp_mib: int) -> dict[str, Any]:
    """The founding report: no order-9 block in the kernel zone, huge pages in Movable, one subpage
    held. The filler is pinned, so that it moves into the kernel zone and stays in pieces; then
    huge pages are pinned until the last free huge blocks are used up."""
    container = Container()
    filler = memory.memfd(fill_mib * MIB)
    filled = _fill(container, filler)
    step, iova = every_kib * 1024, 1 << 32
    for offset in range(0, filled, step):
        container.map(filler, offset=offset, size=PAGE, iova=iova + offset)
        memory.punch(filler, offset + PAGE, step - PAGE)
    Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled").write_text("force")
    soaked = _soak_huge_blocks(container, memory.memfd(384 * MIB), iova=1 << 33)
    ram = memory.memfd(thp_mib * MIB)
    memory.hold_in_pipe(ram, ram.size // 2 + 100 * PAGE)
    before = _vmstat("thp_split_page_failed"), _vmstat("thp_migration_fail")
    result = container.map(ram)
    after = _vmstat("thp_split_page_failed"), _vmstat("thp_migration_fail")
    return {
        "errors": [result],
        "pages": ram.size // PAGE,
        "filled": filled,
        "soaked": soaked,
        "split_failed": after[0] - before[0],
        "thp_failed": after[1] - before[1],
    }


def _fill(container: Container, ram: Memory, portion: int = 10 * MIB) -> int:
    """Pin portion by portion, so that the pages move into the kernel zone, until it is nearly
    full (past that the OOM killer comes); let go of the pins, and say how many bytes lie there."""
    moved = 0
    while moved < ram.size and _free_kernel_bytes() > 48 * MIB:
        if error := container.map(ram, offset=moved, size=portion, iova=moved):
            raise OSError(error, "cannot fill the kernel zone")
        moved += portion
    for offset in range(0, moved, portion):
        container.unmap(portion, iova=offset)
    return moved


def _free_kernel_bytes() -> int:
    """Free memory outside ZONE_MOVABLE (/proc/zoneinfo)."""
    return sum(free * PAGE for zone, free in memory.free_pages() if zone != "Movable")


def _soak_huge_blocks(container: Container, ram: Memory, *, iova: int) -> int:
    """Pin one huge page after the other until the kernel finds no huge destination; how many."""
    failed = _vmstat("thp_migration_fail")
    for offset in range(0, ram.size, 2 * MIB):
        container.map(ram, offset=offset, size=2 * MIB, iova=iova + offset)
        if _vmstat("thp_migration_fail") > failed:
            return offset // (2 * MIB)
    raise RuntimeError("the kernel zone still has free huge blocks")


def movable_only(*, mib: int, cpuset: str) -> dict[str, Any]:
    """Live on a node that has nothing but ZONE_MOVABLE: memory to use, none to pin into."""
    container = Container()
    Path(cpuset, "cgroup.procs").write_text(str(os.getpid()))
    ram = memory.memfd(mib * MIB)
    result = container.map(ram)
    # Out again before it speaks: a pipe's pages could not be allocated here either.
    Path(cpuset).parent.joinpath("cgroup.procs").write_text(str(os.getpid()))
    return {"errors": [result], "pages": ram.size // PAGE}


def hints(*, mib: int) -> dict[str, Any]:
    """What a VMM may say of its memory: first nothing is there, then all, then all is pinned. The
    results of the calls, in order."""
    first = memory.memfd(mib * MIB, populate=False)
    said = [_said(_madvise, first, advice) for advice in (14, 26)]
    container, ram = Container(), memory.memfd(mib * MIB)  # MAP_POPULATE
    said += [_said(_madvise, ram, advice) for advice in (14, 15, 26)]
    said += [_said(_mlock, ram), _said(_mlock_on_fault, ram), _said(_mbind, ram)]
    mapped = container.map(ram)
    said += [_said(_madvise, ram, 14), _said(_thp_disable)]
    _madvise(memory.memfd(4 * MIB), 14)  # too small to be a VM's
    return {"said": said, "mapped": mapped}


def _said(call: Callable[..., int], *arguments: object) -> int:
    ctypes.set_errno(0)
    return ctypes.get_errno() if call(*arguments) else 0


def _madvise(ram: Memory, advice: int) -> int:
    return int(_libc.madvise(ctypes.c_void_p(ram.address), ctypes.c_size_t(ram.size), advice))


def _mlock(ram: Memory) -> int:
    return int(_libc.mlock(ctypes.c_void_p(ram.address), ctypes.c_size_t(ram.size)))


def _mlock_on_fault(ram: Memory) -> int:
    """mlock2(2) with MLOCK_ONFAULT."""
    address, size = ctypes.c_long(ram.address), ctypes.c_long(ram.size)
    return int(_libc.syscall(_MLOCK2, address, size, 1))


def _mbind(ram: Memory) -> int:
    """MPOL_DEFAULT: the call counts, not the nodes."""
    address, size = ctypes.c_long(ram.address), ctypes.c_long(ram.size)
    return int(_libc.syscall(_MBIND, address, size, 0, None, 0, 0))


def _thp_disable() -> int:
    return int(_libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0))


def stay(*, mib: int, limit_mib: int | None = None) -> dict[str, Any]:
    """Have memory, say in which zones it lies, and do nothing until killed; with so much of it that
    may be locked."""
    ram = memory.memfd(mib * MIB)
    if limit_mib is not None:
        limit_locked_memory(limit_mib)
    area = memory.cma_range() if memory.has_cma() else range(0)
    movable = memory.zone_ranges("Movable")
    frames = memory.pfns(ram)
    in_cma = sum(pfn in area for pfn in frames)
    in_movable = sum(any(pfn in zone for zone in movable) for pfn in frames)
    _say({"pages": len(frames), "movable": in_movable, "cma": in_cma, "area_pages": len(area)})
    time.sleep(3600)
    return {}


def hold_file(*, path: str, mib: int, offset: int) -> dict[str, Any]:
    """Populate a file in /dev/shm and keep one page of it in an unread pipe until killed."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, mib * MIB)
    ram = memory.map_fd(fd, mib * MIB)
    memory.hold_in_pipe(ram, offset)
    _say({"state": "holding"})
    time.sleep(3600)
    return {}


def momentary_vms(*, prefix: str, count: int) -> dict[str, Any]:
    """VMs, one after the other, that each fail to map the same page, which a pipe of ours holds.
    A life is from the end of its exec to its end."""
    container, ram = Container(), memory.memfd(PAGE)
    memory.hold_in_pipe(ram, 0)
    vmm = Path("/run/qemu-system-x86_64")
    momentary.write(vmm)
    names = [f"{prefix}-{number:02}" for number in range(count)]
    lives, errors = [], []
    for number, name in enumerate(names):
        uuid = f"5c0ffee0-0000-4000-8000-{number:012x}"
        pid = os.posix_spawn(
            vmm,
            [vmm.name, "-name", f"guest={name},debug-threads=on", "-uuid", uuid],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, container.fileno(), momentary.CONTAINER),
                (os.POSIX_SPAWN_DUP2, ram.fd, momentary.MEMORY),
            ],
        )
        began = time.monotonic()
        errors.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        lives.append(round((time.monotonic() - began) * 1000, 1))
    return {"names": names, "errors": errors, "lives_ms": lives}


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    _say(globals()[sys.argv[1]](**json.loads(sys.argv[2])))
