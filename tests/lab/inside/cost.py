"""What a VFIO map costs with and without pinwatch, in instructions a page; and system calls that
are watched and often called, in instructions a call.

`python -m tests.lab.inside.cost`, in a guest whose clock counts instructions (QEMU -icount),
so that a nanosecond is an instruction and a busy machine does not matter. Sends medians; also the
memory of the daemon when ready and 5 minutes later.
"""

from __future__ import annotations

import mmap
import statistics
import sys
import threading
import time
from collections.abc import Callable

from tests.lab import channel
from tests.lab.inside import host, memory, vfio
from tests.lab.inside.memory import PAGE, Memory
from tests.lab.inside.vfio import Container

SIZE = 32 << 20
MIGRATING, STAYING = 9, 25  # how often each is measured
CALLS = 500  # of a system call, in one measurement
LATER_S = 300


def _map_ns(container: Container, ram: Memory) -> float:
    """Time of one map, for each page."""
    began = time.monotonic_ns()
    error = container.map(ram)
    ns = time.monotonic_ns() - began
    assert not error, error
    container.unmap(ram.size)
    return ns / (ram.size // PAGE)


def _fresh(ram: Memory) -> None:
    ram.view.madvise(9)  # MADV_REMOVE
    ram.view.madvise(23)  # MADV_POPULATE_WRITE: new pages, in Movable


def measure(container: Container, settled: Memory) -> dict[str, float]:
    """Medians of maps that must move every page, and of maps of `settled`, which need move none:
    always the same memory, because the cost depends on how contiguous it is."""
    ram = memory.memfd(SIZE)
    migrating = []
    for _ in range(MIGRATING):
        _fresh(ram)
        migrating.append(_map_ns(container, ram))
    staying = [_map_ns(container, settled) for _ in range(STAYING)]
    return {
        "migrating": statistics.median(migrating),
        "staying": statistics.median(staying),
        "migrating_spread": max(migrating) - min(migrating),
        "staying_spread": max(staying) - min(staying),
        "mmap": statistics.median(_call_ns(_mmap) for _ in range(STAYING)),
        "madvise": statistics.median(_call_ns(_madvise) for _ in range(STAYING)),
        "thread": statistics.median(_call_ns(_thread) for _ in range(STAYING)),
    }


def _call_ns(call: Callable[[], object]) -> float:
    """Time of one call, Python's part of it included."""
    began = time.monotonic_ns()
    for _ in range(CALLS):
        call()
    return (time.monotonic_ns() - began) / CALLS


def _mmap() -> None:
    """As malloc calls it; of no size that is told."""
    mmap.mmap(-1, PAGE).close()


_scratch = mmap.mmap(-1, PAGE)


def _madvise() -> None:
    _scratch.madvise(mmap.MADV_DONTNEED)


def _thread() -> None:
    thread = threading.Thread()
    thread.start()
    thread.join()


def report(name: str, measured: Callable[[], dict[str, float]]) -> None:
    channel.send("cost", name=name, **measured())


def main() -> int:
    vfio.load_modules()
    vfio.bind_edu()
    container = Container()
    settled = memory.memfd(SIZE)
    measure(container, settled)  # moves it out of Movable, and warms up
    report("without", lambda: measure(container, settled))
    daemon = host.Daemon("--sample-interval", "5")
    channel.send("memory", at="ready", ready_s=daemon.ready_s, **daemon.memory())
    report("pinwatch", lambda: measure(container, settled))
    if "--memory" in sys.argv:
        time.sleep(LATER_S)
        channel.send("memory", at=f"{LATER_S} s later", **daemon.memory())
    daemon.stop()
    report("without again", lambda: measure(container, settled))
    return 0


if __name__ == "__main__":
    sys.exit(main())
