"""A VDUSE user: a virtio device in user space that brings the memory its bounce buffer lives in.

The kernel makes that buffer only when a driver first sends something through the device, so this is
a network card: bringing its interface up hands it receive buffers, and nobody waits for an answer.
Numbers and structures are those of include/uapi/linux/vduse.h. Needs iproute2's `vdpa` and `ip`.
"""

from __future__ import annotations

import fcntl
import os
import resource
import struct
import subprocess
from pathlib import Path
from threading import Thread

from tests.lab.inside.memory import PAGE, Memory

_CREATE_DEV, _DESTROY_DEV, _VQ_SETUP, _REG_UMEM = 0x41508102, 0x41008103, 0x40208114, 0x40308118
_NET = 1
# VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM, which VDUSE insists on
_FEATURES = 1 << 32 | 1 << 33
_QUEUES = 2  # one pair
_CONFIG_SIZE = 24
_MESSAGE_SIZE = 152


def load_modules() -> None:
    """VDUSE, and the drivers that make a network interface of its device."""
    subprocess.run(["modprobe", "-a", "vduse", "virtio_vdpa", "virtio_net"], check=True)


class Device:
    """A network card that answers what it must to be brought up, and moves no packet."""

    def __init__(self) -> None:
        self._name = f"pinwatch{os.getpid()}"
        self._control = os.open("/dev/vduse/control", os.O_RDWR)
        # name, vendor, device, features, queues, alignment, reserved, the configuration's size
        config = struct.pack(
            f"=256sIIQII52xI{_CONFIG_SIZE}x",
            *(self._name.encode(), 0, _NET, _FEATURES, _QUEUES, PAGE, _CONFIG_SIZE),
        )
        fcntl.ioctl(self._control, _CREATE_DEV, bytearray(config))
        self._fd = os.open(f"/dev/vduse/{self._name}", os.O_RDWR)
        for queue in range(_QUEUES):
            fcntl.ioctl(self._fd, _VQ_SETUP, bytearray(struct.pack("=IH26x", queue, 256)))
        Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        """Say yes to every message of the kernel: new states, new mappings."""
        while True:
            (number,) = struct.unpack_from("=4xI", os.read(self._fd, _MESSAGE_SIZE))
            os.write(self._fd, struct.pack("=II144x", number, 0))

    def pin(self, memory: Memory) -> int:
        """VDUSE_IOTLB_REG_UMEM; 0 or a positive errno. It takes the whole bounce buffer or none."""
        # Unlike the others it holds even CAP_IPC_LOCK to the limit.
        unlimited = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (unlimited, unlimited))
        self._bring_up(memory.size)
        request = struct.pack("=QQQ24x", memory.address, 0, memory.size)
        try:
            fcntl.ioctl(self._fd, _REG_UMEM, bytearray(request))
        except OSError as error:
            return error.errno or -1
        return 0

    def _bring_up(self, bounce_size: int) -> None:
        Path("/sys/class/vduse", self._name, "bounce_size").write_text(str(bounce_size))
        subprocess.run(["vdpa", "dev", "add", "name", self._name, "mgmtdev", "vduse"], check=True)
        (interface,) = Path("/sys/bus/vdpa/devices", self._name).glob("virtio*/net/*")
        subprocess.run(["ip", "link", "set", interface.name, "up"], check=True)

    def close(self) -> None:
        subprocess.run(["vdpa", "dev", "del", self._name], check=True)
        # The descriptor stays open: a thread reads it. The process ends with this.
