"""The kernel's table of CMA areas, as kernels before and since v6.15 have it."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from pinwatch.host.btf import Btf
from pinwatch.host.cma import read_areas
from pinwatch.host.frames import FrameRange, cma_ranges
from tests.unit.make import FACTS
from tests.unit.test_btf import ARRAY, INT, STRUCT, Builder

TABLE, COUNT = 0xFFFF_8000_0000_1000, 0xFFFF_8000_0000_0000
SYMBOLS = {"cma_areas": TABLE, "cma_area_count": COUNT}


def layout(*, ranges: bool) -> Btf:
    """struct cma with a name of 8 bytes; `ranges`: with three struct cma_memrange."""
    b = Builder()
    b.type("unsigned long", INT, 0, 8, 64)  # 1
    b.type("char", INT, 0, 1, 8)  # 2
    b.type("", ARRAY, 0, 0, 2, 1, 8)  # 3: char[8]
    number = (1, 0)
    b.type("cma_memrange", STRUCT, 2, 16, b.name("base_pfn"), *number, b.name("count"), 1, 64)  # 4
    b.type("", ARRAY, 0, 0, 4, 1, 3)  # 5: struct cma_memrange[3]
    if ranges:
        members = (b.name("nranges"), 1, 0, b.name("name"), 3, 64, b.name("ranges"), 5, 128)
        b.type("cma", STRUCT, 3, 64, *members)
    else:
        members = (b.name("base_pfn"), 1, 0, b.name("count"), 1, 64, b.name("name"), 3, 128)
        b.type("cma", STRUCT, 3, 24, *members)
    return b.build()


class Memory:
    """The kernel's."""

    def __init__(self, *areas: bytes) -> None:
        self._table = b"".join(areas)
        self._count = struct.pack("=I", len(areas))

    def __call__(self, address: int, size: int) -> bytes:
        if address == COUNT:
            return self._count[:size]
        return self._table[address - TABLE :][:size]


def test_areas_of_one_range() -> None:
    memory = Memory(
        struct.pack("=QQ8s", 0x1000, 256, b"reserved"), struct.pack("=QQ8s", 0x8000, 512, b"h\0x")
    )
    found = read_areas(memory, layout(ranges=False), SYMBOLS)
    assert found == {"reserved": ((0x1000, 0x1100),), "h": ((0x8000, 0x8200),)}


def test_areas_of_several_ranges() -> None:
    pairs = (0x1000, 256, 0x9000, 512, 7, 7)
    memory = Memory(struct.pack("=Q8s6Q", 2, b"big", *pairs))
    found = read_areas(memory, layout(ranges=True), SYMBOLS)
    assert found == {"big": ((0x1000, 0x1100), (0x9000, 0x9200))}


def test_a_kernel_without_areas_has_none_and_one_without_the_table_does_not_say() -> None:
    assert read_areas(Memory(), layout(ranges=True), SYMBOLS) == {}
    assert read_areas(Memory(), layout(ranges=True), {}) is None
    assert read_areas(Memory(), Builder().build(), SYMBOLS) is None


def test_memory_that_cannot_be_read_says_nothing() -> None:
    def refuse(_address: int, _size: int) -> bytes:
        raise OSError(14, "Bad address")

    assert read_areas(refuse, layout(ranges=True), SYMBOLS) is None


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        (None, None),
        ({}, ()),
        ({"a": ((1, 2), (5, 9)), "b": ((3, 4),)},
         (FrameRange(1, 2), FrameRange(5, 9), FrameRange(3, 4))),
    ],
)  # fmt: skip
def test_the_ranges_of_all(areas: Any, expected: Any) -> None:
    assert cma_ranges(replace(FACTS, cma_areas=areas)) == expected
