"""What the kernel reported, decoded: facts with names, nothing concluded yet.

Times are CLOCK_MONOTONIC nanoseconds; errno values are positive, 0 for none; unknown is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pinwatch.model.pin import PinSource
from pinwatch.model.sample import TaskKey


class Seen(StrEnum):
    """Which step of migration reported a folio; `words` completes "the folio ..."."""

    words: str

    MOVE = "move", "could not be moved"
    LOCK = "lock", "could not be locked"
    SPLIT = "split", "could not be split"
    LEFT = "left", "was left when the pin gave up"

    def __new__(cls, value: str, words: str) -> Seen:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


class MappingKind(StrEnum):
    """What kind of memory a folio holds."""

    ANON = "anon"
    KSM = "ksm"
    SHMEM = "shmem"
    HUGETLB = "hugetlb"
    SECRETMEM = "secretmem"
    FILE = "file"
    NONE = "none"  # truncated, or never in a mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The thread that did it; comm is text, not an identity."""

    key: TaskKey
    tid: int
    uid: int
    comm: str
    cgroup_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSeen:
    """A process pins for the first time."""

    time_ns: int
    task: Task
    cmdline: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleLoaded:
    """A kernel module was loaded."""

    time_ns: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderSeen:
    """Something that takes references on folios began, or ended."""

    time_ns: int
    task: Task
    holder: str  # model.failure Holder value
    start_ns: int
    end_ns: int | None  # None: it begins
    value: int
    parent_tgid: int
    parent_comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolioFacts:
    """The last state of a folio that stood in the way."""

    pfn: int | None
    order: int
    node: int | None
    zone: str | None
    migratetype: str | None
    kind: MappingKind
    dirty: bool
    writeback: bool
    private: bool  # file-system data or buffers attached: one expected reference
    swapcache: bool
    refcount: int
    mapcount: int
    pincount: int | None  # None: a small folio keeps pins inside its refcount
    cache_refs: int  # references the page cache or swap cache itself holds
    s_magic: int
    errno: int
    attempts: int
    seen: Seen
    left: bool  # still there when the pin gave up; else it moved in a later pass
    walker_tid: int | None  # thread that walked this mapping at the time
    walk_start_ns: int

    @property
    def nr_pages(self) -> int:
        return 1 << self.order

    @property
    def cma(self) -> bool | None:
        return None if self.migratetype is None else self.migratetype == "CMA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memlock:
    """RLIMIT_MEMLOCK as it stood when the operation returned, in base pages."""

    limit_pages: int
    locked_pages: int
    pinned_pages: int
    cap_ipc_lock: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PinFailed:
    """One long-term pin operation that failed, with all that was seen on the way."""

    time_ns: int
    task: Task
    cmdline: tuple[str, ...]
    source: PinSource
    errno: int
    gup_errno: int  # of the GUP call inside, 0 when none failed
    duration_ns: int
    vaddr: int
    iova: int
    length_bytes: int
    pinned_pages: int
    gup_calls: int
    rounds: int
    migrated_pages: int
    failed_pages: int
    thp_failed: int
    thp_split: int
    dst_failed: int
    dst_order: int
    split_failed: int
    split_ok: int
    split_errno: int
    folios: tuple[FolioFacts, ...]
    folios_dropped: int
    memlock: Memlock


Event = TaskSeen | ModuleLoaded | HolderSeen | PinFailed
