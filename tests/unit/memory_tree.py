"""A /proc, with the memory of one process as a test wants it: maps, pagemap, kpageflags."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from pinwatch.host.frames import Frames, Spot
from pinwatch.model.placement import Cma

TGID = 4242
BASE = 0x7F00_0000_0000 >> 12  # a page of address space
PRESENT, SWAPPED, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 56
DIRTY, ANON, HEAD, TAIL, HUGETLB, KSM, THP, ZERO = (
    1 << bit for bit in (4, 12, 15, 16, 17, 21, 22, 24)
)
GIB = 1 << 18  # pages

# Frames: 1 GiB of Normal on node 0, 1 GiB of Movable, of which the last half is CMA, and 2 of
# Movable on node 1.
FRAMES = Frames(
    [
        (0, GIB, Spot(0, "Normal", Cma.NO)),
        (GIB, GIB * 3 // 2, Spot(0, "Movable", Cma.NO)),
        (GIB * 3 // 2, 2 * GIB, Spot(0, "Movable", Cma.YES)),
        (2 * GIB, 4 * GIB, Spot(1, "Movable", Cma.NO)),
    ]
)
STATUS = """\
VmLck:\t       0 kB
VmPin:\t      16 kB
VmRSS:\t  102400 kB
HugetlbPages:\t    2048 kB
CapEff:\t0000000000000000
Mems_allowed_list:\t0-1
"""
LIMITS = "Max locked memory         67108864             unlimited            bytes\n"


class Tree:
    """Files below a directory."""

    def __init__(self, top: Path) -> None:
        self.proc, self.sys = top / "proc", top / "sys"
        process = self.proc / str(TGID)
        process.mkdir(parents=True)
        self.sys.mkdir()
        (process / "status").write_text(STATUS)
        (process / "limits").write_text(LIMITS)
        (process / "cgroup").write_text("0::/machine.slice/vm.scope\n")
        (process / "mountinfo").write_text(
            "25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw\n26 24 8:1 / / rw - ext4 /dev/sda1 rw\n"
            "27 24 0:40 / /dev/hugepages rw - hugetlbfs hugetlbfs rw\n"
        )
        (self.proc / "kpageflags").write_bytes(b"")
        (process / "pagemap").write_bytes(b"")
        self.maps()

    def write(self, path: str, text: str) -> None:
        target = self.proc.parent / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def maps(self, *lines: str, pages: int = 1 << 14) -> None:
        """Lines of maps; without any, one anonymous mapping of so many pages from BASE on."""
        plain = f"{BASE << 12:x}-{BASE + pages << 12:x} rw-p 00000000 00:00 0 "
        self.write(f"proc/{TGID}/maps", "\n".join(lines or (plain,)) + "\n")
        with (self.proc / str(TGID) / "pagemap").open("r+b") as file:
            file.truncate((BASE + max(pages, 1 << 14)) * 8)

    def pages(self, first: int, entries: Iterable[int]) -> None:
        """Words of pagemap from page BASE + first on."""
        self._words(self.proc / str(TGID) / "pagemap", BASE + first, entries)

    def frames(self, first: int, flags: Iterable[int]) -> None:
        """Words of kpageflags from frame `first` on."""
        self._words(self.proc / "kpageflags", first, flags)

    def _words(self, path: Path, first: int, words: Iterable[int]) -> None:
        values = tuple(words)
        with path.open("r+b") as file:
            file.seek(first * 8)
            file.write(struct.pack(f"={len(values)}Q", *values))
