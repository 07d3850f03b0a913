"""Why a long-term pin failed: the label, the words, the remedy and the reference of each reason.

The label values and the order of the rules that choose among them (classify/rules.py) follow the
kernel's own tests; each member carries what a reader needs, so that metrics, `why`, docs and tests
read the same words.
"""

from __future__ import annotations

from enum import StrEnum


class Severity(StrEnum):
    """What to expect of another try; `words` says it."""

    words: str

    TRANSIENT = "transient", "another try may well work"
    LASTING = "lasting", "it fails again until something is changed"
    FAULTY = "faulty", "something is broken: hardware, driver or VMM"

    def __new__(cls, value: str, words: str) -> Severity:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


_TRANSIENT, _LASTING, _FAULTY = Severity.TRANSIENT, Severity.LASTING, Severity.FAULTY


class FailureReason(StrEnum):
    """What the kernel's test saw; not who caused it (that is Holder)."""

    severity: Severity
    meaning: str
    remedy: str
    reference: str

    # ---- a folio could not be moved ---------------------------------------------------------

    EXTRA_REF_PLAIN = (
        "extra_ref_plain",
        _TRANSIENT,
        "something else holds a reference to a page that must move, and the kernel cannot move a "
        "page while it does",
        "Retry: pages that moved stay moved, so the next try has less to do. If it fails again, "
        "find and stop who holds the page: unread pipes (splice, vmsplice), O_DIRECT on kernels "
        "before 6.5, zero-copy sends, drop_caches jobs.",
        "mm/migrate.c: folio_migrate_mapping; LKML 2022-10-17, [RFC PATCH] mm: Introduce new "
        "MADV_NOMOVABLE behavior",
    )
    EXTRA_REF_PINNED = (
        "extra_ref_pinned",
        _TRANSIENT,
        "something else has already pinned a page that must move, and pinned pages cannot move",
        "Find the other owner of the pin (O_DIRECT in flight, process_vm_readv, io_uring buffers, "
        "RDMA, another device) and stop its I/O, or map this device before that I/O starts.",
        "Documentation/core-api/pin_user_pages.rst",
    )
    EXTRA_REF_GONE = (
        "extra_ref_gone",
        _TRANSIENT,
        "a page that must move could not be moved, and a moment later nothing stood in its way "
        "any more: the reference lived only microseconds",
        "Retry. If it happens often, look for what touches the memory of VMs in passing: "
        "drop_caches jobs, memory scanners.",
        "mm/migrate.c: folio_migrate_mapping",
    )
    LRU_BATCH_REF = (
        "lru_batch_ref",
        _TRANSIENT,
        "a page that must move sits in a CPU's batch on its way to an LRU list, and each batch "
        "holds a reference until it is full or drained",
        "Retry. Avoid mlock, MADV_COLD and drop_caches on this memory just before the map; update "
        "the kernel if it lacks commit 98c6d259319e.",
        "98c6d259319e mm/gup: check ref_count instead of lru before migration",
    )
    UNMAP_FAILED_PINNED = (
        "unmap_failed_pinned",
        _TRANSIENT,
        "a page of private memory that must move is pinned by something else, so it could not be "
        "unmapped",
        "Find the other owner of the pin and stop its I/O, or map this device before it starts.",
        "mm/rmap.c: folio_try_share_anon_rmap_pte",
    )
    UNMAP_FAILED_OTHER = (
        "unmap_failed_other",
        _TRANSIENT,
        "a page that must move could not be unmapped from all processes that map it",
        "Retry.",
        "mm/rmap.c: try_to_migrate_one",
    )
    FOLIO_LOCK_CONTENDED = (
        "folio_lock_contended",
        _TRANSIENT,
        "a page that must move was locked by something else in every pass",
        "Retry. If it fails again, look for slow I/O or a drop_caches job on the same memory.",
        "mm/migrate.c: migrate_folio_unmap",
    )
    WRITEBACK_BUSY = (
        "writeback_busy",
        _TRANSIENT,
        "a page that must move was being written to disk",
        "Flush the file before the map, or give the VM memory that is not backed by a file on "
        "disk.",
        "mm/migrate.c: migrate_folio_unmap",
    )
    PRIVATE_BUSY = (
        "private_busy",
        _TRANSIENT,
        "the file system still needs its own data of a page that must move (buffers, requests in "
        "flight)",
        "Flush the file; better, do not pin memory that is backed by a file.",
        "mm/migrate.c: buffer_migrate_folio, filemap_release_folio",
    )
    FS_MIGRATE_REFUSED = (
        "fs_migrate_refused",
        _LASTING,
        "this kind of memory refuses to be moved at all",
        "Give the VM another kind of memory (memfd, hugetlbfs, anonymous).",
        "a_ops->migrate_folio of secretmem, guest_memfd and AIO rings",
    )
    NO_MIGRATE_OP = (
        "no_migrate_op",
        _LASTING,
        "the file system behind a page that must move cannot move pages, and the page is dirty",
        "Sync the file first, or keep the VM's memory on another file system (tmpfs, hugetlbfs).",
        "mm/migrate.c: fallback_migrate_folio",
    )
    COPY_POISONED = (
        "copy_poisoned",
        _FAULTY,
        "a page that must move has a memory error: it cannot be copied",
        "Hardware: look for MCE and EDAC messages, take the page offline, replace the module.",
        "mm/migrate.c: __migrate_folio, EHWPOISON",
    )

    # ---- no destination, no split -----------------------------------------------------------

    DST_ALLOC_FAILED = (
        "dst_alloc_failed",
        _LASTING,
        "there was no free memory to move a page to: free memory in ZONE_MOVABLE or CMA does not "
        "count, because pinned pages may not live there",
        "Give the host more kernel-zone memory (a smaller movablecore=, online_kernel for "
        "hot-plugged memory; for hugetlb, pages reserved at boot), and check that the cpuset of "
        "the VM allows a node that has some.",
        "mm/migrate.c: alloc_migration_target",
    )
    THP_SPLIT_REFS = (
        "thp_split_refs",
        _TRANSIENT,
        "no free huge block outside ZONE_MOVABLE and CMA was left to move a huge page to, so the "
        "kernel tried to split it, and something held a reference to one of its pages",
        "Retry. Compact memory first (echo 1 > /proc/sys/vm/compact_memory), or keep huge pages "
        "off this memory (madvise MADV_NOHUGEPAGE, or shmem huge=never) before it is populated; "
        "stop who holds the page.",
        "fd4a7ac32918 mm: migrate: try again if THP split is failed due to page refcnt",
    )
    THP_SPLIT_BUSY = (
        "thp_split_busy",
        _TRANSIENT,
        "a huge page had to be split to be moved and was busy: under writeback, being truncated, "
        "or its file system would not let go",
        "Retry. Flush the file first, or use memory that is not backed by a file.",
        "mm/huge_memory.c: EBUSY of the split",
    )
    THP_SPLIT_INVAL = (
        "thp_split_inval",
        _LASTING,
        "a huge page had to be split to be moved, and its file system does not allow pages that "
        "small",
        "Keep the VM's memory on another file system (tmpfs, hugetlbfs), or free huge blocks "
        "first (echo 1 > /proc/sys/vm/compact_memory).",
        "mm/huge_memory.c: EINVAL of the split (mapping_min_folio_order)",
    )
    THP_SPLIT_NOMEM = (
        "thp_split_nomem",
        _TRANSIENT,
        "a huge page had to be split to be moved, and there was no memory for the page cache's "
        "own records of the pieces",
        "Give the host, or the memory cgroup of the VM, some room.",
        "mm/huge_memory.c: ENOMEM of the split (xas_split_alloc)",
    )
    SPLIT_SUBPAGE_FAILED = (
        "split_subpage_failed",
        _TRANSIENT,
        "a huge page was split to be moved, and one of its pieces was busy in the single pass "
        "that the kernel then gives them",
        "Retry: what is split stays split, and the next try is more patient.",
        "2ef7dbb26990 migrate_pages: try migrate in batch asynchronously firstly",
    )
    HUGETLB_REFS = (
        "hugetlb_refs",
        _TRANSIENT,
        "something else holds a reference to a hugetlb page that must move",
        "Retry; find and stop who holds it. Better, reserve hugetlb pages at boot, where they need "
        "not move.",
        "mm/migrate.c: migrate_huge_page_move_mapping",
    )
    HUGETLB_LOCK = (
        "hugetlb_lock",
        _TRANSIENT,
        "a hugetlb page that must move was locked or could not be unmapped",
        "Retry.",
        "mm/migrate.c: unmap_and_move_huge_page",
    )
    HUGETLB_SUBPOOL_BUSY = (
        "hugetlb_subpool_busy",
        _TRANSIENT,
        "a hugetlb page that must move is being given back: its file is gone",
        "Retry.",
        "mm/migrate.c: unmap_and_move_huge_page, EBUSY",
    )
    HUGETLB_GRAB_REFUSED = (
        "hugetlb_grab_refused",
        _LASTING,
        "this kernel cannot pin a hugetlb page that lies in ZONE_MOVABLE or CMA at all: it refuses "
        "it before it thinks of moving it",
        "Reserve hugetlb pages at boot, outside CMA and ZONE_MOVABLE, or use a newer kernel.",
        "mm/hugetlb.c before v6.5: follow_hugetlb_page, try_grab_folio",
    )
    HUGETLB_UNSUPPORTED = (
        "hugetlb_unsupported",
        _LASTING,
        "this kernel cannot move hugetlb pages of this size",
        "Reserve hugetlb pages of this size at boot, outside CMA and ZONE_MOVABLE.",
        "include/linux/hugetlb.h: hugepage_migration_supported",
    )
    DEVICE_COHERENT_FAILED = (
        "device_coherent_failed",
        _TRANSIENT,
        "a page lives in a device's memory and could not be moved to the host's",
        "Stop what uses the device, and retry.",
        "mm/migrate_device.c: migrate_device_coherent_folio",
    )

    # ---- isolation --------------------------------------------------------------------------

    ISOLATION_LIVELOCK = (
        "isolation_livelock",
        _FAULTY,
        "a page that must move cannot be taken off the LRU, because something else has taken it "
        "off or it never was on it, and the kernel tries again without end",
        "Kill the process if it does not end by itself. Look for another pin of the same memory, "
        "offlining or compaction at the time; for ever it is a driver that maps CMA pages into "
        "user space.",
        '517f496e1e61 Revert "mm: gup: fix infinite loop within __get_longterm_locked"',
    )
    PINNED_IN_PLACE = (
        "pinned_in_place",
        _FAULTY,
        "the pin worked although a page that must move did not: it now blocks CMA or ZONE_MOVABLE",
        "Update the kernel: this one has commit 1aaf8c122918 without its revert 517f496e1e61.",
        "1aaf8c122918 mm: gup: fix infinite loop within __get_longterm_locked",
    )

    # ---- GUP refused the memory, or could not fault it in -----------------------------------

    VMA_ABSENT = (
        "vma_absent",
        _FAULTY,
        "part of the address range is not mapped at all",
        "A bug of the VMM, or memory that it unmapped at the same time: see its log.",
        "mm/gup.c: __get_user_pages",
    )
    VMA_PERM = (
        "vma_perm",
        _FAULTY,
        "the device is to write to memory that the process itself may not write to (or read)",
        "Map it for reading only, or make the memory writable before the map.",
        "mm/gup.c: check_vma_flags",
    )
    VMA_IO_PFNMAP = (
        "vma_io_pfnmap",
        _LASTING,
        "the range is device memory (a BAR, /dev/mem), which has no pages to pin",
        "Only VFIO and iommufd map device memory, through their own path.",
        "mm/gup.c: check_vma_flags, VM_IO | VM_PFNMAP",
    )
    VMA_SECRETMEM = (
        "vma_secretmem",
        _LASTING,
        "the memory comes from memfd_secret(2), which nobody else may reach",
        "Give the VM another kind of memory.",
        "mm/gup.c: vma_is_secretmem",
    )
    FSDAX_REFUSED = (
        "fsdax_refused",
        _LASTING,
        "the memory is a file on a DAX file system, which must be able to move its blocks",
        "Use device DAX (/dev/daxX.Y) instead of a file, or a file system without -o dax.",
        "mm/gup.c: vma_is_fsdax",
    )
    FILE_WRITE_REFUSED = (
        "file_write_refused",
        _LASTING,
        "the device is to write to a shared file that needs to know which pages are dirty",
        "Keep the VM's memory on tmpfs or hugetlbfs, or map the file privately.",
        "8ac268436e6d mm/gup: disallow FOLL_LONGTERM GUP-nonfast writing to file-backed mappings",
    )
    FAULT_OOM = (
        "fault_oom",
        _LASTING,
        "memory that was not there yet could not be allocated: the host, the cpuset or the memory "
        "cgroup has none left that may be pinned",
        "Raise memory.max of the VM's cgroup, or free memory outside ZONE_MOVABLE and CMA on a "
        "node that its cpuset allows.",
        "mm/gup.c: faultin_page, VM_FAULT_OOM",
    )
    FAULT_SIGBUS = (
        "fault_sigbus",
        _FAULTY,
        "a page of the range could not be read in: beyond the end of the file, an empty hugetlb "
        "pool, an I/O error or a memory error",
        "Check the size of the memory's file and the hugetlb pool; look for I/O and memory errors "
        "in the kernel log.",
        "mm/gup.c: faultin_page, VM_FAULT_SIGBUS",
    )
    HWPOISON = (
        "hwpoison",
        _FAULTY,
        "a page of the range has a memory error and was taken out of use",
        "Hardware: restart the VM on another host, look for MCE and EDAC messages.",
        "mm/gup.c: faultin_page, VM_FAULT_HWPOISON",
    )
    SPECIAL_PTE = (
        "special_pte",
        _LASTING,
        "a page of the range has no struct page, so it cannot be pinned",
        "Only VFIO and iommufd map device memory, through their own path.",
        "mm/gup.c: follow_pfn_pte",
    )
    P2PDMA_REFUSED = (
        "p2pdma_refused",
        _LASTING,
        "the range is memory of a PCI device that may only be reached by its peers",
        "Keep peer-to-peer memory out of what is mapped for this device.",
        "mm/gup.c: FOLL_PCI_P2PDMA",
    )
    REF_OVERFLOW = (
        "ref_overflow",
        _FAULTY,
        "no allocation failed and no page had to move, yet GUP says ENOMEM: a page's reference "
        "count is broken or at its limit",
        "Look for a WARNING of mm/gup.c in the kernel log, and report it.",
        "mm/gup.c: try_grab_folio",
    )
    INTERRUPTED = (
        "interrupted",
        _TRANSIENT,
        "the process was killed while it pinned",
        "None needed, unless the pin was stuck: see how long it took.",
        "mm/gup.c: fatal_signal_pending",
    )

    # ---- the consumer's own -----------------------------------------------------------------

    RLIMIT_MEMLOCK = (
        "rlimit_memlock",
        _LASTING,
        "the process may not lock that much memory: RLIMIT_MEMLOCK would be exceeded, and it "
        "lacks CAP_IPC_LOCK. No page was in the way",
        "Raise the limit for the VMM (LimitMEMLOCK= in its unit, <hard_limit> in libvirt): guest "
        "memory and device regions, once for each device behind a virtual IOMMU.",
        "drivers/vfio/vfio_iommu_type1.c: vfio_pin_pages_remote; mm/util.c: __account_locked_vm",
    )
    VFIO_DMA_EXISTS = (
        "vfio_dma_exists",
        _FAULTY,
        "the I/O addresses overlap a mapping that exists",
        "A bug of the VMM, or two devices that share a container: see its log.",
        "drivers/vfio/vfio_iommu_type1.c: vfio_dma_do_map, EEXIST",
    )
    VFIO_DMA_LIMIT = (
        "vfio_dma_limit",
        _LASTING,
        "the container has no mappings left",
        "Raise dma_entry_limit of module vfio_iommu_type1, or map in larger pieces.",
        "drivers/vfio/vfio_iommu_type1.c: vfio_dma_do_map, ENOSPC",
    )
    VFIO_IOVA_INVALID = (
        "vfio_iova_invalid",
        _LASTING,
        "the I/O address range is misaligned, wraps, or lies outside what the IOMMU can address",
        "Check the IOMMU's address width against the VM's memory layout (phys-bits, hotplug "
        "window).",
        "drivers/vfio/vfio_iommu_type1.c: vfio_iommu_iova_dma_valid",
    )
    IOMMU_MAP_FAILED = (
        "iommu_map_failed",
        _FAULTY,
        "the memory was pinned, and then the IOMMU driver would not map it",
        "See the kernel log for the IOMMU driver's words.",
        "drivers/iommu/iommu.c: iommu_map",
    )
    BOOKKEEPING_NOMEM = (
        "bookkeeping_nomem",
        _LASTING,
        "the memory was pinned, and then the kernel had none left for its own records of it "
        "(IOMMU page tables, dirty bitmaps)",
        "Free memory on the host; map in larger pieces.",
        "drivers/vfio/vfio_iommu_type1.c, drivers/iommu/*: ENOMEM after the pin",
    )
    UNKNOWN = (
        "unknown",
        _LASTING,
        "no rule of pinwatch explains what was seen",
        "Please report it with a recording: `pinwatch record --redact`.",
        "docs/reasons.md",
    )

    def __new__(
        cls, value: str, severity: Severity, meaning: str, remedy: str, reference: str
    ) -> FailureReason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.severity = severity
        member.meaning = meaning
        member.remedy = remedy
        member.reference = reference
        return member

    @property
    def about_references(self) -> bool:
        """Someone was in the way; so it makes sense to ask who."""
        return self in _ABOUT_REFERENCES

    @property
    def about_vma(self) -> bool:
        """The memory itself was refused; so it makes sense to show what it is."""
        return self in _ABOUT_VMA


_ABOUT_REFERENCES = frozenset(
    {
        FailureReason.EXTRA_REF_PLAIN,
        FailureReason.EXTRA_REF_PINNED,
        FailureReason.EXTRA_REF_GONE,
        FailureReason.LRU_BATCH_REF,
        FailureReason.UNMAP_FAILED_PINNED,
        FailureReason.UNMAP_FAILED_OTHER,
        FailureReason.FOLIO_LOCK_CONTENDED,
        FailureReason.WRITEBACK_BUSY,
        FailureReason.PRIVATE_BUSY,
        FailureReason.THP_SPLIT_REFS,
        FailureReason.THP_SPLIT_BUSY,
        FailureReason.SPLIT_SUBPAGE_FAILED,
        FailureReason.HUGETLB_REFS,
        FailureReason.HUGETLB_LOCK,
        FailureReason.ISOLATION_LIVELOCK,
    }
)

_ABOUT_VMA = frozenset(
    {
        FailureReason.VMA_PERM,
        FailureReason.VMA_IO_PFNMAP,
        FailureReason.VMA_SECRETMEM,
        FailureReason.FSDAX_REFUSED,
        FailureReason.FILE_WRITE_REFUSED,
    }
)
