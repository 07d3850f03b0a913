"""Would a long-term pin of a VM's memory work now? The verdict, and what stands against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pinwatch.model.placement import FreeMemory, Limits, PinRules, Placement, Zone


class Verdict(StrEnum):
    """What to expect of a pin; `words` says it."""

    words: str

    FINE = "fine", "a pin should work"
    AT_RISK = "at_risk", "a pin may fail"
    WILL_FAIL = "will_fail", "a pin will fail"

    def __new__(cls, value: str, words: str) -> Verdict:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member

    @property
    def rank(self) -> int:
        """The worst is the highest."""
        return tuple(Verdict).index(self)


_FINE, _AT_RISK, _WILL_FAIL = Verdict


class Risk(StrEnum):
    """Something that stands against a pin: the verdict it forces, what it means, what to change."""

    verdict: Verdict
    meaning: str
    remedy: str

    SHORT_OF_MEMORY = (
        "short_of_memory",
        _WILL_FAIL,
        "more memory must move or be allocated than zones that may be pinned in can give, even if "
        "all their page cache is dropped; the OOM killer may come before the pin fails",
        "Give kernel zones more of the memory (lower movablecore=, kernelcore= or "
        "auto_movable_ratio; online_kernel for hot-plugged blocks), make the VM smaller, or move "
        "other VMs away. Free memory of ZONE_MOVABLE and CMA does not help.",
    )
    MOVABLE_ONLY_NODES = (
        "movable_only_nodes",
        _WILL_FAIL,
        "all nodes that its cpuset allows have nothing but ZONE_MOVABLE, so nothing of it can be "
        "pinned",
        "Allow it a node that has kernel memory (cpuset.mems, <numatune>), or online some of the "
        "node's blocks with online_kernel.",
    )
    RECLAIM_FIRST = (
        "reclaim_first",
        _AT_RISK,
        "there is room only if other memory is reclaimed while it pins, which takes long and may "
        "not be enough",
        "Free memory in kernel zones before attaching the device: drop caches once, well before "
        "(never during) the pin, or stop what fills them.",
    )
    MUST_SPLIT = (
        "must_split",
        _AT_RISK,
        "huge pages must move, and kernel zones have fewer free huge blocks than that: compaction "
        "must make some, or the pages are split, which fails at one reference to any part of them",
        "Write 1 to /proc/sys/vm/compact_memory before attaching the device; turn huge pages off "
        "for this memory (MADV_NOHUGEPAGE, shmem_enabled) before it is populated.",
    )
    HUGETLB_NO_DESTINATION = (
        "hugetlb_no_destination",
        _WILL_FAIL,
        "hugetlb pages must move; no page of that size is free in a pool, and none can be made "
        "where they lie",
        "Reserve the pool on nodes that have kernel memory, at boot, before memory is onlined as "
        "ZONE_MOVABLE, and without hugetlb_cma=.",
    )
    HUGETLB_SCARCE = (
        "hugetlb_scarce",
        _AT_RISK,
        "hugetlb pages must move, each to a free page of the pool that may be pinned, or to a huge "
        "block that is allocated for it on its own node",
        "Reserve the pool at boot, before ZONE_MOVABLE or CMA can give pages to it.",
    )
    HUGETLB_REFUSED = (
        "hugetlb_refused",
        _WILL_FAIL,
        "hugetlb pages lie in ZONE_MOVABLE or CMA, and this kernel refuses to pin them there "
        "instead of moving them",
        "Reserve the pool at boot in kernel memory, or use a kernel of v6.5 or later.",
    )
    FILE_REFUSED = (
        "file_refused",
        _WILL_FAIL,
        "its memory is a shared mapping of a file on a disk, which this kernel does not let be "
        "pinned for writing",
        "Use memory-backend-memfd, a file in /dev/shm or hugetlbfs, or share=off.",
    )
    FILE_BACKED = (
        "file_backed",
        _AT_RISK,
        "its memory is a shared mapping of a file on a disk: kernels since v6.5 refuse it, others "
        "must wait for writeback and for the file system's buffers",
        "Use memory-backend-memfd, a file in /dev/shm or hugetlbfs, or share=off.",
    )
    SECRET_MEMORY = (
        "secret_memory",
        _WILL_FAIL,
        "its memory is memfd_secret, which is never pinned",
        "Use another kind of memory.",
    )
    MEMLOCK = (
        "memlock",
        _WILL_FAIL,
        "RLIMIT_MEMLOCK is too low for it, and it lacks CAP_IPC_LOCK",
        "Raise the limit for the VMM (LimitMEMLOCK= in its unit, <hard_limit> in libvirt).",
    )
    MEMLOCK_MANAGED = (
        "memlock_managed",
        _FINE,  # as it is for every VM of libvirt without a device
        "RLIMIT_MEMLOCK is too low for it now; what manages the VM raises it when it attaches a "
        "device",
        "Nothing, when libvirt or KubeVirt attaches the device; else raise the limit.",
    )
    CGROUP_LIMIT = (
        "cgroup_limit",
        _AT_RISK,
        "memory that is not there yet must be allocated by the pin, and a cgroup's memory.max "
        "leaves less room than that",
        "Raise memory.max of the VM's cgroup, or its memory in the pod's limits.",
    )
    WRITEBACK = (
        "writeback",
        _AT_RISK,
        "pages that must move are being written back now; the pin waits for them",
        "Wait until it is done, or sync first.",
    )
    MEMORY_ERROR = (
        "memory_error",
        _AT_RISK,
        "some of its pages have a memory error",
        "Restart the VM on another host, and replace the memory.",
    )
    UNKNOWN_PLACE = (
        "unknown_place",
        _AT_RISK,
        "it is not known whether some of its memory must move, and that decides",
        "Make CMA areas visible: mount debugfs with CONFIG_CMA_DEBUGFS, or let root read the boot "
        "log.",
    )

    def __new__(cls, value: str, verdict: Verdict, meaning: str, remedy: str) -> Risk:
        member = str.__new__(cls, value)
        member._value_ = value
        member.verdict = verdict
        member.meaning = meaning
        member.remedy = remedy
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that a forecast is made of."""

    placement: Placement
    free: FreeMemory
    limits: Limits
    rules: PinRules = field(default_factory=PinRules)
    want_bytes: int | None = None  # None: all guest memory

    @property
    def want(self) -> int:
        return self.placement.guest_bytes if self.want_bytes is None else self.want_bytes

    @property
    def zones(self) -> tuple[Zone, ...]:
        """Where its pins may lie."""
        nodes = self.limits.nodes
        return tuple(
            zone for zone in self.free.zones
            if zone.pinnable and (nodes is None or zone.node in nodes)
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes between a least and a most."""

    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a pin needs, what there is, and what stands against it."""

    want_bytes: int  # that the pin covers
    must_move: Span  # resident where it may not stay
    must_allocate: Span  # not there yet, swapped, or copied by the pin
    available_bytes: int  # free above the low watermark where pins may lie
    reachable_bytes: int  # and with all that could be reclaimed
    huge_must_move: int  # 2 MiB folios, huge pages of either kind
    huge_free: int  # free blocks of that size
    risks: tuple[Risk, ...]  # the worst first

    @property
    def verdict(self) -> Verdict:
        return max((risk.verdict for risk in self.risks), key=lambda v: v.rank, default=_FINE)

    @property
    def headroom_bytes(self) -> int:
        """What is available beyond the need; below 0 when it does not do."""
        return self.available_bytes - self.must_move.most - self.must_allocate.most


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A VM as it was looked at, and what that says of its next pin."""

    time_s: float  # wall clock, of the look at its memory; the host's free side may be newer
    case: Case
    forecast: Forecast
