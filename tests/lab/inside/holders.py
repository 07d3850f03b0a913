"""What goes on beside a pin, each made to go on: `python -m tests.lab.inside.holders NAME`.

One runs beside pins that fail, in a process of its own, and says in one JSON line what it did. They
fail because a pipe holds a page, or because of the activity itself: pinwatch must then say that it
was there.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.inside import memory, pages, syscalls
from tests.lab.inside.cause import KERNELS
from tests.lab.inside.memory import PAGE, Memory
from tests.lab.inside.surroundings import beside, wait_until
from tests.lab.inside.vfio import Container

MIB = 1 << 20
_SIZE = 4 * MIB
_TIMES = 50  # what a row keeps: of 20 beside ksmd on 6.1, where it is seen at each merge, 4 had it
_MOST_FRESH = 300
TIMEOUT_S = 240
_MADV_DONTNEED, _MADV_REMOVE, _MADV_DONTFORK, _MADV_MERGEABLE = 4, 9, 10, 12
_MADV_HUGEPAGE, _MADV_NOHUGEPAGE, _MADV_PAGEOUT, _MADV_POPULATE_WRITE = 14, 15, 21, 23
_KSM = Path("/sys/kernel/mm/ksm")
_THP = Path("/sys/kernel/mm/transparent_hugepage")
_DAMON = Path("/sys/kernel/mm/damon/admin/kdamonds")
_DAMON_STAT = Path("/sys/module/damon_stat/parameters/enabled")

Activity = Callable[[Memory], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """An activity; `name` is pinwatch's label of it. `run` pins beside it and gives errors."""

    name: str
    run: Callable[[], list[int]]
    kernels: tuple[str, ...] = KERNELS
    why_not: str = ""


# ---- what goes on -----------------------------------------------------------------------------


@contextmanager
def _going_on(work: Callable[[], None]) -> Iterator[None]:
    """A child that does `work`, and is still at it when the block ends."""
    with beside(work) as pid:
        yield
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            raise RuntimeError("nothing went on beside this: the child has ended")


@contextmanager
def _set(**values: tuple[Path, str]) -> Iterator[None]:
    """Kernel knobs for as long as the block lasts."""
    before = {path: _current(path.read_text()) for path, _ in values.values()}
    try:
        for path, value in values.values():
            path.write_text(value)
        yield
    finally:
        for path, value in before.items():
            path.write_text(value)


def _current(text: str) -> str:
    """The chosen one of `always [madvise] never`, else the text."""
    return text.partition("[")[2].partition("]")[0] or text.strip()


def _writing(path: str, text: str) -> Activity:
    """A child writes to a file of the kernel's again and again."""

    def work() -> None:
        while True:
            Path(path).write_text(text)

    return lambda _ram: _going_on(work)


@contextmanager
def _khugepaged(_ram: Memory) -> Iterator[None]:
    """It scans without a pause what it may never collapse: of each huge page one is there, and two
    must be, which it knows when it has looked at all."""
    huge, many = 2 * MIB, 1024

    def work() -> None:
        area = mmap.mmap(-1, many * huge, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(_MADV_HUGEPAGE)
        for offset in range(0, len(area), huge):
            area[offset] = 1
        signal.pause()

    knobs = _THP / "khugepaged"
    with (
        _set(
            enabled=(_THP / "enabled", "madvise"),
            fault=(_THP / "defrag", "never"),
            none=(knobs / "max_ptes_none", "510"),
            sleep=(knobs / "scan_sleep_millisecs", "0"),
            many=(knobs / "pages_to_scan", str(many * huge // PAGE)),
        ),
        _going_on(work),
    ):
        yield


@contextmanager
def _ksmd(_ram: Memory) -> Iterator[None]:
    """It merges without a pause what a child writes again; a few pages stay merged, for the others
    to be merged with."""
    size, stays = 4 * MIB, 64 * PAGE

    def work() -> None:
        area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(_MADV_MERGEABLE)
        start = 0
        while True:
            for offset in range(start, size, PAGE):
                area[offset : offset + 8] = b"the same"
            start = stays
            time.sleep(0.05)
            area.madvise(_MADV_DONTNEED, stays, size - stays)

    with (
        _set(
            sleep=(_KSM / "sleep_millisecs", "0"),
            many=(_KSM / "pages_to_scan", "1000"),
            run=(_KSM / "run", "1"),
        ),
        _going_on(work),
    ):
        yield


@contextmanager
def _damon(_ram: Memory) -> Iterator[None]:
    """It samples all of ZONE_MOVABLE every millisecond."""
    zone = memory.zone_ranges("Movable")[0]
    damond = _DAMON / "0"
    settings = {
        "contexts/nr_contexts": "1",
        "contexts/0/operations": "paddr",
        "contexts/0/monitoring_attrs/intervals/sample_us": "1000",
        "contexts/0/targets/nr_targets": "1",
        "contexts/0/targets/0/regions/nr_regions": "1",
        "contexts/0/targets/0/regions/0/start": str(zone.start * PAGE),
        "contexts/0/targets/0/regions/0/end": str(zone.stop * PAGE),
    }
    with contextlib.ExitStack() as stack:
        if _DAMON_STAT.exists():  # the one that runs from boot on; there can be only one
            stack.enter_context(_set(stat=(_DAMON_STAT, "N")))
        (_DAMON / "nr_kdamonds").write_text("1")
        stack.callback((_DAMON / "nr_kdamonds").write_text, "0")
        for name, value in settings.items():
            (damond / name).write_text(value)
        (damond / "state").write_text("on")
        stack.callback((damond / "state").write_text, "off")
        yield


@contextmanager
def _reclaim(_ram: Memory) -> Iterator[None]:
    """A child pages its own memory out again and again."""

    def work() -> None:
        area = memory.memfd(16 * MIB).view
        while True:
            for offset in range(0, 16 * MIB, PAGE):
                area[offset] = 1
            area.madvise(_MADV_PAGEOUT)

    with _going_on(work):
        yield


@contextmanager
def _offlining(ram: Memory) -> Iterator[None]:
    """A child takes the block offline that has the held page, which the kernel tries for ever."""
    size = int(Path("/sys/devices/system/memory/block_size_bytes").read_text(), 16)
    block = pages.frame(ram.address + _SIZE // 2) * PAGE // size
    state = Path(f"/sys/devices/system/memory/memory{block}/state")

    def work() -> None:
        while True:
            with contextlib.suppress(OSError):
                state.write_text("offline")

    with _going_on(work):
        wait_until(lambda: state.read_text().strip() != "online", "offlining to begin")
        yield


# ---- pins beside it ---------------------------------------------------------------------------


def _failing_beside(activity: Activity, *, private: bool = False) -> list[int]:
    """Pins that fail because a pipe holds a page, once the activity has begun."""
    container = Container()
    ram = _private() if private else memory.memfd(_SIZE)
    memory.hold_in_pipe(ram, _SIZE // 2)
    with activity(ram):
        return list(_pins(lambda: container.map(ram)))


def _private() -> Memory:
    """Private memory of base pages, written to, and not shared with children: a pin would copy."""
    address = syscalls.map_memory(_SIZE, fd=-1)
    syscalls.advise(address, _SIZE, _MADV_NOHUGEPAGE)
    syscalls.advise(address, _SIZE, _MADV_DONTFORK)
    syscalls.touch(address, _SIZE)
    return _at(address)


def _fresh_beside(activity: Activity, *, times: int = 20) -> list[int]:
    """Pins of fresh memory each time, which fail where the activity is in the way; at least until
    one has: beside drop_caches some 2 to 8 of 30 do."""
    container, ram, errors = Container(), memory.memfd(32 * MIB), list[int]()
    with activity(ram):
        while len(errors) < times or (not any(errors) and len(errors) < _MOST_FRESH):
            errors.append(container.map(ram))
            if not errors[-1]:
                container.unmap(ram.size)
            ram.view.madvise(_MADV_REMOVE)
            ram.view.madvise(_MADV_POPULATE_WRITE)
    return errors


def _at(address: int, fd: int = -1) -> Memory:
    """Memory that has no view of its own."""
    return Memory(view=mmap.mmap(-1, PAGE), fd=fd, address=address, size=_SIZE)


def _pins(pin: Callable[[], int]) -> Iterator[int]:
    """Errors, once what goes on has begun, over some time: it comes in bursts."""
    time.sleep(1)
    for _ in range(_TIMES):
        time.sleep(0.05)
        yield pin()


WITHOUT_RECIPE = {
    "fadvise": "it drains the batches that it fills, and walks a file for microseconds: no pin of "
    "60 failed beside it on 6.1, where drop_caches makes a fourth of them fail",
    "numa_balancing": "not made here: the guests' second node has memory only, no CPU",
    "move_pages": "it isolates a page for microseconds",
    "contig_alloc": "not made here: a gigantic page takes a gibibyte of which all can move",
    "memory_failure": "poisoned memory is unmapped before it can be pinned: fault_sigbus",
    "process_vm": "it pins for microseconds; told as overlap in the rows of extra_ref_pinned",
    "lru_batch": "named in the rows of drop_caches on 6.1",
    "mlock_batch": "named in the rows of lru_batch_ref",
    "direct_io": "named in the rows of direct_io",
    "pin": "pages that are pinned for long have left; a livelock is the other's fault only then",
}

HOLDERS: dict[str, Holder] = {
    "drop_caches": Holder(
        name="drop_caches",
        run=lambda: _fresh_beside(_writing("/proc/sys/vm/drop_caches", "1\n")),
        kernels=("6.1",),
        why_not="6.12 and later wait for it: no pin fails",
    ),
    "compaction": Holder(
        name="compaction",
        run=lambda: _failing_beside(_writing("/proc/sys/vm/compact_memory", "1\n")),
    ),
    "khugepaged": Holder(name="khugepaged", run=lambda: _failing_beside(_khugepaged)),
    "ksmd": Holder(name="ksmd", run=lambda: _failing_beside(_ksmd, private=True)),
    "damon": Holder(
        name="damon",
        run=lambda: _failing_beside(_damon),
        kernels=("6.12", "7.2"),
        why_not="Debian's 6.1 is built without DAMON",
    ),
    "reclaim": Holder(name="reclaim", run=lambda: _failing_beside(_reclaim)),
    "memory_offline": Holder(name="memory_offline", run=lambda: _failing_beside(_offlining)),
    "pipe": Holder(name="pipe", run=lambda: _failing_beside(lambda _ram: contextlib.nullcontext())),
}


if __name__ == "__main__":
    errors = HOLDERS[sys.argv[1]].run()
    print(json.dumps({"pid": os.getpid(), "errors": errors, "errno": max(errors)}), flush=True)
