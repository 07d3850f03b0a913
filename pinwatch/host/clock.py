"""The clocks. Everything else takes the time as an argument."""

from __future__ import annotations

import time

_READINGS = 5


def wall_offset_ns() -> int:
    """Add this to CLOCK_MONOTONIC to get the wall clock. It changes when that is set; what NTP
    slews, it slews in both."""
    return min(_wall_offset() for _ in range(_READINGS))[1]


def _wall_offset() -> tuple[int, int]:
    """How long it took to read both, and the offset: whoever is interrupted is wrong by that."""
    before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return after - before, wall - after


def wall_s() -> float:
    """Seconds since 1970."""
    return time.time()


def monotonic_ns() -> int:
    """Nanoseconds on CLOCK_MONOTONIC, as the kernel's records have them."""
    return time.monotonic_ns()


def monotonic_s() -> float:
    """Seconds on CLOCK_MONOTONIC."""
    return time.monotonic()


def thread_cpu_s() -> float:
    """Seconds of CPU time that this thread has had."""
    return time.thread_time()


def sleep(seconds: float) -> None:
    """Let others have the CPU."""
    time.sleep(seconds)
