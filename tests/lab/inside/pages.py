"""What the kernel says about single pages: where they lie, what is going on with them."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from tests.lab.inside.memory import PAGE

# Bits of /proc/kpageflags (Documentation/admin-guide/mm/pagemap.rst).
DIRTY, LRU, WRITEBACK, COMPOUND_TAIL, HWPOISON = 1 << 4, 1 << 5, 1 << 8, 1 << 16, 1 << 19


def frame(address: int) -> int:
    """The frame behind an address of this process, 0 where none is present."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE * 8)
        (entry,) = struct.unpack("Q", pagemap.read(8))
    return int(entry & (1 << 55) - 1) if entry >> 63 else 0


def flags(pfn: int) -> int:
    """The page's word of /proc/kpageflags."""
    with open("/proc/kpageflags", "rb", buffering=0) as file:
        file.seek(pfn * 8)
        return int(struct.unpack("Q", file.read(8))[0])


def zone(pfn: int) -> str:
    """Node and zone of a frame: "0 Movable", "0 DMA32", ..."""
    text = Path("/proc/zoneinfo").read_text()
    for node, name, body in re.findall(
        r"Node (\d+), zone +(\w+)\n(.*?)(?=\nNode |\Z)", text, re.DOTALL
    ):
        span, start = re.search(r"spanned +(\d+)", body), re.search(r"start_pfn: +(\d+)", body)
        if span and start and int(start[1]) <= pfn < int(start[1]) + int(span[1]):
            return f"{node} {name}"
    return "none"


def outstanding_pins() -> int:
    """FOLL_PIN references that somebody holds now (nr_foll_pin_acquired - _released)."""
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    text = Path("/proc/vmstat").read_text()
    counts = dict(re.findall(r"^nr_foll_pin_(acquired|released) (\d+)$", text, re.M))
    return int(counts["acquired"]) - int(counts["released"])


def waits_in(pid: int) -> str:
    """The kernel function in which a process sleeps (/proc/PID/wchan)."""
    return Path(f"/proc/{pid}/wchan").read_text()


def syscall_of(pid: int) -> str:
    """The number of the system call in which a process sleeps, or "running"."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (/proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
