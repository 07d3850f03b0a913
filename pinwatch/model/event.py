"""What the kernel reported, decoded: facts with names, nothing concluded yet.

Times are CLOCK_MONOTONIC nanoseconds; errno values are positive, 0 for none; unknown is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pinwatch.model.hint import HintGiven
from pinwatch.model.holder import Holder
from pinwatch.model.pin import PinSource, Wait
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
class Activity:
    """The newest activity of a kind that takes references on folios or isolates them. At a folio
    (`Culprit`), or anywhere in the frames [first_pfn, last_pfn)."""

    holder: Holder
    start_ns: int
    end_ns: int | None  # None: it goes on
    tgid: int
    tid: int
    comm: str
    first_pfn: int = 0
    last_pfn: int = 0  # 0: all memory, or not known
    parent_tgid: int = 0
    parent_comm: str = ""
    value: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedVma:
    """The VMA that GUP refused."""

    start: int
    end: int
    flags: int
    kind: MappingKind
    s_magic: int
    errno: int


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
    culprit: Activity | None  # seen at this folio or its mapping
    lru_batch: str | None  # the per-CPU batch that has it
    lru_batch_cpu: int
    lru_batch_refs: int  # how often: each is a reference
    poisoned: bool
    has_migrate_op: bool  # false: its file system cannot move pages
    refuses_migration: bool  # its operation always says no

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
    pinned_pages: int  # of the process
    user_pages: int  # of the user, over all processes
    cap_ipc_lock: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PinEnded:
    """One long-term pin operation that failed or was slow, with all that was seen on the way."""

    time_ns: int
    task: Task
    cmdline: tuple[str, ...]
    source: PinSource
    errno: int  # 0: it succeeded
    gup_errno: int  # of the GUP call inside, 0 when none failed
    gup_short: int  # pages missing from the last GUP call
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
    loops: int  # the most that one GUP call started again
    isolate_failed: int
    in_place: int  # GUP calls that returned pages which may not be pinned
    last_loops: int  # VMAs looked up in the last GUP call
    last_vma_flags: int  # vm_flags of the last of them
    alloc_failed: int  # allocations, other than destinations
    memcg_oom: int
    waits_ns: dict[Wait, int]
    vma: RefusedVma | None
    activities: tuple[Activity, ...]
    stack: tuple[int, ...]  # kernel addresses, innermost first
    folios: tuple[FolioFacts, ...]
    folios_dropped: int
    memlock: Memlock


Event = TaskSeen | ModuleLoaded | PinEnded | HintGiven
