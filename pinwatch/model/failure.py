"""Why a long-term pin failed, who was in the way, and the words for both.

The label values and the order of the rules that choose among them (classify/rules.py) follow the
kernel's own tests; each member carries what a reader needs, so that metrics, `why`, docs and tests
read the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pinwatch.model.event import FolioFacts, PinFailed
from pinwatch.model.vm import Vm


class FailureReason(StrEnum):
    """What the kernel's test saw; not who caused it (that is Holder)."""

    meaning: str
    remedy: str

    EXTRA_REF_PLAIN = (
        "extra_ref_plain",
        "something else holds a reference to a page that must move, and the kernel cannot move a "
        "page while it does",
        "Retry: pages that moved stay moved, so the next try has less to do. If it fails again, "
        "find and stop who holds the page: unread pipes (splice, vmsplice), O_DIRECT on kernels "
        "before 6.5, zero-copy sends, drop_caches jobs.",
    )
    EXTRA_REF_PINNED = (
        "extra_ref_pinned",
        "something else has already pinned a page that must move, and pinned pages cannot move",
        "Find the other owner of the pin (O_DIRECT in flight, io_uring buffers, RDMA, another "
        "device) and stop its I/O, or map this device before that I/O starts.",
    )
    EXTRA_REF_GONE = (
        "extra_ref_gone",
        "a page that must move could not be moved, and a moment later nothing stood in its way "
        "any more: the reference lived only microseconds",
        "Retry. If it happens often, look for what touches the memory of VMs in passing: "
        "drop_caches jobs, memory scanners.",
    )
    UNMAP_FAILED_PINNED = (
        "unmap_failed_pinned",
        "a page of private memory that must move is pinned by something else, so it could not be "
        "unmapped",
        "Find the other owner of the pin and stop its I/O, or map this device before it starts.",
    )
    FOLIO_LOCK_CONTENDED = (
        "folio_lock_contended",
        "a page that must move was locked by something else in every pass",
        "Retry. If it fails again, look for slow I/O or a drop_caches job on the same memory.",
    )
    DST_ALLOC_FAILED = (
        "dst_alloc_failed",
        "there was no free memory to move a page to: free memory in ZONE_MOVABLE or CMA does not "
        "count, because pinned pages may not live there",
        "Give the host more kernel-zone memory (a smaller movablecore=, online_kernel for "
        "hot-plugged memory), and check that the cpuset of the VM allows a node that has some.",
    )
    THP_SPLIT_REFS = (
        "thp_split_refs",
        "no free huge block outside ZONE_MOVABLE and CMA was left to move a huge page to, so the "
        "kernel tried to split it, and something held a reference to one of its pages",
        "Retry. Compact memory first (echo 1 > /proc/sys/vm/compact_memory), or keep huge pages "
        "off this memory (madvise MADV_NOHUGEPAGE, or shmem huge=never) before it is populated; "
        "stop who holds the page.",
    )
    THP_SPLIT_BUSY = (
        "thp_split_busy",
        "a huge page had to be split to be moved and was busy: under writeback, being truncated, "
        "or its file system would not let go",
        "Retry. Flush the file first, or use memory that is not backed by a file.",
    )
    RLIMIT_MEMLOCK = (
        "rlimit_memlock",
        "the process may not lock that much memory: RLIMIT_MEMLOCK would be exceeded, and it "
        "lacks CAP_IPC_LOCK. No page was in the way",
        "Raise the limit for the VMM (LimitMEMLOCK= in its unit, <hard_limit> in libvirt): guest "
        "memory and device regions, once for each device behind a virtual IOMMU.",
    )
    INTERRUPTED = (
        "interrupted",
        "the process was killed while it pinned",
        "None needed, unless the pin was stuck: see how long it took.",
    )
    VFIO_DMA_EXISTS = (
        "vfio_dma_exists",
        "the I/O addresses overlap a mapping that exists",
        "A bug of the VMM, or two devices that share a container: see its log.",
    )
    VFIO_DMA_LIMIT = (
        "vfio_dma_limit",
        "the container has no mappings left",
        "Raise dma_entry_limit of module vfio_iommu_type1, or map in larger pieces.",
    )
    VFIO_IOVA_INVALID = (
        "vfio_iova_invalid",
        "the I/O address range is misaligned, wraps, or lies outside what the IOMMU can address",
        "Check the IOMMU's address width against the VM's memory layout (phys-bits, hotplug "
        "window).",
    )
    UNKNOWN = (
        "unknown",
        "no rule of pinwatch explains what was seen",
        "Please report it with the output of `pinwatch why --json`.",
    )

    def __new__(cls, value: str, meaning: str, remedy: str) -> FailureReason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.remedy = remedy
        return member

    @property
    def about_references(self) -> bool:
        """Someone was in the way; so it makes sense to ask who."""
        return self in _ABOUT_REFERENCES


_ABOUT_REFERENCES = frozenset(
    {
        FailureReason.EXTRA_REF_PLAIN,
        FailureReason.EXTRA_REF_PINNED,
        FailureReason.EXTRA_REF_GONE,
        FailureReason.UNMAP_FAILED_PINNED,
        FailureReason.FOLIO_LOCK_CONTENDED,
        FailureReason.THP_SPLIT_REFS,
        FailureReason.THP_SPLIT_BUSY,
    }
)


class Holder(StrEnum):
    """Who was in the way, as far as the kernel lets one know."""

    DROP_CACHES = "drop_caches"
    UNKNOWN = "unknown"
    NONE = "none"  # nobody: the reason is not about references


class Confidence(StrEnum):
    EXACT = "exact"  # it was at this very mapping
    OVERLAP = "overlap"  # it was active at the time
    NO = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderMatch:
    """The holder that was named, and the process behind it where there is one."""

    holder: Holder
    confidence: Confidence = Confidence.NO
    tgid: int = 0
    comm: str = ""
    parent_tgid: int = 0
    parent_comm: str = ""
    value: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """A folio's references against what its mappings and caches explain."""

    expected: int
    extra: int
    pins: int
    plain: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockingFolio:
    """A folio that stayed, with the reason for it alone."""

    facts: FolioFacts
    references: References
    reason: FailureReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed pin, explained."""

    number: int  # of this daemon, from 1
    time_s: float  # wall clock
    vm: Vm
    pin: PinFailed
    reason: FailureReason
    holder: HolderMatch
    primary: BlockingFolio | None
    folios: tuple[BlockingFolio, ...]
