"""What is asked of the kernel, of a kernel made by hand."""

from __future__ import annotations

import ctypes as ct
import errno
from pathlib import Path

import pytest

from pinwatch.host import syscalls


class Churning:
    """A hash map of which the key that was read last is deleted, once, while it is walked: then
    the kernel begins again (kernel/bpf/hashtab.c: htab_map_get_next_key)."""

    def __init__(self, keys: list[int], deleted: int) -> None:
        self._keys = keys
        self._deleted = deleted

    def bpf_map_get_next_key(
        self, _map: int, last: ct.Array[ct.c_char] | None, into: object
    ) -> int:
        at = -1
        if last is not None:
            key = int.from_bytes(last.raw, "little")
            if key == self._deleted and key in self._keys:
                self._keys.remove(key)
            at = self._keys.index(key) if key in self._keys else -1
        if at + 1 == len(self._keys):
            return -1
        ct.memmove(into, self._keys[at + 1].to_bytes(4, "little"), 4)  # type: ignore[arg-type]
        return 0

    def bpf_map_lookup_elem(self, _map: int, _key: object, _into: object) -> int:
        return 0


class Number(ct.Structure):
    _fields_ = (("value", ct.c_uint32),)


def test_a_map_that_changes_while_it_is_walked_gives_each_key_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a stuck pin would be two."""
    monkeypatch.setattr(syscalls, "_libbpf", lambda: Churning([1, 2, 3, 4], deleted=3))
    keys = [int.from_bytes(key, "little") for key, _ in syscalls.read_hash(7, Number, Number)]
    assert keys == [1, 2, 3, 4]


def test_a_kernel_without_kprobes_is_not_one_whose_module_is_to_come(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no kprobes") as error:
        syscalls.attach_kprobe(3, "vfio_iommu_type1_ioctl", on_return=False, sysfs=tmp_path)
    assert error.value.errno != errno.ENOENT
