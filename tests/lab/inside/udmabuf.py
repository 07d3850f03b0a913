"""A udmabuf user: a sealed memfd turned into a dma-buf, as QEMU does for virtio-gpu blobs.

The kernel pins the file's pages (memfd_pin_folios), not a mapping. Before 6.12 it only took
references. The number and the structure are those of include/uapi/linux/udmabuf.h.
"""

from __future__ import annotations

import fcntl
import os
import struct

from tests.lab.inside.memory import Memory

_CREATE = 0x40187542


class DmaBuf:
    """A dma-buf over a memfd; its descriptor is what keeps the pages pinned."""

    def __init__(self) -> None:
        self._device = os.open("/dev/udmabuf", os.O_RDWR)
        self._buffer = -1

    def pin(self, memory: Memory) -> int:
        """UDMABUF_CREATE of the whole memfd; 0 or a positive errno."""
        # What may still shrink is refused with EINVAL.
        fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        request = struct.pack("=IIQQ", memory.fd, 0, 0, memory.size)
        try:
            self._buffer = fcntl.ioctl(self._device, _CREATE, bytearray(request))
        except OSError as error:
            return error.errno or -1
        return 0

    def close(self) -> None:
        if self._buffer >= 0:
            os.close(self._buffer)
        os.close(self._device)
