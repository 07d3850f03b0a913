"""A disk that takes its time: dm-delay over a loop device over a file in the guest's memory.

A file system on it makes writeback that lasts as long as a test needs.  Taking the delay away lets
everything that waits through at once, so nothing has to be waited for at the end.  By ioctl(2) and
not by dmsetup(8) and its like: in an emulated guest a program takes a second to start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.inside import syscalls

_NAME = b"pinwatch-slow"
_FILE = Path("/dev/shm/pinwatch-slow.img")
_MOUNT = Path("/run/pinwatch-slow")
_SIZE = 256 << 20  # sparse; nilfs2 wants as much

# include/uapi/linux/dm-ioctl.h
_HEADER = struct.Struct("=3I7IQ128s129s7x")
_CREATE, _REMOVE, _SUSPEND, _LOAD = 0xC138FD03, 0xC138FD04, 0xC138FD06, 0xC138FD09
_SUSPEND_FLAG, _SKIP_LOCKFS_FLAG = 1 << 1, 1 << 10
# include/uapi/linux/loop.h
_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_LOOP_CONFIG = struct.Struct("=II52xI240x")
_AUTOCLEAR = 4


class Disk:
    """The device: `/dev/dm-N`, as nothing in the guest makes nicer names."""

    def __init__(self, loop: str) -> None:
        self._loop = loop
        device = _device_mapper(_CREATE)
        self.name = f"dm-{device & 0xFF | device >> 12 & 0xFFF00}"
        self.path = f"/dev/{self.name}"
        self._load_and_resume(0, 0)

    def delay(self, *, read_ms: int = 0, write_ms: int = 0) -> None:
        """Suspending completes what is under way; then the new delays hold."""
        _device_mapper(_SUSPEND, flags=_SUSPEND_FLAG | _SKIP_LOCKFS_FLAG)
        self._load_and_resume(read_ms, write_ms)

    def _load_and_resume(self, read_ms: int, write_ms: int) -> None:
        parameters = f"{self._loop} 0 {read_ms} {self._loop} 0 {write_ms}".encode()
        target = struct.pack("=QQiI16s", 0, _SIZE // 512, 0, 0, b"delay")
        _device_mapper(_LOAD, targets=1, data=target + parameters.ljust(120, b"\0"))
        _device_mapper(_SUSPEND)  # without the flag it resumes

    def writes(self) -> int:
        """Writes that it has completed."""
        return int(Path(f"/sys/block/{self.name}/stat").read_text().split()[4])


def _device_mapper(command: int, *, flags: int = 0, targets: int = 0, data: bytes = b"") -> int:
    """One command for the one device; its number."""
    size = _HEADER.size + len(data)
    header = _HEADER.pack(4, 0, 0, size, _HEADER.size, targets, 0, flags, 0, 0, 0, _NAME, b"")
    answer = bytearray(header + data)
    with open("/dev/mapper/control", "rb", buffering=0) as control:
        fcntl.ioctl(control, command, answer)
    return int(_HEADER.unpack_from(answer)[10])


@contextmanager
def _open_loop() -> Iterator[str]:
    """A loop device on a new file.  It goes when its last user goes, and the file with it."""
    with open("/dev/loop-control", "rb", buffering=0) as control:
        path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
    with _FILE.open("w+b") as file, open(path, "r+b", buffering=0) as loop:
        file.truncate(_SIZE)
        _FILE.unlink()
        fcntl.ioctl(loop, _CONFIGURE, _LOOP_CONFIG.pack(file.fileno(), 0, _AUTOCLEAR))
        yield path


@contextmanager
def device() -> Iterator[Disk]:
    """A disk without delay to begin with."""
    if not all(Path("/sys/module", name).exists() for name in ("loop", "dm_delay")):
        subprocess.run(["modprobe", "-a", "loop", "dm_delay"], check=True)
    _remove()
    with _open_loop() as loop:
        disk = Disk(loop)
    try:
        yield disk
    finally:
        _remove()


@contextmanager
def file_system(
    *, kind: str = "ext4", options: str = "", features: str = "^has_journal"
) -> Iterator[tuple[Disk, Path]]:
    """ext4 on such a disk, without a journal, or another kind; and where it is mounted."""
    with device() as disk:
        of_ext4 = ("-q", "-b", "4096", "-O", features) if kind == "ext4" else ()
        subprocess.run([f"mkfs.{kind}", *of_ext4, disk.path], check=True, capture_output=True)
        _MOUNT.mkdir(exist_ok=True)
        syscalls.mount(disk.path, _MOUNT, kind, options)
        try:
            yield disk, _MOUNT
        finally:
            disk.delay()
            syscalls.unmount(_MOUNT)


@contextmanager
def mapped_file(
    directory: Path, size: int, *, protection: int = syscalls.PROT_READ_WRITE
) -> Iterator[tuple[int, int]]:
    """A new file that is on the disk and in the page cache; its descriptor and its address."""
    fd = os.open(directory / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.pwrite(fd, b"a" * size, 0)
    os.fsync(fd)
    address = syscalls.map_memory(size, fd=fd, protection=protection)
    syscalls.read_pages(address, size)
    try:
        yield fd, address
    finally:
        syscalls.unmap(address, size)
        os.close(fd)


def _remove() -> None:
    """All of it, also what a cause that was killed has left."""
    if _MOUNT.is_mount():
        syscalls.unmount(_MOUNT, lazily=True)
    with contextlib.suppress(OSError):  # there is none
        _device_mapper(_REMOVE)
