"""What a cause of a failing pin is, as data: what it gives, on which kernels, and how to run it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

KERNELS = ("6.1", "6.12", "7.2")

Run = Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One way to make a pin fail.  `name` is `reason`, with a suffix where several ways give it.

    `errno` is a name of errno(3), or "0"; `errno_on` has it for the kernels that differ.
    """

    name: str
    reason: str
    errno: str
    run: Run
    errno_on: Mapping[str, str] = field(default_factory=dict)
    source: str = "vfio_type1"
    kernels: tuple[str, ...] = KERNELS
    why_not: str = ""
    needs: str = ""

    def expected_errno(self, kernel: str) -> str:
        return self.errno_on.get(kernel, self.errno)


def running_kernel() -> str:
    """The series of this guest's kernel: "6.12" of "6.12.107+deb13-amd64"."""
    return ".".join(os.uname().release.split(".")[:2])
