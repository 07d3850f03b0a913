"""What glibc keeps of memory that is free."""

from __future__ import annotations

import ctypes as ct

# malloc.h
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 128 << 10  # glibc's own, which it else raises as it goes


def keep_small() -> None:
    """Give large blocks back as soon as they are free, and all threads two heaps in place of one
    each: an exposition is a large block, and each request has a thread. Other C libraries do as
    they like."""
    mallopt = getattr(ct.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_ARENA_MAX, 2)
