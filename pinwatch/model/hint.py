"""What a VMM said of its memory, and when: a hint that comes after the pages moves none of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pinwatch.model.sample import TaskKey


class Hint(StrEnum):
    """A hint; `words` is what it asks for. `is_late` says that memory which is there already does
    not change by it."""

    words: str
    is_late: bool

    HUGEPAGE = "madvise_hugepage", "huge pages for a range (MADV_HUGEPAGE)", True
    NOHUGEPAGE = "madvise_nohugepage", "no huge pages for a range (MADV_NOHUGEPAGE)", True
    COLLAPSE = "madvise_collapse", "huge pages at once (MADV_COLLAPSE)", False
    MERGEABLE = "madvise_mergeable", "merging of equal pages (MADV_MERGEABLE)", False
    COLD = "madvise_cold", "reclaim of a range soon (MADV_COLD)", False
    PAGEOUT = "madvise_pageout", "reclaim of a range now (MADV_PAGEOUT)", False
    POPULATE_READ = "madvise_populate_read", "pages now (MADV_POPULATE_READ)", False
    POPULATE_WRITE = "madvise_populate_write", "pages now (MADV_POPULATE_WRITE)", False
    UNKNOWN_ADVICE = "madvise_unknown", "something that no kernel knows", True
    MAP_POPULATE = "map_populate", "pages while mapping (MAP_POPULATE)", False
    MAP_LOCKED = "map_locked", "locked pages while mapping (MAP_LOCKED)", False
    MAP_HUGETLB = "map_hugetlb", "pages of the hugetlb pool (MAP_HUGETLB)", False
    MLOCK = "mlock", "a range in memory (mlock)", False
    MLOCK_ONFAULT = "mlock_onfault", "pages that come to stay (mlock2, MLOCK_ONFAULT)", False
    MLOCKALL = "mlockall", "all in memory (mlockall)", False
    THP_DISABLE = "thp_disable", "no huge pages for the process (PR_SET_THP_DISABLE)", True
    THP_ENABLE = "thp_enable", "huge pages for the process again (PR_SET_THP_DISABLE 0)", True
    MEMFD_HUGETLB = "memfd_hugetlb", "a file of hugetlb pages (MFD_HUGETLB)", False
    MEMFD_HUGETLB_1G = "memfd_hugetlb_1g", "a file of gigantic pages (MFD_HUGE_1GB)", False
    MBIND = "mbind", "nodes for a range (mbind)", True
    SET_MEMPOLICY = "set_mempolicy", "nodes for the process (set_mempolicy)", True

    def __new__(cls, value: str, words: str, is_late: bool) -> Hint:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        member.is_late = is_late
        return member


class Timing(StrEnum):
    """Where a hint came in the life of the VM's memory; `words` says it."""

    words: str

    BEFORE_POPULATE = "before_populate", "before the memory was there"
    AFTER_POPULATE = "after_populate", "when the memory was there already"
    AFTER_PIN = "after_pin", "when memory was pinned already"

    def __new__(cls, value: str, words: str) -> Timing:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class HintGiven:
    """One call. `length_bytes` 0: the whole process, or a file that has no size yet."""

    time_ns: int  # CLOCK_MONOTONIC
    task: TaskKey
    hint: Hint
    value: int  # advice, flags or mode as the caller gave them
    address: int
    length_bytes: int
    errno: int  # 0: the kernel took it
    resident_bytes: int  # of the process, when the call returned
    pinned_bytes: int  # by VFIO and iommufd, by then

    @property
    def timing(self) -> Timing:
        """By how much of the process is there: as much as half of the range is taken for it."""
        if self.pinned_bytes:
            return Timing.AFTER_PIN
        wanted = max(self.length_bytes // 2, 1) if self.length_bytes else _MUCH
        late = self.hint.is_late and self.resident_bytes >= wanted
        return Timing.AFTER_POPULATE if late else Timing.BEFORE_POPULATE


_MUCH = 256 << 20  # a VMM without its guest's memory has less
