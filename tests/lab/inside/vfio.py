"""A VFIO user: bind the edu device, open a type1 container, map and unmap memory.

The ioctl numbers and structures are those of include/uapi/linux/vfio.h.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

from tests.lab.inside.memory import Memory

EDU = "0x1234", "0x11e8"
_SET_IOMMU, _GROUP_SET_CONTAINER, _MAP_DMA, _UNMAP_DMA = 0x3B66, 0x3B68, 0x3B71, 0x3B72
_TYPE1V2 = 3
_READ, _READ_WRITE = 1, 3


def find_edus() -> list[Path]:
    """The edu devices of this guest, by address."""
    return [
        device
        for device in sorted(Path("/sys/bus/pci/devices").iterdir())
        if ((device / "vendor").read_text().strip(), (device / "device").read_text().strip()) == EDU
    ]


def find_edu() -> Path:
    """The PCI device that every lab guest has."""
    for device in find_edus():
        return device
    raise FileNotFoundError("no edu device in this guest")


def load_modules() -> None:
    """VFIO with its type1 IOMMU backend."""
    subprocess.run(["modprobe", "-a", "vfio-pci", "vfio_iommu_type1"], check=True)


def bind_edu(device: Path | None = None) -> Path:
    """Give an edu device, else the first, to vfio-pci; its group's file."""
    device = device or find_edu()
    if not (device / "driver").exists():
        (device / "driver_override").write_text("vfio-pci")
        Path("/sys/bus/pci/drivers_probe").write_text(device.name)
    group = Path("/dev/vfio") / (device / "iommu_group").resolve().name
    deadline = time.monotonic() + 10
    while not group.exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(group)
        time.sleep(0.05)
    return group


class Container:
    """A type1 container with the edu device's group."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/vfio/vfio", os.O_RDWR)
        self._group = os.open(bind_edu(), os.O_RDWR)
        fcntl.ioctl(self._group, _GROUP_SET_CONTAINER, struct.pack("i", self._fd))
        fcntl.ioctl(self._fd, _SET_IOMMU, _TYPE1V2)

    def map(self, memory: Memory, *, offset: int = 0, size: int = 0, iova: int = 1 << 24) -> int:
        """VFIO_IOMMU_MAP_DMA; 0 or a positive errno."""
        return self.map_range(memory.address + offset, size or memory.size, iova=iova)

    def map_range(self, address: int, size: int, *, iova: int = 1 << 24, write: bool = True) -> int:
        """VFIO_IOMMU_MAP_DMA of any addresses, which the device may write or only read."""
        access = _READ_WRITE if write else _READ
        request = struct.pack("=IIQQQ", 32, access, address, iova, size)
        try:
            fcntl.ioctl(self._fd, _MAP_DMA, request)
        except OSError as error:
            return error.errno or -1
        return 0

    def unmap(self, size: int, *, iova: int = 1 << 24) -> None:
        """VFIO_IOMMU_UNMAP_DMA."""
        fcntl.ioctl(self._fd, _UNMAP_DMA, bytearray(struct.pack("=IIQQ", 24, 0, iova, size)))

    def fileno(self) -> int:
        """Its descriptor, for a child to inherit."""
        return self._fd

    def close(self) -> None:
        os.close(self._group)
        os.close(self._fd)
