"""Who was in the way of a pin, as far as the kernel lets one know."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Holder(StrEnum):
    """What held, locked or isolated a folio; `words` names it in a sentence."""

    words: str

    DROP_CACHES = "drop_caches", "drop_caches"
    FADVISE = "fadvise", "posix_fadvise(DONTNEED) or another invalidation of the file"
    RECLAIM = "reclaim", "reclaim"
    COMPACTION = "compaction", "compaction"
    KHUGEPAGED = "khugepaged", "khugepaged or MADV_COLLAPSE"
    KSMD = "ksmd", "ksmd"
    DAMON = "damon", "DAMON"
    NUMA_BALANCING = "numa_balancing", "NUMA balancing"
    MEMORY_OFFLINE = "memory_offline", "memory being taken offline"
    CONTIG_ALLOC = "contig_alloc", "a contiguous allocation (CMA, gigantic pages)"
    MOVE_PAGES = "move_pages", "move_pages, mbind or a cpuset"
    MEMORY_FAILURE = "memory_failure", "a memory error"
    PROCESS_VM = "process_vm", "process_vm_readv or process_vm_writev"
    PIPE = "pipe", "a pipe that nobody reads"
    PIN = "pin", "another long-term pin"
    LRU_BATCH = "lru_batch", "a CPU's LRU batch"
    MLOCK_BATCH = "mlock_batch", "a CPU's mlock batch"
    DIRECT_IO = "direct_io", "direct I/O in flight"
    UNKNOWN = "unknown", "unknown"
    NONE = "none", "nobody"  # the reason is not about references

    def __new__(cls, value: str, words: str) -> Holder:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


class Confidence(StrEnum):
    """How sure a holder is; `words` says why."""

    words: str

    EXACT = "exact", "it was at this very memory"
    OVERLAP = "overlap", "it was active at the time"
    NO = "none", ""

    def __new__(cls, value: str, words: str) -> Confidence:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderMatch:
    """A holder, the process behind it where there is one, and how sure that is."""

    holder: Holder
    confidence: Confidence = Confidence.NO
    tgid: int = 0
    comm: str = ""
    parent_tgid: int = 0
    parent_comm: str = ""
    value: int = 0  # drop_caches: what was written; process_vm: whose memory
    detail: str = ""  # "CPU 1, mlock_fbatch.fbatch"; "nvme0n1"
