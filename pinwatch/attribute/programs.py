"""Which programs run VMs, and what the operator says of theirs. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

COMM_LEN = 15  # TASK_COMM_LEN without its NUL (include/linux/sched.h)
# The pattern sees as much of a command line as a record of the kernel side carries, so that a VM
# has the same name whoever found it.
PATTERN_SEES = 4096


class Vmm(Enum):
    """Programs whose command lines we understand."""

    QEMU = auto()
    FIRECRACKER = auto()
    CLOUD_HYPERVISOR = auto()
    CROSVM = auto()
    OTHER = auto()


_NAMES = {
    Vmm.QEMU: re.compile(r"qemu-system-[\w.-]+|qemu-kvm|kvm|kvm-spice|qemu"),
    Vmm.FIRECRACKER: re.compile(r"firecracker(-v\d[\w.-]*)?"),
    Vmm.CLOUD_HYPERVISOR: re.compile(r"cloud-hyperviso(r(-[\w.-]+)?)?"),
    Vmm.CROSVM: re.compile(r"crosvm"),
}


@dataclass(frozen=True, slots=True)
class Programs:
    """The operator's settings: more programs, and a pattern whose first group is a VM's name."""

    more: frozenset[str] = frozenset()
    name_pattern: re.Pattern[str] | None = None

    @staticmethod
    def of(names: Sequence[str], name_pattern: str) -> Programs:
        """From text. re.error when the pattern is none."""
        return Programs(frozenset(names), re.compile(name_pattern) if name_pattern else None)

    def vmm(self, program: str) -> Vmm | None:
        """Which VMM is this path or comm? None: it runs no VMs."""
        name = posixpath.basename(program)
        known = next((vmm for vmm, names in _NAMES.items() if names.fullmatch(name)), None)
        if known is None and any(name in (more, more[:COMM_LEN]) for more in self.more):
            return Vmm.OTHER
        return known

    def name_in(self, cmdline: Sequence[str]) -> str:
        """What the operator's pattern finds in a command line, joined by spaces; may be nothing."""
        if self.name_pattern is None:
            return ""
        match = self.name_pattern.search(" ".join(cmdline)[:PATTERN_SEES])
        return (match.group(1) or "") if match else ""
