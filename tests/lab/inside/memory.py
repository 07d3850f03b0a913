"""Memory as a VMM makes it, and the ways in which something else gets hold of one page of it."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import re
import subprocess
from array import array
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096

_libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    """struct iovec of uio(3)."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@dataclass(frozen=True, slots=True)
class Memory:
    """Shared memory, mapped and populated."""

    view: mmap.mmap
    fd: int
    address: int
    size: int

    def close(self) -> None:
        os.close(self.fd)
        # the view goes with the process: ctypes still points into it


def map_fd(fd: int, size: int, *, populate: bool = True) -> Memory:
    """Map a memfd or file, populated from the start as QEMU's prealloc does."""
    flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if populate else 0)
    view = mmap.mmap(fd, size, flags=flags)
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    return Memory(view=view, fd=fd, address=address, size=size)


def memfd(size: int, *, populate: bool = True) -> Memory:
    """A memfd of base pages, or of huge pages where shmem_enabled says so. It may be sealed."""
    fd = os.memfd_create("pinwatch-lab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return map_fd(fd, size, populate=populate)


def hold_in_pipe(memory: Memory, offset: int) -> int:
    """Put one page into a pipe that nobody reads: a plain reference (vmsplice(2)). Its read end."""
    reader, writer = os.pipe()
    iovec = Iovec(memory.address + offset, PAGE)
    if _libc.vmsplice(writer, ctypes.byref(iovec), 1, 0) != PAGE:
        raise OSError(ctypes.get_errno(), "vmsplice")
    return reader


def hold_pages_in_pipes(memory: Memory, numbers: list[int]) -> list[int]:
    """The same for pages by their number, 256 to a pipe; the read ends."""
    readers = []
    for start in range(0, len(numbers), 256):
        portion = [memory.address + number * PAGE for number in numbers[start : start + 256]]
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 256 * PAGE)
        while portion:
            iovecs = (Iovec * len(portion))(*(Iovec(address, PAGE) for address in portion))
            spliced = _libc.vmsplice(writer, iovecs, len(portion), 0)
            if spliced <= 0:
                raise OSError(ctypes.get_errno(), "vmsplice")
            portion = portion[spliced // PAGE :]
        readers.append(reader)
    return readers


def pfns(memory: Memory) -> list[int]:
    """The frame of each page, 0 where none is present (/proc/self/pagemap)."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(memory.address // PAGE * 8)
        entries = array("Q", pagemap.read(memory.size // PAGE * 8))
    return [entry & (1 << 55) - 1 if entry >> 63 else 0 for entry in entries]


def zone_ranges(name: str) -> list[range]:
    """The frames that the zones of that name span, holes and all (/proc/zoneinfo)."""
    zones = re.split(r"^Node ", Path("/proc/zoneinfo").read_text(), flags=re.M)
    found = (
        (re.search(r"spanned +(\d+)", zone), re.search(r"start_pfn: +(\d+)", zone))
        for zone in zones
        if re.match(rf"\d+, zone +{name}\n", zone)
    )
    return [range(int(at[1]), int(at[1]) + int(size[1])) for size, at in found if size and at]


def free_pages() -> list[tuple[str, int]]:
    """Zones with their free pages (/proc/zoneinfo)."""
    text = Path("/proc/zoneinfo").read_text()
    zones = re.findall(r"zone +(\w+)\n +pages free +(\d+)", text)
    return [(name, int(free)) for name, free in zones]


def has_cma() -> bool:
    """Some zone has pages of CMA (/proc/zoneinfo)."""
    return re.search(r"^ +cma +[1-9]", Path("/proc/zoneinfo").read_text(), re.M) is not None


def cma_range() -> range:
    """The frames of the area that `cma=` reserved, as the boot log has them."""
    log = subprocess.run(["dmesg"], capture_output=True, check=True).stdout.decode()
    found = re.search(r"cma: Reserved (\d+) MiB at (0x[0-9a-f]+)", log)
    assert found, "no CMA area in the boot log"
    start = int(found[2], 16) // PAGE
    return range(start, start + (int(found[1]) << 20) // PAGE)


def punch(memory: Memory, offset: int, length: int) -> None:
    """Give pages of the file back (fallocate PUNCH_HOLE | KEEP_SIZE)."""
    libc = _libc
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
    if libc.fallocate(memory.fd, 3, offset, length):
        raise OSError(ctypes.get_errno(), "fallocate")
