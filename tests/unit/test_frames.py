"""Frames to node, zone and CMA: against a slow reference, and from the files that kernels have."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinwatch.host import frames
from pinwatch.host.frames import NOWHERE, Block, FrameRange, Frames, Spot, assemble
from pinwatch.model.placement import Cma, Zone
from tests.unit.make import free

NORMAL, MOVABLE = free().zones
BLOCK = 1 << 15  # 128 MiB
END = 64


def zone(name: str, start: int, end: int, *, node: int = 0, cma: int = 0) -> Zone:
    return replace(NORMAL, node=node, name=name, start_pfn=start, spanned=end - start, cma=cma)


def block(number: int, zone: str, node: int | None = 0, frames: int = 8) -> Block:
    span = FrameRange(number * frames, (number + 1) * frames)
    return Block(frames=span, node=node, zone=zone)


# ---- properties ------------------------------------------------------------------------------

NODES, NAMES = st.integers(0, 1), st.sampled_from(["DMA32", "Normal", "Movable"])
SPANS = st.tuples(st.integers(0, END - 1), st.integers(1, END)).map(
    lambda pair: (min(pair[0], pair[1] - 1), pair[1])
)
ZONES = st.lists(
    st.builds(
        lambda node, name, span, cma: zone(name, *span, node=node, cma=cma),
        NODES, NAMES, SPANS, st.integers(0, 8),
    ),
    max_size=4, unique_by=lambda z: (z.node, z.name),
)  # fmt: skip
BLOCKS = st.lists(
    st.builds(block, st.integers(0, 7), NAMES | st.just("none"), st.none() | NODES),
    max_size=8, unique_by=lambda one: one.frames,
)  # fmt: skip
AREAS = st.sets(st.integers(0, END), max_size=6).map(
    lambda edges: [FrameRange(*pair) for pair in list(pairwise(sorted(edges)))[::2]]
)


def slow(pfn: int, zones: list[Zone], blocks: list[Block], areas: list[FrameRange]) -> Spot:
    """The same for one frame, as one would say it."""
    here = [z for z in zones if z.start_pfn <= pfn < z.start_pfn + z.spanned]
    if len(here) > 1:
        its = [b for b in blocks if b.frames.start <= pfn < b.frames.end]
        here = [
            z for z in here for b in its if b.zone == z.name and b.node in (None, z.node)
        ][:1]  # fmt: skip
    if not here:
        return NOWHERE
    only = here[0]
    known = sum(
        only.start_pfn <= frame < only.start_pfn + only.spanned
        for area in areas
        for frame in range(area.start, area.end)
    )
    inside = any(area.start <= pfn < area.end for area in areas)
    doubtful = Cma.NO if known >= only.cma else Cma.UNKNOWN
    return Spot(only.node, only.name, Cma.YES if inside else doubtful)


@given(ZONES, BLOCKS, AREAS)
def test_each_frame_finds_what_a_slow_search_finds(
    zones: list[Zone], blocks: list[Block], areas: list[FrameRange]
) -> None:
    table = Frames(assemble(zones, blocks, areas))
    for pfn in range(END + 2):
        assert table.find(pfn) == slow(pfn, zones, blocks, areas)


@given(ZONES, BLOCKS, AREAS)
def test_pieces_never_overlap(
    zones: list[Zone], blocks: list[Block], areas: list[FrameRange]
) -> None:
    pieces = sorted(assemble(zones, blocks, areas), key=lambda piece: piece[0])
    assert all(start < end for start, end, _ in pieces)
    assert all(one[1] <= other[0] for one, other in pairwise(pieces))


# ---- files -----------------------------------------------------------------------------------

OVERLAPPING = (zone("Normal", 0, 4 * BLOCK), zone("Movable", 2 * BLOCK, 6 * BLOCK))


def write(top: Path, **files: str) -> Path:
    for name, text in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return top


def sysfs_with_blocks(top: Path, zones: dict[int, str], size: str = "8000000\n") -> Path:
    """drivers/base/memory.c: valid_zones of a block that is online names its zone, or "none"."""
    memory = top / "devices/system/memory"
    write(memory, block_size_bytes=size)
    for number, text in zones.items():
        state = "online\n" if text else "offline\n"
        write(memory / f"memory{number}", state=state, valid_zones=text or "Normal Movable\n")
        link = top / f"devices/system/node/node{int(number > 3)}/memory{number}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(memory / f"memory{number}")
    return top


def read(top: Path, *zones: Zone, kmsg: Path | None = None) -> Frames:
    return frames.read_frames(zones, sysfs=top, kmsg=kmsg or top / "kmsg")


def test_where_zones_overlap_blocks_decide(tmp_path: Path) -> None:
    """Hot-plugged blocks, onlined in turn; one of several zones; one that is offline; 6.1 without
    CONFIG_MEMORY_HOTREMOVE says as much."""
    top = sysfs_with_blocks(tmp_path, {2: "Movable\n", 3: "Normal\n", 1: "none\n", 4: ""})
    table = read(top, *OVERLAPPING)
    found = [table.find(number * BLOCK + 1).zone for number in range(6)]
    assert found == ["Normal", "Normal", "Movable", "Normal", "Movable", "Movable"]


def test_zones_of_two_nodes_that_overlap(tmp_path: Path) -> None:
    top = sysfs_with_blocks(tmp_path, {2: "Normal\n", 3: "Normal\n", 4: "Normal\n"})
    table = read(top, zone("Normal", 0, 8 * BLOCK), zone("Normal", 2 * BLOCK, 6 * BLOCK, node=1))
    assert [table.find(n * BLOCK).node for n in (1, 2, 3, 4, 5, 6)] == [0, 0, 0, 1, None, 0]


def test_without_blocks_what_overlaps_is_not_known(tmp_path: Path) -> None:
    table = read(tmp_path, *OVERLAPPING)
    assert [table.find(n * BLOCK).zone for n in (1, 2, 5)] == ["Normal", None, "Movable"]


def debugfs(top: Path, name: str, base: int, count: int, *ranges: int) -> None:
    """mm/cma_debug.c: before v6.15 base_pfn and count; since then base_pfn is a link to that of
    ranges/0, and count is of all ranges."""
    write(top / "kernel/debug/cma" / name, base_pfn=f"{base}\n", count=f"{count}\n", used="0\n")
    for number, start in enumerate(ranges):
        write(top / "kernel/debug/cma" / name / "ranges" / str(number), base_pfn=f"{start}\n")


@pytest.mark.parametrize("ranges", [(), (1000,)])
def test_cma_from_debugfs(tmp_path: Path, ranges: tuple[int, ...]) -> None:
    debugfs(tmp_path, "hugetlb0", 1000, 50, *ranges)
    debugfs(tmp_path, "reserved", 2000, 14)
    table = read(tmp_path, zone("Normal", 0, 4096, cma=64))
    found = [table.find(pfn).cma for pfn in (999, 1000, 1049, 1050, 2000, 2013, 2014)]
    no, yes = Cma.NO, Cma.YES
    assert found == [no, yes, yes, no, yes, yes, no]


def test_an_area_of_several_ranges_leaves_the_rest_of_its_zone_in_doubt(tmp_path: Path) -> None:
    debugfs(tmp_path, "hugetlb0", 1000, 50, 1000, 3000)
    debugfs(tmp_path, "reserved", 2000, 14)
    table = read(tmp_path, zone("Normal", 0, 4096, cma=64), zone("Movable", 4096, 8192))
    found = [table.find(pfn).cma for pfn in (1000, 2000, 3000, 4096)]
    assert found == [Cma.UNKNOWN, Cma.YES, Cma.UNKNOWN, Cma.NO]


LOG = (
    "6,0,0,-;Linux version 6.1.0\n"
    "6,88,0,-;cma: Reserved 64 MiB at 0x0000000077c00000\n"
    "6,89,0,-;cma: Reserved 512 KiB at 0x0000000070000000 on node -1\n"
)


def test_cma_from_the_boot_log(tmp_path: Path) -> None:
    kmsg = write(tmp_path, kmsg=LOG) / "kmsg"
    table = read(tmp_path, zone("Normal", 0, 1 << 20, cma=(64 << 8) + 128), kmsg=kmsg)
    start = 0x77C00
    found = [table.find(pfn).cma for pfn in (start - 1, start, start + 16383, start + 16384)]
    assert found == [Cma.NO, Cma.YES, Cma.YES, Cma.NO]
    assert table.find(0x70000 + 127).cma is Cma.YES


def test_cma_that_nobody_tells_of(tmp_path: Path) -> None:
    """Its zone is in doubt; a zone without CMA is not."""
    table = read(tmp_path, zone("Normal", 0, 100, cma=10), zone("Movable", 100, 200))
    assert table.find(5) == Spot(0, "Normal", Cma.UNKNOWN)
    assert table.find(105) == Spot(0, "Movable", Cma.NO)


def test_cma_that_the_caller_knows(tmp_path: Path) -> None:
    debugfs(tmp_path, "reserved", 50, 10)
    zones = [zone("Normal", 0, 100, cma=10)]
    table = frames.read_frames(
        zones, sysfs=tmp_path, kmsg=tmp_path / "kmsg", cma=[FrameRange(20, 30)]
    )
    assert [table.find(pfn).cma for pfn in (25, 55)] == [Cma.YES, Cma.NO]


def test_the_log_is_read_over_records_that_were_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/kmsg gives EPIPE where it was overwritten, and EAGAIN at its end."""
    said: list[bytes | OSError] = [b"one\n", BrokenPipeError(), b"two\n", BlockingIOError()]
    records = iter(said)

    def answer(_fd: int, _size: int) -> bytes:
        one = next(records)
        if isinstance(one, OSError):
            raise one
        return one

    monkeypatch.setattr(os, "read", answer)
    assert frames._log(Path("/dev/null")) == b"one\ntwo\n"


def test_a_frame_before_and_behind_all() -> None:
    table = Frames([(10, 20, Spot(0, "Normal", Cma.NO))])
    assert [table.piece(pfn) for pfn in (9, 10, 19, 20)] == [-1, 0, 0, -1]
    assert table.find(20) is NOWHERE
