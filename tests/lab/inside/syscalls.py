"""System calls that Python's library has no function for.  Each raises OSError where it fails.

Numbers and structures are those of x86-64 and include/uapi.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import struct
from pathlib import Path

PROT_READ, PROT_READ_WRITE = 1, 3
MADV_NOHUGEPAGE, MADV_DONTNEED_LOCKED, MADV_HWPOISON = 15, 24, 100

_PROCESS_VM_READV, _USERFAULTFD, _MLOCK2, _MOVE_PAGES, _MEMFD_SECRET = 310, 323, 325, 279, 447
_IO_URING_SETUP, _IO_URING_REGISTER, _MBIND = 425, 427, 237
_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
_MPOL_MF_MOVE_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mount.argtypes = (
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
)  # fmt: skip
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_uint)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _syscall(what: str, number: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *words), what)


def map_memory(
    size: int, *, fd: int = -1, protection: int = PROT_READ_WRITE, flags: int = 0
) -> int:
    """mmap(2); the address.  Python's own cannot say where a read-only mapping lies."""
    flags = flags or (mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address: int | None = _libc.mmap(None, size, protection, flags, fd, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        _check(-1, "mmap")
    assert address is not None
    return address


def unmap(address: int, size: int) -> None:
    _check(_libc.munmap(address, size), "munmap")


def advise(address: int, size: int, advice: int) -> None:
    _check(_libc.madvise(address, size, advice), "madvise")


def touch(address: int, size: int) -> None:
    """Write one byte into each page."""
    for offset in range(0, size, mmap.PAGESIZE):
        ctypes.c_char.from_address(address + offset).value = b"x"


def read_pages(address: int, size: int) -> None:
    """Read one byte of each page, so that it is mapped here."""
    for offset in range(0, size, mmap.PAGESIZE):
        _ = ctypes.c_char.from_address(address + offset).value


def mlock_on_fault(address: int, size: int) -> None:
    _syscall("mlock2", _MLOCK2, address, size, 1)


def memfd_secret() -> int:
    return _syscall("memfd_secret", _MEMFD_SECRET, 0)


def die_with_parent() -> None:
    _check(_libc.prctl(1, signal.SIGKILL), "prctl")


def start_writeback(fd: int) -> None:
    """Send all dirty pages of the file to its device, and do not wait (SYNC_FILE_RANGE_WRITE)."""
    _check(_libc.sync_file_range(fd, 0, 0, 2), "sync_file_range")


def move_page(address: int, node: int) -> int:
    """move_pages(2) of one page, whoever else maps it; the node that it is on then, or -errno."""
    pages = ctypes.create_string_buffer(struct.pack("Q", address))
    nodes = ctypes.create_string_buffer(struct.pack("i", node))
    status = ctypes.create_string_buffer(4)
    _syscall("move_pages", _MOVE_PAGES, 0, 1, pages, nodes, status, _MPOL_MF_MOVE_ALL)
    return int(struct.unpack("i", status.raw[:4])[0])


def mount(device: str, directory: Path, kind: str, options: str) -> None:
    words = (device.encode(), bytes(directory), kind.encode(), 0, options.encode())
    _check(_libc.mount(*words), f"mount of {kind}")


def unmount(directory: Path, *, lazily: bool = False) -> None:
    _check(_libc.umount2(bytes(directory), 2 if lazily else 0), f"umount of {directory}")


def bind(address: int, size: int, *, node: int) -> None:
    """mbind(2) with MPOL_BIND to one node."""
    _mbind(address, size, 2, 1 << node)


def interleave(address: int, size: int) -> None:
    """mbind(2) with MPOL_INTERLEAVE: one page on node 0, the next on node 1."""
    _mbind(address, size, 3, 0b11)


def _mbind(address: int, size: int, mode: int, nodes: int) -> None:
    mask = ctypes.create_string_buffer(struct.pack("Q", nodes))
    _syscall("mbind", _MBIND, address, size, mode, mask, 64, 0)


def missing_page() -> int:
    """The address of a page that is not there, and that userfaultfd(2) keeps from coming: who
    touches it, kernel included, waits for ever.  The descriptor stays open with the process."""
    address = map_memory(mmap.PAGESIZE)
    fd = _syscall("userfaultfd", _USERFAULTFD, os.O_CLOEXEC)
    fcntl.ioctl(fd, _UFFDIO_API, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
    where = bytearray(struct.pack("QQQQ", address, mmap.PAGESIZE, 1, 0))
    fcntl.ioctl(fd, _UFFDIO_REGISTER, where)
    return address


def read_of_process(pid: int, remote: int, local: int, size: int) -> int:
    """process_vm_readv(2) of one piece."""
    here = ctypes.create_string_buffer(struct.pack("QQ", local, size))
    there = ctypes.create_string_buffer(struct.pack("QQ", remote, size))
    return _syscall("process_vm_readv", _PROCESS_VM_READV, pid, here, 1, there, 1, 0)


def io_uring(entries: int = 8) -> int:
    """A ring that only ever registers buffers, so its queues need not be mapped."""
    parameters = ctypes.create_string_buffer(120)
    return _syscall("io_uring_setup", _IO_URING_SETUP, entries, parameters)


def register_buffer(ring: int, address: int, size: int) -> int:
    """IORING_REGISTER_BUFFERS of one buffer; 0 or a positive errno."""
    iovec = ctypes.create_string_buffer(struct.pack("QQ", address, size))
    try:
        _syscall("io_uring_register", _IO_URING_REGISTER, ring, 0, iovec, 1)
    except OSError as error:
        return error.errno or -1
    return 0
