"""Read the kernel's own type information (BTF): fields, sizes, enumerators, argument counts.

Takes the bytes of /sys/kernel/btf/vmlinux (Documentation/bpf/btf.rst); gives plain numbers. It
never touches the kernel otherwise. bpftool would say the same, but is not installed everywhere.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass

MAGIC = 0xEB9F
_PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO = 8, 9, 10, 11, 12, 13
_INT, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = 1, 14, 15, 16, 17, 18, 19
_TRANSPARENT = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})

# Bytes behind the 12-byte header of a type: fixed, or for each of its members.
_EXTRA_FIXED = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_EXTRA_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}


class BtfError(ValueError):
    """The bytes are not BTF, or of a form this reader does not know."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where a member lies in its structure, in bytes."""

    offset: int
    size: int


class Btf:
    """An index over BTF bytes; look-ups give None for what this kernel does not have."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._read_header()
        self._index_types()

    def _read_header(self) -> None:
        if len(self._data) < 24:
            raise BtfError("too short for BTF")
        magic, _, _, hdr_len, type_off, type_len, str_off, str_len = struct.unpack_from(
            "<HBBIIIII", self._data
        )
        if magic != MAGIC:
            raise BtfError(f"not BTF: magic is {magic:#x}")
        self._types_start = hdr_len + type_off
        self._types_end = self._types_start + type_len
        self._strings = self._data[hdr_len + str_off : hdr_len + str_off + str_len]

    def _index_types(self) -> None:
        """One pass over some 150 000 types: where each one starts, and the enums apart."""
        data, pos, end = self._data, self._types_start, self._types_end
        starts = array("I", [0])  # type 0 is void
        enums = array("I")
        header = struct.Struct("<II").unpack_from
        fixed, each = _EXTRA_FIXED, _EXTRA_EACH
        while pos < end:
            starts.append(pos)
            info = header(data, pos)[1]
            kind = (info >> 24) & 0x1F
            if kind in (_ENUM, _ENUM64):
                enums.append(pos)
            pos += 12 + fixed.get(kind, 0) + each.get(kind, 0) * (info & 0xFFFF)
        self._starts = starts
        self._enums = enums

    def _name_offset(self, name: str) -> int | None:
        at = self._strings.find(b"\0" + name.encode() + b"\0")
        return None if at < 0 else at + 1

    def _header(self, type_id: int) -> tuple[int, int, int, int]:
        """(name offset, kind, number of members, size or referenced type)."""
        name, info, size = struct.unpack_from("<III", self._data, self._starts[type_id])
        return name, (info >> 24) & 0x1F, info & 0xFFFF, size

    def _find(self, name: str, *kinds: int) -> int | None:
        wanted = self._name_offset(name)
        if wanted is None:
            return None
        needle = struct.pack("<I", wanted)
        at = self._data.find(needle, self._types_start, self._types_end)
        while at >= 0:
            type_id = self._type_at(at)
            if type_id is not None and self._header(type_id)[1] in kinds:
                return type_id
            at = self._data.find(needle, at + 1, self._types_end)
        return None

    def _type_at(self, pos: int) -> int | None:
        """The type that starts at this very byte, if one does (starts are sorted)."""
        low, high = 1, len(self._starts) - 1
        while low <= high:
            middle = (low + high) // 2
            start = self._starts[middle]
            if start == pos:
                return middle
            low, high = (middle + 1, high) if start < pos else (low, middle - 1)
        return None

    def _resolve(self, type_id: int) -> int:
        while type_id and self._header(type_id)[1] in _TRANSPARENT:
            type_id = self._header(type_id)[3]
        return type_id

    def _size(self, type_id: int) -> int:
        type_id = self._resolve(type_id)
        if not type_id:
            return 0
        _, kind, _, size = self._header(type_id)
        if kind == _PTR:
            return 8
        if kind == _ARRAY:
            element, _, count = struct.unpack_from("<III", self._data, self._starts[type_id] + 12)
            return self._size(element) * int(count)
        return size

    def size(self, struct_name: str) -> int | None:
        """sizeof(struct NAME) or sizeof(NAME) for a typedef, in bytes."""
        type_id = self._find(struct_name, _STRUCT, _UNION, _TYPEDEF)
        return None if type_id is None else self._size(type_id)

    def field(self, struct_name: str, member: str) -> Field | None:
        """A member of a structure, also inside anonymous structures and unions."""
        type_id = self._find(struct_name, _STRUCT, _UNION)
        wanted = self._name_offset(member)
        if type_id is None or wanted is None:
            return None
        return self._member(type_id, wanted)

    def _member(self, type_id: int, wanted: int) -> Field | None:
        _, _, count, _ = self._header(type_id)
        start = self._starts[type_id] + 12
        for i in range(count):
            name, member_type, bits = struct.unpack_from("<III", self._data, start + 12 * i)
            offset = (bits & 0xFFFFFF) // 8  # kind_flag keeps a bit field's size in the top byte
            if name == wanted:
                return Field(offset, self._size(member_type))
            if name == 0 and (inner_id := self._resolve(member_type)):
                inner = self._member(inner_id, wanted)
                if inner is not None:
                    return Field(offset + inner.offset, inner.size)
        return None

    def enumerator(self, name: str) -> int | None:
        """The value of an enumerator, in whatever enum it stands, named or not."""
        wanted = self._name_offset(name)
        if wanted is None:
            return None
        needle = struct.pack("<I", wanted)
        for start in self._enums:
            info = struct.unpack_from("<I", self._data, start + 4)[0]
            width = _EXTRA_EACH[(info >> 24) & 0x1F]
            first, last = start + 12, start + 12 + width * (info & 0xFFFF)
            at = self._data.find(needle, first, last)
            while at >= 0:
                if (at - first) % width == 0:  # else it is a value, or lies across two
                    return int(struct.unpack_from("<I", self._data, at + 4)[0])
                at = self._data.find(needle, at + 1, last)
        return None

    def nr_args(self, function: str) -> int | None:
        """Number of arguments of a function; None when BTF has no such function."""
        type_id = self._find(function, _FUNC)
        return None if type_id is None else self._header(self._header(type_id)[3])[2]

    def tracepoint_nr_args(self, tracepoint: str) -> int | None:
        """Number of arguments of a raw tracepoint (typedef btf_trace_NAME)."""
        type_id = self._find(f"btf_trace_{tracepoint}", _TYPEDEF)
        if type_id is None:
            return None
        proto = self._resolve(self._header(self._resolve(type_id))[3])
        return self._header(proto)[2] - 1  # the first is the tracepoint's private data
