"""`make looking`: what looking at VMs' memory costs, on the machine at hand, as root.

100 QEMUs that never run, of 64 GiB each, next to nothing of it there. The daemon's own thread looks
at them (host/looks.py) within its default budget, its pipeline takes what comes, and the metrics
are rendered as for a scrape each 15 s; only what needs BPF is left out, so no guest is needed and
no emulation in the way. And page faults of a process while nobody looks at its memory, and while
somebody does without a pause.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pinwatch import settings
from pinwatch.attribute import Programs
from pinwatch.expose import exposition
from pinwatch.host import clock, procfs
from pinwatch.host.looks import Looks, Subject
from pinwatch.host.survey import Survey
from pinwatch.model.kernel import KernelFacts
from pinwatch.pipeline import Pipeline
from pinwatch.recording import VmFound
from tests.lab.inside import syscalls
from tests.lab.inside.memory import PAGE
from tests.lab.inside.surroundings import beside

PROC, SYS = Path("/proc"), Path("/sys")
VMS, GIB = 100, 64
MIB = 1 << 20
MEASURE_S = 300
SCRAPE_S = 15
FAULTS = 60_000  # each of a page that is not there
ROUNDS = 4


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


def idle() -> None:
    """Shares of a core, and memory."""
    with ExitStack() as running:
        for number in range(VMS):
            running.enter_context(idle_vm(number))
        time.sleep(20)
        _measure(f"{VMS} idle VMs of {GIB} GiB")


def _measure(what: str) -> None:
    pipeline = Pipeline(KernelFacts(release=os.uname().release), clock.wall_offset_ns())
    tasks = list(procfs.vmms(PROC, Programs()))
    for task in tasks:
        words = (PROC / str(task.tgid) / "cmdline").read_bytes().decode().split("\0")
        pipeline.feed(VmFound(task, tuple(words)))
    before_kib = _rss_kib()
    looks = Looks(proc=PROC, sysfs=SYS, percent=settings.make({}, {}).placement_cpu_percent)
    looks.watch([Subject(task, managed=False) for task in tasks])
    looks.start()
    cpu, began, scrapes = time.process_time(), time.monotonic(), 0
    while (passed := time.monotonic() - began) < MEASURE_S:
        time.sleep(2)
        for item in looks.take():
            pipeline.feed(item)
        snapshot = pipeline.snapshot()
        if passed > scrapes * SCRAPE_S:
            exposition.text(snapshot, KernelFacts(release=""))
            scrapes += 1
    looks.close()
    used = time.process_time() - cpu
    errors = [seen.case.placement.error for seen in snapshot.outlooks.values()]
    oldest = max(time.time() - seen.time_s for seen in snapshot.outlooks.values())
    print(
        f"{what}: {len(tasks)} found, {len(errors)} looked at in {passed:.0f} s, the oldest look "
        f"{oldest:.0f} s ago, errors up to {max(errors):.1%}\n"
        f"  looking {snapshot.looking_cpu_s / passed:.2%} of a core; with pipeline, snapshots and "
        f"{scrapes} scrapes {used / passed:.2%}\n"
        f"  memory {before_kib / 1024:.1f} MiB before, {_rss_kib() / 1024:.1f} MiB after",
        flush=True,
    )


def _rss_kib() -> int:
    found = re.search(r"^VmRSS:\s+(\d+)", (PROC / "self/status").read_text(), re.M)
    assert found
    return int(found[1])


def faults() -> None:
    """In a process with 256 MiB of small pages that is being looked at, or not, in turn."""
    answered, answer = os.pipe()
    told, tell = os.pipe()

    def work() -> None:
        memory = syscalls.map_memory(256 * MIB)
        syscalls.advise(memory, 256 * MIB, syscalls.MADV_NOHUGEPAGE)
        syscalls.touch(memory, 256 * MIB)
        while os.read(told, 1):
            os.write(answer, json.dumps(_fault_times()).encode())

    with beside(work) as pid:
        survey = Survey(proc=PROC, sysfs=SYS)
        for kind in ("alone", "looked at") * ROUNDS:
            os.write(tell, b".")
            while kind == "looked at" and not select.select([answered], [], [], 0)[0]:
                survey.look(pid)
            median, p99, worst = json.loads(os.read(answered, 4096))
            print(f"  page faults, {kind}: median {median:.2f} us, 99 of 100 below {p99:.1f} us, "
                  f"worst {worst:.0f} us", flush=True)  # fmt: skip


def _fault_times() -> tuple[float, float, float]:
    """Microseconds: median, 99 of 100, worst."""
    area = mmap.mmap(-1, FAULTS * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(syscalls.MADV_NOHUGEPAGE)
    times = []
    for offset in range(0, FAULTS * PAGE, PAGE):
        began = time.monotonic_ns()
        area[offset] = 1
        times.append((time.monotonic_ns() - began) / 1000)
    times.sort()
    return statistics.median(times), times[len(times) * 99 // 100], times[-1]


def main() -> int:
    faults()
    idle()
    return 0


if __name__ == "__main__":
    sys.exit(main())
