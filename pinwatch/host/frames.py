"""Page frames to node, zone and CMA: from /proc/zoneinfo, memory blocks, and where CMA lies.

Zones may overlap, when blocks of hot-plugged memory were onlined in turn into ZONE_MOVABLE and
ZONE_NORMAL; there each block says which it is. A frame that nobody knows has no zone.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pinwatch.model.kernel import KernelFacts
from pinwatch.model.placement import PAGE_BYTES, Cma, Zone

_RESERVED = re.compile(rb"cma: Reserved (\d+) ([KM])iB at (0x[0-9a-f]+)")
_KMSG_RECORD = 8192  # the longest (Documentation/ABI/testing/dev-kmsg)


@dataclass(frozen=True, slots=True, order=True)
class FrameRange:
    """Frames [start, end)."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a frame lies."""

    node: int | None
    zone: str | None
    cma: Cma


NOWHERE = Spot(None, None, Cma.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of memory that can be onlined by itself. `zone` is "none" when it has several."""

    frames: FrameRange
    node: int | None
    zone: str


class Frames:
    """A table of pieces, each with one answer."""

    def __init__(self, pieces: Iterable[tuple[int, int, Spot]]) -> None:
        """Pieces (first frame, end, spot) that do not overlap."""
        ordered = sorted(pieces, key=lambda piece: piece[0])
        self._starts = [start for start, _, _ in ordered]
        self._ends = [end for _, end, _ in ordered]
        self._spots = [spot for _, _, spot in ordered]

    def piece(self, pfn: int) -> int:
        """The number of its piece; -1 when it lies in none."""
        at = bisect_right(self._starts, pfn) - 1
        return at if at >= 0 and pfn < self._ends[at] else -1

    def spot(self, piece: int) -> Spot:
        return self._spots[piece] if piece >= 0 else NOWHERE

    def find(self, pfn: int) -> Spot:
        return self.spot(self.piece(pfn))


def read_frames(
    zones: Sequence[Zone], *, sysfs: Path, kmsg: Path, cma: Sequence[FrameRange] | None = None
) -> Frames:
    """The table for this host. `cma`: where its CMA areas lie, when somebody has read it from the
    kernel; else debugfs is asked, then the boot log."""
    overlapping = any(len(here) > 1 for _, _, here in _slices(zones))
    blocks = tuple(read_blocks(sysfs)) if overlapping else ()
    if cma is None:
        cma = read_cma(sysfs, kmsg) if any(zone.cma for zone in zones) else ()
    return Frames(assemble(zones, blocks, cma))


def assemble(
    zones: Sequence[Zone], blocks: Sequence[Block], cma: Sequence[FrameRange]
) -> Iterator[tuple[int, int, Spot]]:
    """Pieces for Frames: zones, blocks where zones overlap, and CMA areas cut out of both."""
    ordered = sorted(blocks, key=lambda block: block.frames)
    starts = [block.frames.start for block in ordered]
    for start, end, here in _slices(zones):
        if len(here) == 1:
            yield from _cut(start, end, here[0], cma)
            continue
        first = max(bisect_right(starts, start) - 1, 0)
        for block in ordered[first : bisect_right(starts, end)]:
            low, high = max(start, block.frames.start), min(end, block.frames.end)
            chosen = _choose(here, block)
            if low < high and chosen is not None:
                yield from _cut(low, high, chosen, cma)


def _slices(zones: Sequence[Zone]) -> Iterator[tuple[int, int, list[Zone]]]:
    """The frames between all edges of zones, each with the zones that span them."""
    edges = sorted({edge for z in zones for edge in (z.start_pfn, z.start_pfn + z.spanned)})
    for start, end in pairwise(edges):
        here = [z for z in zones if z.start_pfn <= start and end <= z.start_pfn + z.spanned]
        if here:
            yield start, end, here


def _choose(zones: list[Zone], block: Block) -> Zone | None:
    named = [zone for zone in zones if zone.name == block.zone]
    return next((zone for zone in named if block.node in (None, zone.node)), None)


def _cut(
    start: int, end: int, zone: Zone, cma: Sequence[FrameRange]
) -> Iterator[tuple[int, int, Spot]]:
    """A piece of one zone, with its CMA areas apart. Where the zone has more CMA than is known of,
    all else in it is doubtful."""
    span = FrameRange(zone.start_pfn, zone.start_pfn + zone.spanned)
    known = sum(_overlap(span, area) for area in cma)
    outside = Spot(zone.node, zone.name, Cma.NO if known >= zone.cma else Cma.UNKNOWN)
    inside = Spot(zone.node, zone.name, Cma.YES)
    for area in sorted(cma):
        low, high = max(start, area.start), min(end, area.end)
        if low < high:
            if start < low:
                yield start, low, outside
            yield low, high, inside
            start = high
    if start < end:
        yield start, end, outside


def _overlap(one: FrameRange, other: FrameRange) -> int:
    return max(min(one.end, other.end) - max(one.start, other.start), 0)


# ---- files ----------------------------------------------------------------------------------


def read_blocks(sysfs: Path) -> Iterator[Block]:
    """Memory blocks that are online (Documentation/ABI/testing/sysfs-devices-memory)."""
    top = sysfs / "devices/system/memory"
    try:
        frames = int((top / "block_size_bytes").read_text(), 16) // PAGE_BYTES
    except OSError:
        return  # a kernel without memory hotplug
    nodes = _nodes_of_blocks(sysfs)
    for entry in top.glob("memory[0-9]*"):
        number = int(entry.name.removeprefix("memory"))
        try:
            if (entry / "state").read_text().strip() != "online":
                continue
            zone = (entry / "valid_zones").read_text().split()[0]
        except (OSError, IndexError):
            continue  # gone
        span = FrameRange(number * frames, (number + 1) * frames)
        yield Block(frames=span, node=nodes.get(number), zone=zone)


def _nodes_of_blocks(sysfs: Path) -> dict[int, int]:
    links = (sysfs / "devices/system/node").glob("node*/memory[0-9]*")
    return {
        int(link.name.removeprefix("memory")): int(link.parent.name.removeprefix("node"))
        for link in links
    }


def cma_ranges(facts: KernelFacts) -> tuple[FrameRange, ...] | None:
    """As the kernel's own table has them; None where that could not be read."""
    if facts.cma_areas is None:
        return None
    return tuple(FrameRange(*pair) for pairs in facts.cma_areas.values() for pair in pairs)


def read_cma(sysfs: Path, kmsg: Path) -> tuple[FrameRange, ...]:
    """Where CMA areas lie, as far as debugfs or the boot log tell; maybe not all of them."""
    return tuple(_debugfs_cma(sysfs / "kernel/debug/cma")) or tuple(_logged_cma(kmsg))


def _debugfs_cma(top: Path) -> Iterator[FrameRange]:
    """One range for each area. Of an area of several (since v6.15, c009da4258f9) debugfs tells
    where each begins, and not where it ends."""
    for area in sorted(top.glob("*")):
        if len(tuple(area.glob("ranges/*"))) > 1:
            continue
        try:
            start, pages = (int((area / name).read_text()) for name in ("base_pfn", "count"))
        except (OSError, ValueError):
            continue
        yield FrameRange(start, start + pages)


def _logged_cma(kmsg: Path) -> Iterator[FrameRange]:
    """`cma: Reserved 64 MiB at 0x...` (mm/cma.c). An area of several ranges is not told."""
    for size, unit, address in _RESERVED.findall(_log(kmsg)):
        start = int(address, 16) // PAGE_BYTES
        yield FrameRange(start, start + (int(size) << (20 if unit == b"M" else 10)) // PAGE_BYTES)


def _log(kmsg: Path) -> bytes:
    """The kernel's log from its beginning, a record for each read(2); nothing without the right to
    read it."""
    try:
        log = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: _record(log), b""))
    finally:
        os.close(log)


def _record(log: int) -> bytes:
    while True:
        try:
            return os.read(log, _KMSG_RECORD)
        except BrokenPipeError:
            continue  # records were overwritten; the next is the oldest there is
        except OSError:
            return b""  # all read
