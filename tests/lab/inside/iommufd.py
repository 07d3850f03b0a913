"""An iommufd user: the edu device by its own file, an I/O address space, memory mapped into it.

The ioctl numbers and structures are those of include/uapi/linux/{iommufd,vfio}.h.  The pages are
pinned by whichever comes second, the map or the attach: an address space without a device only
notes what is mapped.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

from tests.lab.inside import vfio
from tests.lab.inside.memory import Memory

_IOAS_ALLOC, _IOAS_MAP, _IOAS_UNMAP = 0x3B81, 0x3B85, 0x3B86
_BIND_IOMMUFD, _ATTACH_PT, _DETACH_PT = 0x3B76, 0x3B77, 0x3B78
_FIXED_READ_WRITE = 7


def load_modules() -> None:
    """VFIO's PCI driver and iommufd."""
    subprocess.run(["modprobe", "-a", "iommufd", "vfio-pci"], check=True)


def _errno_of(fd: int, request: int, argument: bytes) -> int:
    """The ioctl's errno, 0 when it worked."""
    try:
        fcntl.ioctl(fd, request, bytearray(argument))
    except OSError as error:
        return error.errno or -1
    return 0


class AddressSpace:
    """An I/O address space of an iommufd of its own."""

    def __init__(self) -> None:
        self.fd = os.open("/dev/iommu", os.O_RDWR)
        answer = fcntl.ioctl(self.fd, _IOAS_ALLOC, struct.pack("=III", 12, 0, 0))
        self.id: int = struct.unpack("=III", answer)[2]

    def map(self, ram: Memory, *, iova: int = 1 << 24) -> int:
        """IOMMU_IOAS_MAP; 0 or a positive errno."""
        flags_and_id = struct.pack("=IIII", 40, _FIXED_READ_WRITE, self.id, 0)
        range_ = struct.pack("=QQQ", ram.address, ram.size, iova)
        return _errno_of(self.fd, _IOAS_MAP, flags_and_id + range_)

    def unmap(self, size: int, *, iova: int = 1 << 24) -> int:
        """IOMMU_IOAS_UNMAP; 0 or a positive errno."""
        return _errno_of(self.fd, _IOAS_UNMAP, struct.pack("=IIQQ", 24, self.id, iova, size))


class Device:
    """The edu device, bound to an iommufd."""

    def __init__(self, space: AddressSpace) -> None:
        self._fd = os.open(_device_file(), os.O_RDWR)
        request = struct.pack("=IIiI", 16, 0, space.fd, 0)
        fcntl.ioctl(self._fd, _BIND_IOMMUFD, request)

    def attach(self, space: AddressSpace) -> int:
        """VFIO_DEVICE_ATTACH_IOMMUFD_PT; 0 or a positive errno."""
        return _errno_of(self._fd, _ATTACH_PT, struct.pack("=III", 12, 0, space.id))

    def detach(self) -> int:
        """VFIO_DEVICE_DETACH_IOMMUFD_PT; 0 or a positive errno."""
        return _errno_of(self._fd, _DETACH_PT, struct.pack("=II", 8, 0))


def _device_file() -> Path:
    """/dev/vfio/devices/vfioN, once vfio-pci has the device and the file is there."""
    vfio.bind_edu()
    [entry] = (vfio.find_edu() / "vfio-dev").iterdir()
    path = Path("/dev/vfio/devices") / entry.name
    deadline = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(path)
        time.sleep(0.05)
    return path
