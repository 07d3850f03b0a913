"""Where the memory of a VM lies, and what the host has left: read from /proc, nothing concluded.

Sizes are bytes where the name says so, else base pages. What could not be known is None or UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pinwatch.model.event import MappingKind

PAGE_BYTES = 4096
HUGE_ORDER = 9  # of a PMD on x86-64, and of its pageblocks
GIGANTIC_ORDER = 18
HUGE_BYTES = PAGE_BYTES << HUGE_ORDER
MOVABLE = "Movable"  # /proc/zoneinfo's name of ZONE_MOVABLE


class Backing(StrEnum):
    """The size of the folio behind a page; `words` names it in a sentence."""

    words: str

    BASE = "4k", "4 KiB pages"
    LARGE = "mthp", "large folios below 2 MiB"
    THP = "thp", "transparent huge pages"
    HUGETLB = "hugetlb", "hugetlb pages"
    GIGANTIC = "hugetlb_1g", "gigantic hugetlb pages"

    def __new__(cls, value: str, words: str) -> Backing:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


class Cma(StrEnum):
    """Does a frame belong to a CMA area?"""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"  # its zone has CMA, and nobody says where


class Mark(StrEnum):
    """What else is so of a page at the moment of looking; `words` completes "memory that ..."."""

    words: str

    DIRTY = "dirty", "is dirty"
    SHARED = "shared", "is mapped more than once"
    WRITEBACK = "writeback", "is being written back"
    LOCKED = "locked", "is locked"
    COPIED = "copied", "a pin for writing replaces by a copy (zero page, KSM, private file)"
    POISONED = "poisoned", "has a memory error"

    def __new__(cls, value: str, words: str) -> Mark:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class PageClass:
    """All that tells one page from another here; memory is counted by it."""

    node: int | None
    zone: str | None
    cma: Cma
    backing: Backing
    kind: MappingKind
    marks: frozenset[Mark] = frozenset()

    @property
    def must_move(self) -> bool | None:
        """Before a long-term pin (folio_is_longterm_pinnable); None: not known. What the pin
        replaces by a copy is not moved."""
        if Mark.COPIED in self.marks:
            return False
        if self.zone == MOVABLE or self.cma is Cma.YES:
            return True
        return None if self.zone is None or self.cma is Cma.UNKNOWN else False


@dataclass(frozen=True, slots=True)
class Portion:
    """Memory of one class."""

    page: PageClass
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """One mapping of guest memory. Advice is what is still in force; None: it was not read, because
    reading it would have held the memory's lock for long."""

    start: int
    end: int
    kind: MappingKind  # FILE only for what is neither shmem nor hugetlb
    shared: bool
    advice: frozenset[str] | None = None  # VmFlags of smaps: "hg", "nh", "lo", "ht", "mg", ...
    policy: str | None = None  # of numa_maps: "default", "bind:1", ...

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the guest memory of one process lies.

    `error` is the greatest difference to the truth that 95 of 100 samples stay below, for each sum
    of portions, as a fraction of what is resident; 0 when every page was looked at.
    """

    mappings: tuple[Mapping, ...]
    portions: tuple[Portion, ...]  # the largest first
    swapped_bytes: int = 0  # or on the move while it was looked at
    own_bytes: int = 0  # resident in the process, and not guest memory
    error: float = 0.0
    samples: int = 0  # pages looked at
    unreadable: int = 0  # pages among them of which the kernel told nothing

    @property
    def guest_bytes(self) -> int:
        """Of address space: what VFIO pins, populated or not."""
        return sum(mapping.size_bytes for mapping in self.mappings)

    @property
    def resident_bytes(self) -> int:
        return sum(portion.size_bytes for portion in self.portions)

    def bytes_where(self, fits: Callable[[PageClass], bool]) -> int:
        """Resident bytes of the classes that fit."""
        return sum(portion.size_bytes for portion in self.portions if fits(portion.page))


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A zone of a node and what is free in it, in pages (/proc/zoneinfo, /proc/buddyinfo)."""

    node: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    free: int
    free_cma: int
    cma: int  # present pages that belong to CMA areas
    watermark_min: int
    watermark_low: int
    reserve: int  # kept from allocations that might use ZONE_NORMAL as well (lowmem_reserve)
    per_cpu: int  # free, in per-CPU lists
    file: int  # page cache on the LRU lists: can be reclaimed, most of it
    anon: int  # anonymous and shmem memory there: only with swap
    by_order: tuple[int, ...]  # free blocks, CMA and all
    by_type: tuple[tuple[str, tuple[int, ...]], ...] = ()  # (/proc/pagetypeinfo), when it was read

    @property
    def pinnable(self) -> bool:
        """Long-term pins may have memory of it, outside of CMA."""
        return self.name not in (MOVABLE, "Device")


@dataclass(frozen=True, slots=True, kw_only=True)
class HugetlbPool:
    """Huge pages that a node has set aside (/sys/devices/system/node/*/hugepages)."""

    node: int
    page_bytes: int
    total: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeMemory:
    """The host's free side at one moment."""

    zones: tuple[Zone, ...]
    pools: tuple[HugetlbPool, ...] = ()
    swap_free: int = 0  # pages
    slab_reclaimable: int = 0  # pages; the kernel tells it by node only, so it counts for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may stop a process from pinning, whatever lies where."""

    nodes: frozenset[int] | None = None  # cpuset's memory nodes; None: not known
    locked_bytes: int = 0  # VmLck: mlock, and pins by VFIO type1
    pinned_bytes: int = 0  # VmPin: pins by others
    memlock_bytes: int | None = None  # RLIMIT_MEMLOCK; None: none
    may_lock: bool = True  # CAP_IPC_LOCK: the limit does not hold
    managed_limit: bool = False  # libvirt and the like raise it when they attach a device
    cgroup_bytes: int | None = None  # that its cgroups let it grow by; None: they do not limit it


@dataclass(frozen=True, slots=True, kw_only=True)
class PinRules:
    """Where kernels differ in what they pin; None: not known."""

    refuses_shared_files: bool | None = None  # since v6.5, 8ac268436e6d
    refuses_movable_hugetlb: bool | None = None  # until v6.5, 4849807114b8
    hugetlb_stays_on_node: bool | None = None  # v6.10: moved pages get no page of another node
