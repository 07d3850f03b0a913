"""A VDUSE user: a virtio device in user space that brings the memory its bounce buffer lives in.

Numbers and structures are those of include/uapi/linux/vduse.h. Needs iproute2's `vdpa` and `ip`:
the kernel has a bounce buffer only from the first buffer on that the device's driver mapped, so
there must be one: this is a network device, whose driver fills its receive queue when it is up.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import struct
import subprocess
import threading
import time
from pathlib import Path

from tests.lab.inside.memory import PAGE, Memory

_CREATE_DEV, _DESTROY_DEV, _VQ_SETUP, _REG_UMEM = 0x41508102, 0x41008103, 0x40208114, 0x40308118
_NETWORK = 1
# VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM, which VDUSE insists on
_FEATURES = 1 << 32 | 1 << 33
_CONFIG_SIZE = 12
_MESSAGE_SIZE = 152


def load_modules() -> None:
    """VDUSE, and the kernel's own driver for what is on the vdpa bus."""
    subprocess.run(["modprobe", "-a", "vduse", "virtio_vdpa", "virtio_net"], check=True)


class Device:
    """A network device with two queues that nobody serves, and its kernel's side up."""

    def __init__(self) -> None:
        self._name = f"pinwatch{os.getpid()}"
        self._control = os.open("/dev/vduse/control", os.O_RDWR)
        # name, vendor, device, features, queues, alignment, reserved, size of the configuration
        config = struct.pack(
            "=256sIIQII52xI", self._name.encode(), 0, _NETWORK, _FEATURES, 2, PAGE, _CONFIG_SIZE
        )
        fcntl.ioctl(self._control, _CREATE_DEV, bytearray(config + bytes(_CONFIG_SIZE)))
        self._fd = os.open(f"/dev/vduse/{self._name}", os.O_RDWR)
        for queue in range(2):
            fcntl.ioctl(self._fd, _VQ_SETUP, bytearray(struct.pack("=IH26x", queue, 256)))
        self._closing = threading.Event()
        self._answers = threading.Thread(target=self._answer, daemon=True)
        self._answers.start()

    def pin(self, memory: Memory) -> int:
        """VDUSE_IOTLB_REG_UMEM; 0 or a positive errno. It takes the whole bounce buffer or none."""
        # Unlike most it holds root to the limit as well.
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
        Path("/sys/class/vduse", self._name, "bounce_size").write_text(str(memory.size))
        subprocess.run(["vdpa", "dev", "add", "name", self._name, "mgmtdev", "vduse"], check=True)
        subprocess.run(["ip", "link", "set", self._interface(), "up"], check=True)
        request = struct.pack("=QQQ24x", memory.address, 0, memory.size)
        try:
            fcntl.ioctl(self._fd, _REG_UMEM, bytearray(request))
        except OSError as error:
            return error.errno or -1
        return 0

    def close(self) -> None:
        subprocess.run(["vdpa", "dev", "del", self._name], check=True)
        self._closing.set()
        self._answers.join()
        os.close(self._fd)
        fcntl.ioctl(self._control, _DESTROY_DEV, bytearray(self._name.encode().ljust(256, b"\0")))
        os.close(self._control)

    def _interface(self) -> str:
        """The network interface that the kernel's driver made of it."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for entry in Path("/sys/bus/vdpa/devices", self._name).glob("virtio*/net/*"):
                return entry.name
            time.sleep(0.05)
        raise FileNotFoundError(f"no interface of {self._name}")

    def _answer(self) -> None:
        """Say yes to every message (a new status, mostly): the kernel's driver waits for it."""
        while not self._closing.is_set():
            if select.select([self._fd], [], [], 0.1)[0]:
                _, request = struct.unpack_from("=II", os.read(self._fd, _MESSAGE_SIZE))
                os.write(self._fd, struct.pack("=II144x", request, 0))
