"""An io_uring user: a ring, and buffers registered with it, which pins them for as long.

There is no libc wrapper, so these are the system calls; their structures and numbers are those of
include/uapi/linux/io_uring.h.
"""

from __future__ import annotations

import ctypes
import os

from tests.lab.inside.memory import Iovec, Memory

_SETUP, _REGISTER = 425, 427
_REGISTER_BUFFERS, _UNREGISTER_BUFFERS = 0, 1
_PARAMS_SIZE = 120

_libc = ctypes.CDLL(None, use_errno=True)


class Ring:
    """A ring that never runs a request: registered buffers alone are what pins."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(_PARAMS_SIZE)
        self._fd = int(_libc.syscall(_SETUP, 4, parameters))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")

    def pin(self, memory: Memory) -> int:
        """Register all of it as one buffer; 0 or a positive errno."""
        return self.register([(memory.address, memory.size)])

    def register(self, buffers: list[tuple[int, int]]) -> int:
        """IORING_REGISTER_BUFFERS of (address, length) each; 0 or a positive errno."""
        iovecs = (Iovec * len(buffers))(*(Iovec(*buffer) for buffer in buffers))
        return self._call(_REGISTER_BUFFERS, iovecs, len(buffers))

    def unregister(self) -> None:
        """IORING_UNREGISTER_BUFFERS, which unpins all of them."""
        if error := self._call(_UNREGISTER_BUFFERS, None, 0):
            raise OSError(error, "IORING_UNREGISTER_BUFFERS")

    def close(self) -> None:
        os.close(self._fd)

    def _call(self, opcode: int, argument: ctypes.Array[Iovec] | None, count: int) -> int:
        done = _libc.syscall(_REGISTER, self._fd, opcode, argument, count)
        return ctypes.get_errno() if done < 0 else 0
