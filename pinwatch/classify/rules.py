"""Decide the reason of a failed pin: one table for the operation, one for a folio.

Takes facts, gives a FailureReason; the first rule that fits wins. The order is that of the kernel:
what ends an operation before migration comes first, then what ends migration at once, then the
state in which a folio was left.

The errno that user space gets does not decide: io_uring turns a failed migration behind pages that
were pinned already into EFAULT, AF_XDP and vDPA turn everything into ENOMEM. What GUP itself
returned does.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace

from pinwatch.classify import references
from pinwatch.model.event import FolioFacts, MappingKind, PinEnded, Seen
from pinwatch.model.failure import BlockingFolio, References
from pinwatch.model.pin import PinSource
from pinwatch.model.reason import FailureReason
from pinwatch.model.sample import OpenPin

R = FailureReason

# include/linux/mm.h
VM_WRITE, VM_SHARED, VM_PFNMAP, VM_IO, VM_HUGETLB = 0x2, 0x8, 0x400, 0x4000, 0x400000
ERRNO_EREMOTEIO, ERRNO_EHWPOISON = 121, 133

LIVELOCK_LOOPS = 64  # one or two are normal, a few are bad luck
GIGANTIC_ORDER = 18


@dataclass(frozen=True, slots=True)
class PinRule:
    """`reason` when `fits` the operation as a whole."""

    reason: FailureReason
    fits: Callable[[PinEnded], bool]


@dataclass(frozen=True, slots=True)
class FolioRule:
    """`reason` when `fits` a folio and its references, in an operation."""

    reason: FailureReason
    fits: Callable[[FolioFacts, References, PinEnded], bool]


# ---- operations -----------------------------------------------------------------------------


def is_livelock(pin: PinEnded | OpenPin) -> bool:
    """It starts again and again, and finds nothing to migrate."""
    return pin.loops > LIVELOCK_LOOPS + 2 * pin.rounds


def _vfio_before_gup(pin: PinEnded, *numbers: int) -> bool:
    return pin.source is PinSource.VFIO_TYPE1 and pin.gup_calls == 0 and pin.errno in numbers


def _gup_refused(pin: PinEnded, number: int) -> bool:
    """GUP ended with this errno, or came back with too few pages, which hides it."""
    return pin.gup_errno == number or (pin.gup_errno == 0 and _came_short(pin))


def _came_short(pin: PinEnded) -> bool:
    return pin.errno != 0 and pin.gup_calls > 0 and pin.gup_short > 0


def _vma_refused(pin: PinEnded, number: int = errno.EFAULT) -> bool:
    return pin.vma is not None and pin.vma.errno == number and _gup_refused(pin, number)


def _vma_is(pin: PinEnded, flags: int) -> bool:
    return _vma_refused(pin) and pin.vma is not None and bool(pin.vma.flags & flags)


def _vma_kind(pin: PinEnded, kind: MappingKind) -> bool:
    return _vma_refused(pin) and pin.vma is not None and pin.vma.kind is kind


def _file_write_refused(pin: PinEnded) -> bool:
    """A shared file that may be written to by the process, and still not by GUP."""
    wanted = VM_WRITE | VM_SHARED
    return (
        _vma_kind(pin, MappingKind.FILE)
        and pin.vma is not None
        and pin.vma.flags & wanted == wanted
    )


def _over_memlock(pin: PinEnded) -> bool:
    """No CAP_IPC_LOCK, and the limit would be passed, whichever of the counts this consumer uses:
    of the process (VFIO, RDMA, vDPA) or of the user (io_uring, AF_XDP, iommufd). GUP did not fail,
    so ENOMEM is not migration's; AF_XDP says ENOBUFS."""
    lock = pin.memlock
    used = max(lock.locked_pages, lock.pinned_pages, lock.user_pages)
    over = used + pin.length_bytes // 4096 > lock.limit_pages and not lock.cap_ipc_lock
    refused = pin.errno in (errno.ENOMEM, errno.ENOBUFS)
    return refused and pin.gup_errno == 0 and not _came_short(pin) and over


def _gup_out_of_memory(pin: PinEnded) -> bool:
    return _gup_refused(pin, errno.ENOMEM) and pin.failed_pages == 0


def _no_destination(pin: PinEnded) -> bool:
    """A single page found no destination: migration stops at once, whatever else was seen. For a
    huge page it goes on to split, and ends here only if that was never tried."""
    if pin.gup_errno != errno.ENOMEM or not pin.dst_failed:
        return False
    return pin.dst_order == 0 or pin.split_failed + pin.split_ok == 0


def _after_the_pin(pin: PinEnded) -> bool:
    return pin.gup_calls > 0 and pin.gup_errno == 0 and not _came_short(pin)


PIN_RULES = (
    PinRule(R.ISOLATION_LIVELOCK, lambda pin: is_livelock(pin) and pin.gup_errno == errno.EINTR),
    PinRule(R.INTERRUPTED, lambda pin: errno.EINTR in (pin.errno, pin.gup_errno)),
    PinRule(R.DEVICE_COHERENT_FAILED, lambda pin: pin.gup_errno == errno.EBUSY),
    PinRule(R.VFIO_DMA_EXISTS, lambda pin: _vfio_before_gup(pin, errno.EEXIST)),
    PinRule(R.VFIO_DMA_LIMIT, lambda pin: _vfio_before_gup(pin, errno.ENOSPC)),
    PinRule(R.VFIO_IOVA_INVALID, lambda pin: _vfio_before_gup(pin, errno.EINVAL, errno.EOVERFLOW)),
    PinRule(R.FSDAX_REFUSED, lambda pin: _vma_refused(pin, errno.EOPNOTSUPP)),
    PinRule(R.VMA_IO_PFNMAP, lambda pin: _vma_is(pin, VM_IO | VM_PFNMAP)),
    PinRule(R.VMA_SECRETMEM, lambda pin: _vma_kind(pin, MappingKind.SECRETMEM)),
    PinRule(R.FILE_WRITE_REFUSED, _file_write_refused),
    PinRule(R.VMA_PERM, _vma_refused),
    PinRule(R.SPECIAL_PTE, lambda pin: pin.gup_errno == errno.EEXIST),
    PinRule(R.P2PDMA_REFUSED, lambda pin: pin.gup_errno == ERRNO_EREMOTEIO),
    PinRule(R.HWPOISON, lambda pin: pin.gup_errno == ERRNO_EHWPOISON),
    PinRule(
        R.FAULT_OOM,
        lambda pin: _gup_out_of_memory(pin) and pin.alloc_failed + pin.memcg_oom > 0,
    ),
    PinRule(R.VMA_ABSENT, lambda pin: _gup_refused(pin, errno.EFAULT) and pin.last_loops == 0),
    PinRule(R.FAULT_SIGBUS, lambda pin: _gup_refused(pin, errno.EFAULT)),
    PinRule(
        R.HUGETLB_GRAB_REFUSED,
        lambda pin: _gup_out_of_memory(pin) and bool(pin.last_vma_flags & VM_HUGETLB),
    ),
    PinRule(R.REF_OVERFLOW, _gup_out_of_memory),
    PinRule(R.RLIMIT_MEMLOCK, _over_memlock),
    PinRule(R.BOOKKEEPING_NOMEM, lambda pin: _after_the_pin(pin) and pin.errno == errno.ENOMEM),
    PinRule(R.IOMMU_MAP_FAILED, _after_the_pin),
    PinRule(R.DST_ALLOC_FAILED, _no_destination),
)


# ---- folios ---------------------------------------------------------------------------------


def _split_said(number: int) -> Callable[[FolioFacts, References, PinEnded], bool]:
    return lambda folio, _refs, _pin: folio.seen is Seen.SPLIT and folio.errno == number


def _is_hugetlb(folio: FolioFacts) -> bool:
    return folio.kind is MappingKind.HUGETLB


def _has_no_mapping(folio: FolioFacts) -> bool:
    return folio.mapcount == 0 and folio.cache_refs == 0


FOLIO_RULES = (
    FolioRule(R.COPY_POISONED, lambda folio, _refs, _pin: folio.poisoned),
    FolioRule(R.THP_SPLIT_REFS, _split_said(errno.EAGAIN)),
    FolioRule(R.THP_SPLIT_BUSY, _split_said(errno.EBUSY)),
    FolioRule(R.THP_SPLIT_INVAL, _split_said(errno.EINVAL)),
    FolioRule(R.THP_SPLIT_NOMEM, _split_said(errno.ENOMEM)),
    FolioRule(R.HUGETLB_REFS, lambda folio, refs, _pin: _is_hugetlb(folio) and refs.extra > 0),
    FolioRule(
        # never allocated afresh, so no allocation is seen to fail
        R.DST_ALLOC_FAILED,
        lambda folio, _refs, _pin: _is_hugetlb(folio) and folio.order >= GIGANTIC_ORDER,
    ),
    FolioRule(
        R.HUGETLB_SUBPOOL_BUSY,
        lambda folio, _refs, _pin: _is_hugetlb(folio) and _has_no_mapping(folio),
    ),
    FolioRule(R.HUGETLB_LOCK, lambda folio, _refs, _pin: _is_hugetlb(folio)),
    FolioRule(R.FS_MIGRATE_REFUSED, lambda folio, _refs, _pin: folio.refuses_migration),
    FolioRule(
        R.NO_MIGRATE_OP,
        # fallback_migrate_folio() has a dirty page written, and gives up: then it is no more dirty.
        lambda folio, _refs, _pin: not folio.has_migrate_op and (folio.dirty or folio.writeback),
    ),
    FolioRule(
        R.SPLIT_SUBPAGE_FAILED,
        lambda folio, refs, pin: pin.split_ok > 0 and folio.order == 0 and refs.extra <= 0,
    ),
    FolioRule(R.FOLIO_LOCK_CONTENDED, lambda folio, _refs, _pin: folio.seen is Seen.LOCK),
    FolioRule(
        R.UNMAP_FAILED_PINNED,
        lambda folio, refs, _pin: (
            folio.kind is MappingKind.ANON and folio.mapcount > 0 and refs.pins > 0
        ),
    ),
    FolioRule(
        R.LRU_BATCH_REF,
        lambda folio, refs, _pin: (
            folio.lru_batch is not None and 0 < refs.extra <= folio.lru_batch_refs
        ),
    ),
    FolioRule(R.EXTRA_REF_PINNED, lambda _folio, refs, _pin: refs.extra > 0 and refs.pins > 0),
    FolioRule(R.EXTRA_REF_PLAIN, lambda _folio, refs, _pin: refs.extra > 0),
    FolioRule(R.WRITEBACK_BUSY, lambda folio, _refs, _pin: folio.writeback),
    FolioRule(R.PRIVATE_BUSY, lambda folio, _refs, _pin: folio.private),
    FolioRule(
        R.UNMAP_FAILED_OTHER,
        lambda folio, _refs, _pin: folio.seen is Seen.MOVE and folio.mapcount > 0,
    ),
    FolioRule(R.EXTRA_REF_GONE, lambda folio, _refs, _pin: folio.seen in (Seen.MOVE, Seen.LEFT)),
)


def classify_folio(folio: FolioFacts, pin: PinEnded) -> BlockingFolio:
    """The reason that this folio alone gives."""
    refs = references.count(folio)
    fitting = (rule.reason for rule in FOLIO_RULES if rule.fits(folio, refs, pin))
    return BlockingFolio(facts=folio, references=refs, reason=next(fitting, R.UNKNOWN))


def blocking(pin: PinEnded) -> tuple[BlockingFolio, ...]:
    """The folios that stayed; those that moved in a later pass are no cause. Where the kernel
    could not tell (hook putback is off) all of them."""
    stayed = tuple(folio for folio in pin.folios if folio.left) or pin.folios
    return tuple(classify_folio(folio, pin) for folio in stayed)


def primary(folios: tuple[BlockingFolio, ...]) -> BlockingFolio | None:
    """The folio to show: one with a reason before one without, then the most extra references."""
    return max(folios, key=lambda f: (f.reason is not R.UNKNOWN, f.references.extra), default=None)


def _explained_by(reason: FailureReason, folio: BlockingFolio) -> BlockingFolio:
    """A folio that the operation's reason explains is no cause of its own."""
    return replace(folio, reason=reason)


def classify(pin: PinEnded) -> tuple[FailureReason, tuple[BlockingFolio, ...]]:
    """The reason of a failed operation, and the folios that blocked it."""
    folios = blocking(pin) if pin.gup_errno == errno.ENOMEM else ()
    for rule in PIN_RULES:
        if rule.fits(pin):
            return rule.reason, tuple(_explained_by(rule.reason, folio) for folio in folios)
    chosen = primary(folios)
    return (chosen.reason if chosen else R.UNKNOWN), folios
