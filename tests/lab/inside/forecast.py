"""Predict first, then really map: `python -m tests.lab.inside.forecast LAYOUT`.

Sends a line for each setup (setups.py): what `pinwatch check` said, and what the map gave. Then one
for placement: what `check` counts and samples, beside what the kernel counts (witnesses below).
"""

from __future__ import annotations

import functools
import io
import json
import mmap
import os
import re
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from pinwatch import cli
from pinwatch.host import pagemap
from pinwatch.host.survey import Survey
from tests.lab import channel
from tests.lab.inside import memory, pages, setups, surroundings, syscalls, vfio
from tests.lab.inside.memory import PAGE
from tests.lab.inside.setups import HUGE, MIB, SETUPS, Region, Setup
from tests.lab.inside.vfio import Container

Said = dict[str, Any]
THP = "/sys/kernel/mm/transparent_hugepage/enabled"
KHUGEPAGED = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs"
PATIENCE_S = 420
KILLED, ZERO = "killed", 1 << 24  # KPF_ZERO_PAGE


class Subject:
    """A child that enters a setup, says when it is ready, and maps its memory when told. They talk
    through a page that both have, because a pipe's pages cannot be had in every setup."""

    def __init__(self, setup: Setup) -> None:
        self._page = mmap.mmap(-1, PAGE)
        self._page[:] = bytes(PAGE)
        self._heard, self._told = os.eventfd(0), os.eventfd(0)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._be(setup)
            finally:
                os._exit(1)
        self.life = os.pidfd_open(self.pid)

    def _be(self, setup: Setup) -> None:
        syscalls.die_with_parent()
        try:
            container = Container()
            with setup(container) as (address, size):
                self._say("ready")
                os.eventfd_read(self._told)
                self._say(str(container.map_range(address, size)))
                os.eventfd_read(self._told)
                container.close()
        except BaseException:
            self._say(traceback.format_exc()[-3000:])

    def _say(self, text: str) -> None:
        self._page[:] = text.encode()[: PAGE - 1].ljust(PAGE, b"\0")
        os.eventfd_write(self._heard, 1)

    def hear(self) -> str:
        """What it says next; KILLED when it is gone."""
        ready, _, _ = select.select([self._heard, self.life], [], [], PATIENCE_S)
        if self._heard not in ready:
            return KILLED
        os.eventfd_read(self._heard)
        return bytes(self._page).rstrip(b"\0").decode()

    def tell(self) -> None:
        os.eventfd_write(self._told, 1)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.life, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for fd in (self._heard, self._told, self.life):
            os.close(fd)


def check(*arguments: str) -> tuple[int, list[Said]]:
    """`pinwatch check --json` without starting a Python for it."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = cli.main(["check", "--json", *arguments])
    return code, json.loads(printed.getvalue())


def predict_and_map(setup: Setup) -> Said:
    """What was said before, and what came of it."""
    subject = Subject(setup)
    try:
        if (state := subject.hear()) != "ready":
            return {"broken": state}
        began = time.monotonic()
        code, (said,) = check(str(subject.pid))
        took = time.monotonic() - began
        subject.tell()
        outcome = subject.hear()
        if outcome != KILLED:
            subject.tell()  # to take everything away again
            os.waitid(os.P_PIDFD, subject.life, os.WEXITED | os.WNOWAIT)
        return {
            "code": code,
            "verdict": said["verdict"],
            "risks": [risk["risk"] for risk in said["risks"]],
            "forecast": said["forecast"],
            "outcome": outcome,
            "check_s": round(took, 2),
        }
    finally:
        subject.end()
        setups.settle()


# ---- placement against the kernel's own counts -----------------------------------------------


@contextmanager
def mixture(_container: Container) -> Iterator[Region]:
    """Memory of all kinds, with holes, on both nodes. The region is of no matter."""
    small = memory.memfd(48 * MIB)
    memory.punch(small, 5 * MIB, 3 * MIB)
    with surroundings.setting(setups.SHMEM_THP, "force"):
        huge = memory.memfd(64 * MIB)
    private = setups.private_memory(96 * MIB)
    for start in range(0, 96 * MIB, 3 * MIB):
        syscalls.touch(private + start, MIB)
    syscalls.read_pages(private + 50 * MIB, 2 * MIB)  # the zero page, and what is there
    other = memory.memfd(32 * MIB, populate=False)
    syscalls.bind(other.address, other.size, node=1)
    syscalls.touch(other.address, other.size)
    # Neighbours that are not alike: here a sample cannot be exact by luck.
    mixed = memory.memfd(16 * MIB, populate=False)
    syscalls.interleave(mixed.address, mixed.size)
    syscalls.touch(mixed.address, mixed.size)
    with surroundings.hugepages(0, 12):
        pool = setups.huge_memory(12)
        syscalls.touch(pool, 10 * HUGE)
        yield huge.address, PAGE


@contextmanager
def sparse(_container: Container) -> Iterator[Region]:
    """Of 1 TiB 48 MiB are there, in pieces. Emulated, a kernel without PAGEMAP_SCAN (before 6.7)
    would be at it for ten minutes: 32 GiB there."""
    scans = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 7)
    size = 1 << 40 if scans else 32 << 30
    ram = memory.memfd(size, populate=False)
    # smaps tells how a huge page is mapped, and not that it is one
    with surroundings.setting(setups.SHMEM_THP, "deny"):
        for number in range(48):
            syscalls.touch(ram.address + number * (size >> 6), MIB)
    yield ram.address, PAGE


def placement(of: Setup, samples: int, error: float) -> Said:
    """Exact and sampled, beside the kernel's own counts, for a VM that does nothing."""
    subject = Subject(of)
    try:
        if (state := subject.hear()) != "ready":
            return {"broken": state}
        before = Witness(subject.pid).counts()
        _, (exact,) = check(str(subject.pid), "--exact")
        survey = Survey(proc=Path("/proc"), sysfs=Path("/sys"))
        sampled = []
        began = time.process_time()
        for _ in range(samples):
            found = pagemap.sample(Path("/proc"), subject.pid, survey.frames, error=error)
            assert found is not None
            sums = _sums([_plain(portion) for portion in found.portions])
            sampled.append(sums | {"error": found.error, "samples": found.samples})
        return {
            "witness": before,
            "exact": _sums(exact["placement"]["portions"]),
            "sampled": sampled,
            "sample_cpu_s": (time.process_time() - began) / samples,
            "witness_after": Witness(subject.pid).counts(),
        }
    finally:
        subject.end()


def _plain(portion: Any) -> Said:
    page = portion.page
    return {"node": page.node, "zone": page.zone, "cma": page.cma, "backing": page.backing,
            "bytes": portion.size_bytes}  # fmt: skip


def _sums(portions: list[Said]) -> Said:
    """Bytes by node, by zone, by size of pages, in CMA, and of all."""
    found: dict[str, int] = {}
    for portion in portions:
        keys = [f"node {portion['node']}", f"zone {portion['zone']}", "all"]
        keys += [f"size {portion['backing']}"] + ["cma"] * (portion["cma"] == "yes")
        for key in keys:
            found[key] = found.get(key, 0) + portion["bytes"]
    return found


class Witness:
    """What the kernel itself counts of the large mappings of a process: numa_maps by node, smaps by
    size; and the zone of each frame of pagemap. Those two leave out the zero page."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        large = (one for one in self._smaps() if one.get("Size", 0) >= 16 * MIB)
        self._mappings = [one for one in large if one["Rss"] or _pooled(one)]

    def counts(self) -> Said:
        found = {f"node {node}": n for node, n in self._nodes().items()}
        zones, zero = self._zones()
        found |= {f"zone {zone}": n for zone, n in zones.items()}
        huge = sum(one["ShmemPmdMapped"] + one["AnonHugePages"] for one in self._mappings)
        pool, rss = sum(map(_pooled, self._mappings)), sum(one["Rss"] for one in self._mappings)
        sizes = {"size thp": huge, "size hugetlb": pool, "size 4k": rss - huge}
        return {**found, **{size: n for size, n in sizes.items() if n}, "zero": zero}

    def _smaps(self) -> list[dict[str, int]]:
        found: list[dict[str, int]] = []
        for line in Path(f"/proc/{self._pid}/smaps").read_text().splitlines():
            if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                found.append({"start": int(match[1], 16), "end": int(match[2], 16)})
            elif value := re.match(r"(\w+): +(\d+) kB", line):
                found[-1][value[1]] = int(value[2]) << 10
        return found

    def _nodes(self) -> dict[int, int]:
        starts = {one["start"] for one in self._mappings}
        found: Counter[int] = Counter()
        for line in Path(f"/proc/{self._pid}/numa_maps").read_text().splitlines():
            size = re.search(r"kernelpagesize_kB=(\d+)", line)
            if int(line.split()[0], 16) in starts:
                for node, count in re.findall(r" N(\d+)=(\d+)", line):
                    found[int(node)] += int(count) * (int(size[1]) << 10 if size else PAGE)
        return dict(found)

    def _zones(self) -> tuple[dict[str, int], int]:
        """And how much of it is the zero page."""
        frames = Counter[int]()
        with open(f"/proc/{self._pid}/pagemap", "rb", buffering=0) as file:
            for start, length in self._pieces():
                file.seek(start // PAGE * 8)
                words = memoryview(file.read(length // PAGE * 8)).cast("Q")
                frames.update(word & (1 << 55) - 1 for word in words if word >> 63)
        found: Counter[str] = Counter()
        for pfn, count in frames.items():
            found[self._zone(pfn)] += count * PAGE
        again = (pfn for pfn, count in frames.items() if count > 1)
        return dict(found), sum(frames[pfn] * PAGE for pfn in again if pages.flags(pfn) & ZERO)

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """All of a mapping, but of a sparse one where its pages are: numa_maps and smaps count what
        is elsewhere."""
        for one in self._mappings:
            size = one["end"] - one["start"]
            if size < 1 << 30:
                yield one["start"], size
            else:
                yield from ((one["start"] + n * (size >> 6), 2 * MIB) for n in range(64))

    @functools.cache  # noqa: B019 - one for each region of memory
    def _spans(self) -> list[tuple[str, range]]:
        names = ("Movable", "DMA", "DMA32", "Normal")
        return [(name, span) for name in names for span in memory.zone_ranges(name)]

    def _zone(self, pfn: int) -> str:
        return next(name for name, span in self._spans() if pfn in span)


def _pooled(one: dict[str, int]) -> int:
    return one["Private_Hugetlb"] + one["Shared_Hugetlb"]


# ---- all of it --------------------------------------------------------------------------------


def report(name: str, result: Callable[[], Said]) -> None:
    try:
        said = result()
    except Exception:
        said = {"broken": traceback.format_exc()[-3000:]}
    channel.send("scenario", name=name, result=said)


def main(layout: str, *names: str) -> int:
    # Our own heap, which the subjects inherit: a huge page that a fork has split in two halves of
    # page tables is one for kpageflags, and none for smaps.
    Path(THP).write_text("madvise")
    vfio.load_modules()
    vfio.bind_edu()
    Path(KHUGEPAGED).write_text("1000000000")  # pages stay as they are while they are counted
    for setup in SETUPS[layout]:
        if not names or setup.__name__ in names:
            report(setup.__name__, functools.partial(predict_and_map, setup))
    if layout == "forecast":
        report("placement", lambda: placement(mixture, 100, 0.04))
        report("sparse", lambda: placement(sparse, 1, 0.04))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
