"""What looking at VMs' memory costs: `python -m tests.lab.inside.idle [VMS]`.

Sends `idle`: CPU time and memory of the daemon without VMs, and with so many idle QEMUs of 64 GiB
each, next to nothing of it there; `faults`: how long page faults of a process take while nobody
looks at its memory, and while somebody does without a pause.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pinwatch.host.survey import Survey
from tests.lab import channel
from tests.lab.inside import host, pages, syscalls
from tests.lab.inside.memory import PAGE
from tests.lab.inside.surroundings import beside

VMS, GIB = 100, 64
MEASURE_S = 240
FAULTS = 6000  # each of a page that is not there
MIB = 1 << 20


def daemon_cost(daemon: host.Daemon) -> dict[str, float]:
    """Shares of a CPU: of all the daemon, and of what it spends on looking at memory."""
    pid, before = daemon.process.pid, host.metrics()
    cpu, began = pages.cpu_seconds(pid), time.monotonic()
    time.sleep(MEASURE_S)
    passed = time.monotonic() - began
    looking = "pinwatch_placement_cpu_seconds_total{}"
    after = host.metrics()
    looked = [n for name, n in after.items() if name.startswith("pinwatch_vm_placement_timestamp")]
    return {
        "cpu_share": (pages.cpu_seconds(pid) - cpu) / passed,
        "looking_share": (after[looking] - before[looking]) / passed,
        "vms_looked_at": float(len(looked)),
        "lately": float(sum(when > time.time() - MEASURE_S for when in looked)),
        "rss_kib": daemon.memory()["rss_kib"],
        "private_kib": daemon.memory()["private_kib"],
    }


@contextmanager
def idle_vm(number: int) -> Iterator[None]:
    """A QEMU that never runs, with memory that is hardly there."""
    ram = f"memory-backend-memfd,id=ram,size={GIB}G,share=on"
    command = ["qemu-system-x86_64", "-name", f"idle-{number:03}", "-accel", "tcg", "-S"]
    command += ["-nodefaults", "-display", "none", "-m", f"{GIB}G", "-object", ram]
    with subprocess.Popen([*command, "-machine", "q35,memory-backend=ram"]) as process:
        try:
            yield
        finally:
            process.kill()


def wait_for(vms: int) -> None:
    deadline = time.monotonic() + 1200
    while time.monotonic() < deadline:
        known = [name for name in host.metrics() if name.startswith("pinwatch_vm_info{")]
        if len(known) >= vms:
            return
        time.sleep(5)
    raise RuntimeError(f"not all of {vms} VMs came")


def idle(vms: int) -> None:
    daemon = host.Daemon("--sample-interval", "2")
    alone = daemon_cost(daemon)
    with ExitStack() as running:
        for number in range(vms):
            running.enter_context(idle_vm(number))
        wait_for(vms)
        time.sleep(60)
        beside_vms = daemon_cost(daemon)
    daemon.stop()
    channel.send("idle", vms=vms, alone=alone, beside_vms=beside_vms)


def faults() -> None:
    """In a process with 256 MiB that is being looked at, or not, in turn."""
    answered, answer = os.pipe()
    told, tell = os.pipe()

    def work() -> None:
        memory = syscalls.map_memory(256 * MIB)
        syscalls.touch(memory, 256 * MIB)
        while os.read(told, 1):
            os.write(answer, json.dumps(_fault_times()).encode())

    found: dict[str, list[Any]] = {"alone": [], "looked_at": []}
    with beside(work) as pid:
        survey = Survey(proc=Path("/proc"), sysfs=Path("/sys"))
        for kind in ("alone", "looked_at") * 4:
            os.write(tell, b".")
            looks = 0
            while kind == "looked_at" and not select.select([answered], [], [], 0)[0]:
                survey.look(pid)
                looks += 1
            found[kind].append({**json.loads(os.read(answered, 4096)), "looks": looks})
    channel.send("faults", **found)


def _fault_times() -> dict[str, float]:
    """Microseconds of a page fault: median, 99 of 100, worst."""
    area = mmap.mmap(-1, FAULTS * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(syscalls.MADV_NOHUGEPAGE)
    times = []
    for offset in range(0, FAULTS * PAGE, PAGE):
        began = time.monotonic_ns()
        area[offset] = 1
        times.append((time.monotonic_ns() - began) / 1000)
    times.sort()
    return {
        "median_us": statistics.median(times),
        "p99_us": times[len(times) * 99 // 100],
        "max_us": times[-1],
    }


def main(vms: int = VMS) -> int:
    faults()
    idle(vms)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
