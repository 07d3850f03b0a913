"""The clocks. Everything else takes the time as an argument."""

from __future__ import annotations

import time


def wall_offset_ns() -> int:
    """Add this to CLOCK_MONOTONIC to get the wall clock."""
    return time.time_ns() - time.monotonic_ns()


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
