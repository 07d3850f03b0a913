"""The BTF reader, on BTF made by hand: the format of Documentation/bpf/btf.rst."""

from __future__ import annotations

import struct

import pytest

from pinwatch.host.btf import Btf, BtfError, Field

INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, FUNC, PROTO, ENUM64 = 1, 2, 3, 4, 5, 6, 8, 12, 13, 19


class Builder:
    """Types in order; ids count from 1."""

    def __init__(self) -> None:
        self.strings = b"\0"
        self.types = b""

    def name(self, text: str) -> int:
        if not text:
            return 0
        entry = b"\0" + text.encode() + b"\0"
        if entry not in self.strings:  # the kernel's strings are unique, too
            self.strings += entry[1:]
        return self.strings.index(entry) + 1

    def type(self, name: str, kind: int, count: int, size: int, *extra: int) -> None:
        header = struct.pack("<III", self.name(name), kind << 24 | count, size)
        self.types += header + struct.pack(f"<{len(extra)}I", *extra)

    def build(self) -> Btf:
        sizes = (0, len(self.types), len(self.types), len(self.strings))
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, *sizes)
        return Btf(header + self.types + self.strings)


@pytest.fixture
def btf() -> Btf:
    b = Builder()
    b.type("unsigned int", INT, 0, 4, 32)  # 1
    b.type("", PTR, 0, 1)  # 2
    b.type("", ARRAY, 0, 0, 1, 1, 3)  # 3: unsigned int[3]
    b.type("", UNION, 2, 8, b.name("mapping"), 2, 0, b.name("index"), 1, 0)  # 4
    b.type("folio", STRUCT, 3, 24, b.name("flags"), 1, 0, 0, 4, 64, b.name("tail"), 3, 96)  # 5
    b.type("folio_t", TYPEDEF, 0, 5)  # 6
    b.type("", ENUM, 2, 4, b.name("FOLL_WRITE"), 1, b.name("FOLL_LONGTERM"), 0x100)  # 7
    b.type("zone_type", ENUM64, 1, 8, b.name("ZONE_MOVABLE"), 3, 0)  # 8
    b.type("", PROTO, 2, 1, 0, 1, 0, 2)  # 9
    b.type("putback", FUNC, 0, 9)  # 10
    b.type("", PTR, 0, 9)  # 11
    b.type("btf_trace_migrate", TYPEDEF, 0, 11)  # 12
    b.type("putback", STRUCT, 0, 4)  # 13: the same name, another kind
    return b.build()


def test_fields_are_found_inside_anonymous_unions(btf: Btf) -> None:
    assert btf.field("folio", "flags") == Field(0, 4)
    assert btf.field("folio", "mapping") == Field(8, 8)
    assert btf.field("folio", "index") == Field(8, 4)
    assert btf.field("folio", "tail") == Field(12, 12)


def test_what_the_kernel_lacks_is_none(btf: Btf) -> None:
    assert btf.field("folio", "nope") is None
    assert btf.field("folio", "ZONE_MOVABLE") is None
    assert btf.field("nope", "flags") is None
    assert btf.size("nope") is None
    assert btf.enumerator("flags") is None
    assert btf.nr_args("folio") is None
    assert btf.tracepoint_nr_args("nope") is None


def test_sizes_through_typedefs(btf: Btf) -> None:
    assert btf.size("folio") == 24
    assert btf.size("folio_t") == 24


def test_enumerators_of_anonymous_and_wide_enums(btf: Btf) -> None:
    assert btf.enumerator("FOLL_LONGTERM") == 0x100
    assert btf.enumerator("ZONE_MOVABLE") == 3


def test_a_function_and_a_structure_of_one_name(btf: Btf) -> None:
    assert btf.nr_args("putback") == 2
    assert btf.size("putback") == 4


def test_tracepoint_arguments_without_the_private_one(btf: Btf) -> None:
    assert btf.tracepoint_nr_args("migrate") == 1


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(64), bytes(24)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BtfError):
        Btf(data)


def test_a_value_that_looks_like_the_name_is_passed_over() -> None:
    b = Builder()
    wanted = b.name("MR_LONGTERM_PIN")
    b.type("migrate_reason", ENUM, 2, 4, b.name("MR_COMPACTION"), wanted, wanted, 7)
    assert b.build().enumerator("MR_LONGTERM_PIN") == 7
