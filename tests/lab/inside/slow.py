"""A disk that takes its time: dm-delay over a loop device over a file in the guest's memory.

A file system on it makes writeback that lasts as long as a test needs.  Taking the delay away lets
everything that waits through at once, so nothing has to be waited for at the end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.inside import syscalls

_NAME = "pinwatch-slow"
_FILE = Path("/dev/shm/pinwatch-slow.img")
_MOUNT = Path("/run/pinwatch-slow")
_SIZE = 256 << 20  # sparse; nilfs2 wants as much


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


class Disk:
    """The device: `/dev/dm-N`, as nothing in the guest makes nicer names."""

    def __init__(self, loop: str) -> None:
        self._loop = loop
        _dmsetup("create", _NAME, "--table", self._table(0, 0))
        minor = _dmsetup("info", "-c", "--noheadings", "-o", "minor", _NAME)
        self.name = f"dm-{minor}"
        self.path = f"/dev/{self.name}"

    def _table(self, read_ms: int, write_ms: int) -> str:
        target = f"delay {self._loop} 0 {read_ms} {self._loop} 0 {write_ms}"
        return f"0 {_SIZE // 512} {target}"

    def delay(self, *, read_ms: int = 0, write_ms: int = 0) -> None:
        """Suspending completes what is under way; then the new delays hold."""
        _dmsetup("suspend", "--nolockfs", _NAME)
        _dmsetup("load", _NAME, "--table", self._table(read_ms, write_ms))
        _dmsetup("resume", _NAME)

    def writes(self) -> int:
        """Writes that it has completed."""
        return int(Path(f"/sys/block/{self.name}/stat").read_text().split()[4])


def _dmsetup(*arguments: str) -> str:
    return _run("dmsetup", "--noudevsync", "--noudevrules", *arguments)


@contextmanager
def device() -> Iterator[Disk]:
    """A disk without delay to begin with."""
    _run("modprobe", "-a", "loop", "dm_delay")
    _remove()
    with _FILE.open("wb") as file:
        file.truncate(_SIZE)
    loop = _run("losetup", "--find", "--show", str(_FILE))
    try:
        yield Disk(loop)
    finally:
        _remove()


@contextmanager
def file_system(
    *, kind: str = "ext4", options: str = "defaults", features: str = "^has_journal"
) -> Iterator[tuple[Disk, Path]]:
    """ext4 on such a disk, without a journal, or another kind; and where it is mounted."""
    with device() as disk:
        of_ext4 = ("-q", "-b", "4096", "-O", features) if kind == "ext4" else ()
        _run(f"mkfs.{kind}", *of_ext4, disk.path)
        _MOUNT.mkdir(exist_ok=True)
        _run("mount", "-i", "-t", kind, "-o", options, disk.path, str(_MOUNT))
        try:
            yield disk, _MOUNT
        finally:
            disk.delay()
            _run("umount", str(_MOUNT))


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
        _run("umount", "--lazy", str(_MOUNT))
    if _NAME in _dmsetup("ls"):
        _dmsetup("remove", "--retry", "--force", _NAME)
    for line in _run("losetup", "--associated", str(_FILE)).splitlines():
        _run("losetup", "--detach", line.partition(":")[0])
    _FILE.unlink(missing_ok=True)
