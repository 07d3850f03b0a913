"""Where the kernel's CMA areas lie: its own table `cma_areas` (mm/cma.c), which no file shows.

Takes what reads kernel memory, and BTF; gives the areas, or None where this kernel has no such
table that we know how to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pinwatch.host.btf import Btf
from pinwatch.model.kernel import CmaAreas

Peek = Callable[[int, int], bytes]  # address and size to bytes; OSError


def read_areas(peek: Peek, btf: Btf, symbols: dict[str, int]) -> CmaAreas | None:
    """By name: each range of frames as start and end."""
    areas, counter, size = symbols.get("cma_areas"), symbols.get("cma_area_count"), btf.size("cma")
    if not areas or not counter or size is None:
        return None
    try:
        count = int.from_bytes(peek(counter, 4), "little")
        return dict(_area(peek(areas + i * size, size), btf) for i in range(count))
    except (OSError, KeyError):
        return None


def _area(area: bytes, btf: Btf) -> tuple[str, tuple[tuple[int, int], ...]]:
    name = _bytes(area, btf, "cma", "name").split(b"\0")[0].decode(errors="replace")
    if btf.field("cma", "ranges") is None:
        return name, (_range(area, btf, "cma"),)
    return name, tuple(_ranges(area, btf))


def _ranges(area: bytes, btf: Btf) -> Iterator[tuple[int, int]]:
    """Since v6.15 (c009da4258f9) an area may have several."""
    ranges, size = _bytes(area, btf, "cma", "ranges"), btf.size("cma_memrange")
    if size is None:
        raise KeyError("cma_memrange")
    for number in range(_number(area, btf, "cma", "nranges")):
        yield _range(ranges[number * size : (number + 1) * size], btf, "cma_memrange")


def _range(data: bytes, btf: Btf, struct: str) -> tuple[int, int]:
    start = _number(data, btf, struct, "base_pfn")
    return start, start + _number(data, btf, struct, "count")


def _number(data: bytes, btf: Btf, struct: str, member: str) -> int:
    return int.from_bytes(_bytes(data, btf, struct, member), "little")


def _bytes(data: bytes, btf: Btf, struct: str, member: str) -> bytes:
    field = btf.field(struct, member)
    if field is None:
        raise KeyError(f"{struct}.{member}")
    return data[field.offset : field.offset + field.size]
