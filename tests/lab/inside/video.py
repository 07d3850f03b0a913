"""A video capture user that brings its own buffers: V4L2's USERPTR, which pins them when queued.

The device is vivid, the kernel's virtual camera. Numbers and structures are those of
include/uapi/linux/videodev2.h.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path

from tests.lab.inside.memory import Memory

_REQBUFS, _QBUF = 0xC0145608, 0xC058560F
_CAPTURE, _USERPTR = 1, 2
_BUFFER = "=IIIII4x16x16xIIQIII4x"


def load_modules() -> None:
    """One virtual camera, with the allocator that takes user memory (0, vmalloc)."""
    subprocess.run(["modprobe", "vivid", "n_devs=1", "node_types=0x1", "allocators=0"], check=True)


def find_camera() -> Path:
    """The node of the virtual camera."""
    for entry in sorted(Path("/sys/class/video4linux").glob("video*")):
        if "vivid" in (entry / "name").read_text():
            return Path("/dev") / entry.name
    raise FileNotFoundError("no vivid camera in this guest")


class Camera:
    """A capture queue; the stream is never started, to queue a buffer is enough."""

    def __init__(self) -> None:
        self._fd = os.open(find_camera(), os.O_RDWR)

    def pin(self, memory: Memory) -> int:
        """VIDIOC_QBUF of all of it as one buffer (longer than a picture); 0 or a positive errno."""
        fcntl.ioctl(
            self._fd, _REQBUFS, bytearray(struct.pack("=IIIII", 1, _CAPTURE, _USERPTR, 0, 0))
        )
        buffer = struct.pack(
            _BUFFER, 0, _CAPTURE, 0, 0, 0, 0, _USERPTR, memory.address, memory.size, 0, 0
        )
        try:
            fcntl.ioctl(self._fd, _QBUF, bytearray(buffer))
        except OSError as error:
            return error.errno or -1
        return 0

    def close(self) -> None:
        os.close(self._fd)
