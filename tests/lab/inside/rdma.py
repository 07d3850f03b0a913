"""An RDMA user: a memory region on soft RoCE, registered through libibverbs as programs do it.

Needs the distribution's libibverbs1, its drivers (ibverbs-providers) and iproute2's `rdma`.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

from tests.lab.inside.memory import Memory

_LINK, _INTERFACE = "rxe0", "rdma0"
_LOCAL_WRITE = 1


def load_modules() -> None:
    """Soft RoCE on an interface that leads nowhere; once in a guest."""
    if Path("/sys/class/infiniband", _LINK).exists():
        return
    subprocess.run(["modprobe", "-a", "dummy", "ib_uverbs", "rdma_rxe"], check=True)
    subprocess.run(["ip", "link", "add", _INTERFACE, "type", "dummy"], check=True)
    subprocess.run(["ip", "link", "set", _INTERFACE, "up"], check=True)
    add = ["rdma", "link", "add", _LINK, "type", "rxe", "netdev", _INTERFACE]
    subprocess.run(add, check=True)


class Region:
    """A protection domain of the first RDMA device, to register memory in."""

    def __init__(self) -> None:
        self._verbs = _load_verbs()
        devices = self._verbs.ibv_get_device_list(None)
        if not devices or not devices[0]:
            raise FileNotFoundError("libibverbs sees no device: is ibverbs-providers installed?")
        self._context = self._verbs.ibv_open_device(devices[0])
        if not self._context:
            raise OSError(ctypes.get_errno(), "ibv_open_device")
        self._domain = self._verbs.ibv_alloc_pd(self._context)
        if not self._domain:
            raise OSError(ctypes.get_errno(), "ibv_alloc_pd")
        self._region: int | None = None

    def pin(self, memory: Memory) -> int:
        """ibv_reg_mr of all of it; 0 or a positive errno."""
        ctypes.set_errno(0)
        self._region = self._verbs.ibv_reg_mr(
            self._domain, memory.address, memory.size, _LOCAL_WRITE
        )
        return 0 if self._region else ctypes.get_errno()

    def close(self) -> None:
        if self._region:
            self._verbs.ibv_dereg_mr(self._region)
        self._verbs.ibv_dealloc_pd(self._domain)
        self._verbs.ibv_close_device(self._context)


def _load_verbs() -> ctypes.CDLL:
    """libibverbs with the types of what is called: its handles are pointers."""
    verbs = ctypes.CDLL("libibverbs.so.1", use_errno=True)
    pointer = ctypes.c_void_p
    verbs.ibv_get_device_list.restype = ctypes.POINTER(pointer)
    for name in ("ibv_open_device", "ibv_alloc_pd", "ibv_reg_mr"):
        getattr(verbs, name).restype = pointer
    for name in ("ibv_open_device", "ibv_alloc_pd", "ibv_dereg_mr"):
        getattr(verbs, name).argtypes = (pointer,)
    for name in ("ibv_dealloc_pd", "ibv_close_device"):
        getattr(verbs, name).argtypes = (pointer,)
    verbs.ibv_reg_mr.argtypes = (pointer, pointer, ctypes.c_size_t, ctypes.c_int)
    return verbs
