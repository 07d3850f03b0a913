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
    """Start of a process in clock ticks since boot; None when it is gone, or waits only to be
    asked how it ended."""
    try:
        stat = (procfs / str(tgid) / "stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # the comm may hold spaces and brackets
    if fields[0] in (b"Z", b"X") and fields[17] in (b"0", b"1"):  # threads
        return None
    return int(fields[19])


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
    tgids = (int(entry.name) for entry in procfs.iterdir() if entry.name.isdigit())
    return filter(None, (vmm(procfs, tgid, programs) for tgid in tgids))


def vmm(procfs: Path, tgid: int, programs: Programs) -> TaskKey | None:
    """That process, if it looks like a VMM: by its own name, which QEMU's `-name process=` changes,
    or by its program."""
    if not any(programs.vmm(name) is not None for name in _names(procfs / str(tgid))):
        return None
    ticks = start_ticks(procfs, tgid)
    return None if ticks is None else TaskKey(tgid, ticks * NS_PER_TICK)


def _names(process: Path) -> Iterator[str]:
    try:
        yield (process / "comm").read_bytes().decode("utf-8", "backslashreplace").removesuffix("\n")
        yield os.path.basename(os.readlink(process / "exe")).removesuffix(" (deleted)")
    except OSError:
        return  # it went away, or is a kernel thread
