"""Read /proc: the kernel's own counters, and processes. Roots are arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pinwatch.attribute import Programs
from pinwatch.model.sample import TaskKey

NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def vmstat(procfs: Path) -> dict[str, int]:
    """/proc/vmstat."""
    pairs = (line.split() for line in (procfs / "vmstat").read_text().splitlines())
    return {name: int(value) for name, value in pairs}


def start_ticks(procfs: Path, tgid: int) -> int | None:
    """Start of a process in clock ticks since boot; None when it is gone."""
    try:
        stat = (procfs / str(tgid) / "stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])  # the comm may hold spaces and brackets


def is_alive(procfs: Path, key: TaskKey) -> bool:
    """Does this very process still run? A reused tgid has another start."""
    return start_ticks(procfs, key.tgid) == key.start_ns // NS_PER_TICK


def cmdline(procfs: Path, tgid: int) -> tuple[str, ...]:
    """The arguments of a process; none when it is gone, or a kernel thread."""
    try:
        raw = (procfs / str(tgid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(raw.rstrip(b"\0").decode("utf-8", "backslashreplace").split("\0")) if raw else ()


def cgroup(procfs: Path, tgid: int) -> str:
    """The cgroups of a process as cgroups(7) shows them; nothing when it is gone."""
    try:
        return (procfs / str(tgid) / "cgroup").read_bytes().decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def vmms(procfs: Path, programs: Programs) -> Iterator[TaskKey]:
    """Processes that run now and look like a VMM.

    The start is known in clock ticks only; the kernel's records carry nanoseconds, so a process
    found here is named again by its first record.
    """
    for entry in procfs.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            comm = (entry / "comm").read_bytes().decode("utf-8", "backslashreplace")
        except OSError:
            continue  # it went away
        ticks = start_ticks(procfs, int(entry.name))
        if programs.vmm(comm.removesuffix("\n")) is not None and ticks is not None:
            yield TaskKey(int(entry.name), ticks * NS_PER_TICK)
