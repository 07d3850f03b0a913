"""More failures than any host should see: `python -m tests.lab.inside.storm`.

Sends two lines. `compaction`: a million pages that compaction fails to move, because pipes hold
them. `maps`: ten thousand VFIO maps that fail, from eight threads. Each with what pinwatch counted,
what the kernel counted, and the daemon's own CPU time.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab import channel
from tests.lab.inside import host, memory, pages, vfio
from tests.lab.inside.memory import PAGE
from tests.lab.inside.vfio import Container

MIB = 1 << 20
MILLION = 1_000_000
IDLE_S = 10
BLOCK = 512  # pages of a page block
RAM_MIB = 896  # of the 1 GiB in ZONE_MOVABLE
MAPS, THREADS = 10_000, 8


def compaction() -> dict[str, Any]:
    """Compact until a million pages were not moved. Compaction takes pages from the zone's lower
    end and needs free ones at its upper end to put them, but takes none of a block that is all
    free: so the zone is filled, of its upper half all but one page of each block given back, and
    all pages of its lower half held."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16, 1 << 16))  # two for each mebibyte
    ram = memory.memfd(RAM_MIB * MIB)
    frames = memory.pfns(ram)
    (movable,) = memory.zone_ranges("Movable")
    middle = movable.start + len(movable) // 2
    for number, frame in enumerate(frames):
        if frame >= middle and frame % BLOCK:
            memory.punch(ram, number * PAGE, PAGE)
    held = [number for number, frame in enumerate(frames) if frame < middle]
    memory.hold_pages_in_pipes(ram, held)
    before, runs = _failed(), 0
    while (failed := _failed() - before) < MILLION and runs < 2000:
        Path("/proc/sys/vm/compact_memory").write_text("1\n")
        runs += 1
    return {"failed": failed, "runs": runs, "held": len(held)}


def _failed() -> int:
    return host.vmstat()["pgmigrate_fail"]


def maps() -> dict[str, Any]:
    """Maps of one page that a pipe holds, each at an I/O address of its own."""
    container, ram = Container(), memory.memfd(PAGE)
    memory.hold_in_pipe(ram, 0)
    errors: list[int] = []

    def work(thread: int) -> None:
        first = 1 << 24
        errors.extend(
            container.map(ram, iova=first + number * PAGE)
            for number in range(thread, MAPS, THREADS)
        )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"maps": len(errors), "failed": sum(map(bool, errors))}


def observe(daemon: host.Daemon, storm: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a storm did, and how much of it was counted."""
    idle = pages.cpu_seconds(daemon.process.pid)
    time.sleep(IDLE_S)
    idle = (pages.cpu_seconds(daemon.process.pid) - idle) / IDLE_S
    kernel, ours = host.vmstat(), host.settled_metrics()
    cpu, began = pages.cpu_seconds(daemon.process.pid), time.monotonic()
    result = storm()
    seconds = time.monotonic() - began
    time.sleep(5)  # what the ring still holds
    cpu = (pages.cpu_seconds(daemon.process.pid) - cpu) / (time.monotonic() - began)
    after, metrics = host.vmstat(), host.settled_metrics()
    return {
        **result,
        "seconds": seconds,
        "daemon_cpu_share": cpu,
        "idle_cpu_share": idle,
        "vmstat": {
            name: after[name] - kernel[name] for name in after if after[name] != kernel[name]
        },
        "metrics": host.difference(metrics, ours),
        "reconciliation": {name: n for name, n in metrics.items() if "_reconciliation_" in name},
        "memory": daemon.memory(),
    }


def main(names: list[str]) -> int:
    vfio.load_modules()
    vfio.bind_edu()
    daemon = host.Daemon()
    channel.send("ready", seconds=daemon.ready_s, memory=daemon.memory())
    for storm in (maps, compaction):
        if names and storm.__name__ not in names:
            continue
        channel.send("scenario", name=storm.__name__, result=observe(daemon, storm))
    channel.send("stopped", code=daemon.stop(), log=daemon.log())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
