"""A VDUSE user: a virtio device in user space that brings the memory its bounce buffer lives in.

Numbers and structures are those of include/uapi/linux/vduse.h. Needs iproute2's `vdpa`, because
the kernel makes the bounce buffer only once the device is on the vdpa bus.
"""

from __future__ import annotations

import fcntl
import os
import resource
import struct
import subprocess
from pathlib import Path

from tests.lab.inside.memory import PAGE, Memory

_CREATE_DEV, _DESTROY_DEV, _VQ_SETUP, _REG_UMEM = 0x41508102, 0x41008103, 0x40208114, 0x40308118
_BLOCK = 2
# VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM, which VDUSE insists on
_FEATURES = 1 << 32 | 1 << 33


def load_modules() -> None:
    """VDUSE alone: with a vdpa driver on the bus the device would be asked to answer messages."""
    subprocess.run(["modprobe", "vduse"], check=True)


class Device:
    """A block device with one queue that nobody serves, on the vdpa bus."""

    def __init__(self) -> None:
        self._name = f"pinwatch{os.getpid()}"
        self._control = os.open("/dev/vduse/control", os.O_RDWR)
        # name, vendor, device, features, queues, alignment, reserved, size of the configuration
        config = struct.pack(
            "=256sIIQII52xI60x", self._name.encode(), 0, _BLOCK, _FEATURES, 1, PAGE, 60
        )
        fcntl.ioctl(self._control, _CREATE_DEV, bytearray(config))
        self._fd = os.open(f"/dev/vduse/{self._name}", os.O_RDWR)
        fcntl.ioctl(self._fd, _VQ_SETUP, bytearray(struct.pack("=IH26x", 0, 256)))

    def pin(self, memory: Memory) -> int:
        """VDUSE_IOTLB_REG_UMEM; 0 or a positive errno. It takes the whole bounce buffer or none."""
        # Unlike the others it holds even CAP_IPC_LOCK to the limit.
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (unlimited, unlimited))
        bounce_size = Path("/sys/class/vduse", self._name, "bounce_size")
        bounce_size.write_text(str(memory.size))
        subprocess.run(["vdpa", "dev", "add", "name", self._name, "mgmtdev", "vduse"], check=True)
        request = struct.pack("=QQQ24x", memory.address, 0, memory.size)
        try:
            fcntl.ioctl(self._fd, _REG_UMEM, bytearray(request))
        except OSError as error:
            return error.errno or -1
        return 0

    def close(self) -> None:
        subprocess.run(["vdpa", "dev", "del", self._name], check=True)
        os.close(self._fd)
        fcntl.ioctl(self._control, _DESTROY_DEV, bytearray(self._name.encode().ljust(256, b"\0")))
        os.close(self._control)
