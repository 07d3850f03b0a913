"""What a recording is made of: everything that enters the pipeline, and nothing else does.

So whoever feeds the same items in the same order gets the same result, live or years later.
"""

from __future__ import annotations

from dataclasses import dataclass

from pinwatch.abi.layout import Record
from pinwatch.model.kernel import HookState
from pinwatch.model.placement import FreeMemory, Limits, PinRules, Placement
from pinwatch.model.sample import KernelSample, TaskKey
from pinwatch.model.vm import Device, LibvirtDomain


@dataclass(frozen=True, slots=True)
class RawRecord:
    """Bytes as they came from the ring buffer."""

    data: bytes

    @property
    def is_pin(self) -> bool:
        """It is of a pin that failed or was slow."""
        return int.from_bytes(self.data[:4], "little") in (Record.PIN_FAILED, Record.PIN_SLOW)


@dataclass(frozen=True, slots=True)
class ClockSet:
    """The wall clock was set, as NTP does it after boot. The offset, which is added to
    CLOCK_MONOTONIC, holds for what comes; both are nanoseconds."""

    time_ns: int
    wall_offset_ns: int


@dataclass(frozen=True, slots=True)
class VmFound:
    """A process that ran already when the daemon started, or what was found beside a record."""

    task: TaskKey
    cmdline: tuple[str, ...]
    cgroup: str = ""
    domain: LibvirtDomain | None = None


@dataclass(frozen=True, slots=True)
class DevicesFound:
    """The VFIO devices that a process has now."""

    task: TaskKey
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """A process has ended, so its VM's name is free; what it counted last is still to be taken."""

    task: TaskKey


@dataclass(frozen=True, slots=True)
class TaskGone:
    """A process has ended, and everything that it counted has been taken."""

    task: TaskKey


@dataclass(frozen=True, slots=True)
class Rescanned:
    """More processes started and ended than the kernel could tell: all were looked up again."""


@dataclass(frozen=True, slots=True)
class VmmsConfigured:
    """The settings that say which programs run VMs, and how to find a name."""

    programs: tuple[str, ...]
    name_pattern: str


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters of the BPF side and of /proc/vmstat (since attach), read together."""

    sample: KernelSample
    vmstat: dict[str, int]


@dataclass(frozen=True, slots=True)
class Named:
    """Kernel addresses, with the names of their functions (/proc/kallsyms)."""

    symbols: dict[int, str]


@dataclass(frozen=True, slots=True)
class IoInFlight:
    """Block devices that had requests in flight when the records that follow arrived."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The host's free memory now, and the CPU time that looking at VMs has taken so far."""

    free: FreeMemory
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Where the memory of a VM's process lies, and what may stop it from pinning."""

    task: TaskKey
    time_ns: int  # CLOCK_MONOTONIC
    placement: Placement
    limits: Limits
    rules: PinRules


@dataclass(frozen=True, slots=True)
class Lost:
    """Something was not delivered, in user space; it is counted under this kind."""

    kind: str
    amount: int = 1


@dataclass(frozen=True, slots=True)
class HooksChanged:
    """How the hooks are attached now."""

    hooks: tuple[HookState, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """The daemon took a snapshot here: what views showed until the next one."""


Item = (
    RawRecord
    | VmFound
    | DevicesFound
    | TaskEnded
    | ClockSet
    | TaskGone
    | Rescanned
    | VmmsConfigured
    | Counted
    | Named
    | IoInFlight
    | Surveyed
    | Looked
    | Lost
    | HooksChanged
    | Published
)
