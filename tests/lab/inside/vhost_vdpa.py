"""A vhost-vdpa user: a simulated network device, and memory mapped into its I/O TLB.

The numbers and structures are those of include/uapi/linux/{vhost,vhost_types}.h.  The simulator
can do with virtual addresses, and then nothing is pinned: it must be loaded with `use_va=0`.
Pins count against RLIMIT_MEMLOCK, for root as well (vhost_vdpa_pa_map asks for no capability), and
all of the 8 MiB that the limit is by default is little: each device here lifts it.
"""

from __future__ import annotations

import fcntl
import os
import resource
import struct
import subprocess
import time
from pathlib import Path

from tests.lab.inside.memory import Memory

_SET_OWNER, _SET_BACKEND_FEATURES = 0xAF01, 0x4008AF25
_F_IOTLB_MSG_V2 = 1 << 1
_MSG_V2, _MSG_SIZE = 2, 72
_READ_WRITE, _UPDATE, _INVALIDATE = 3, 2, 3
_NAME = "lab0"


def load_modules() -> None:
    """The simulator, pinning, and the driver that gives its devices to programs."""
    for module in (("vdpa_sim", "use_va=0"), ("vdpa_sim_net",), ("vhost_vdpa",)):
        subprocess.run(["modprobe", *module], check=True)


def _device_file() -> Path:
    """/dev/vhost-vdpa-N of the simulated device, made when it is not there yet."""
    device = Path("/sys/bus/vdpa/devices") / _NAME
    if not device.exists():
        add = ["vdpa", "dev", "add", "name", _NAME, "mgmtdev", "vdpasim_net"]
        subprocess.run(add, check=True)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for entry in device.glob("vhost-vdpa-*"):
            if (path := Path("/dev") / entry.name).exists():
                return path
        time.sleep(0.05)
    raise FileNotFoundError(f"{device}/vhost-vdpa-*")


class VhostVdpa:
    """The simulated device, owned by this process."""

    def __init__(self) -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
        self._fd = os.open(_device_file(), os.O_RDWR)
        fcntl.ioctl(self._fd, _SET_OWNER)
        fcntl.ioctl(self._fd, _SET_BACKEND_FEATURES, struct.pack("Q", _F_IOTLB_MSG_V2))

    def map(self, ram: Memory, *, iova: int = 1 << 24) -> int:
        """VHOST_IOTLB_UPDATE; 0 or a positive errno, which is EFAULT for whatever went wrong."""
        return self._send(_UPDATE, iova, ram.size, ram.address)

    def unmap(self, size: int, *, iova: int = 1 << 24) -> int:
        """VHOST_IOTLB_INVALIDATE; 0 or a positive errno."""
        return self._send(_INVALIDATE, iova, size, 0)

    def _send(self, kind: int, iova: int, size: int, address: int) -> int:
        body = struct.pack("=QQQBB", iova, size, address, _READ_WRITE, kind)
        message = struct.pack("=II", _MSG_V2, 0) + body
        try:
            os.write(self._fd, message.ljust(_MSG_SIZE, b"\0"))
        except OSError as error:
            return error.errno or -1
        return 0
