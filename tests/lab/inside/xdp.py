"""An AF_XDP user: memory registered as a umem, which pins it for as long as the socket lives.

The numbers and the structure are those of include/uapi/linux/if_xdp.h. No interface is needed:
registration comes before binding.
"""

from __future__ import annotations

import socket
import struct

from tests.lab.inside.memory import PAGE, Memory

_AF_XDP, _SOL_XDP, _UMEM_REG = 44, 283, 4


class Umem:
    """A socket that has a umem and nothing else."""

    def __init__(self) -> None:
        self._socket = socket.socket(_AF_XDP, socket.SOCK_RAW)

    def pin(self, memory: Memory) -> int:
        """XDP_UMEM_REG, one frame a page; 0 or a positive errno."""
        # address, length, frame size, headroom: the first form, which later kernels still take
        request = struct.pack("=QQII", memory.address, memory.size, PAGE, 0)
        try:
            self._socket.setsockopt(_SOL_XDP, _UMEM_REG, request)
        except OSError as error:
            return error.errno or -1
        return 0

    def close(self) -> None:
        self._socket.close()
