"""Decide the reason of a failed pin: one table for the operation, one for a folio.

Takes facts, gives a FailureReason; the first rule that fits wins. The order is that of the kernel:
what ends an operation before migration comes first, then what ends migration at once, then the
state in which a folio was left.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace

from pinwatch.classify import references
from pinwatch.model.event import FolioFacts, PinFailed, Seen
from pinwatch.model.failure import BlockingFolio, FailureReason, References
from pinwatch.model.pin import PinSource

R = FailureReason


@dataclass(frozen=True, slots=True)
class PinRule:
    """`reason` when `fits` the operation as a whole."""

    reason: FailureReason
    fits: Callable[[PinFailed], bool]


@dataclass(frozen=True, slots=True)
class FolioRule:
    """`reason` when `fits` a folio and its references."""

    reason: FailureReason
    fits: Callable[[FolioFacts, References], bool]


def _vfio_before_gup(pin: PinFailed, number: int) -> bool:
    return pin.source is PinSource.VFIO_TYPE1 and pin.gup_calls == 0 and pin.errno == number


def _over_memlock(pin: PinFailed) -> bool:
    """The test of vfio_pin_pages_remote: no CAP_IPC_LOCK, and the limit would be passed. GUP did
    not fail, so ENOMEM is not migration's."""
    wanted = pin.memlock.locked_pages + pin.length_bytes // 4096
    over = wanted > pin.memlock.limit_pages and not pin.memlock.cap_ipc_lock
    return pin.errno == errno.ENOMEM and pin.gup_errno == 0 and over


def _no_destination(pin: PinFailed) -> bool:
    """A single page found no destination: migration stops at once, whatever else was seen. For a
    huge page it goes on to split, and ends here only if that was never tried."""
    if pin.gup_errno != errno.ENOMEM or not pin.dst_failed:
        return False
    return pin.dst_order == 0 or pin.split_failed + pin.split_ok == 0


PIN_RULES = (
    PinRule(R.INTERRUPTED, lambda pin: pin.errno == errno.EINTR),
    PinRule(R.VFIO_DMA_EXISTS, lambda pin: _vfio_before_gup(pin, errno.EEXIST)),
    PinRule(R.VFIO_DMA_LIMIT, lambda pin: _vfio_before_gup(pin, errno.ENOSPC)),
    PinRule(R.VFIO_IOVA_INVALID, lambda pin: _vfio_before_gup(pin, errno.EINVAL)),
    PinRule(R.RLIMIT_MEMLOCK, _over_memlock),
    PinRule(R.DST_ALLOC_FAILED, _no_destination),
)

FOLIO_RULES = (
    FolioRule(
        R.THP_SPLIT_REFS, lambda folio, _: folio.seen is Seen.SPLIT and folio.errno == errno.EAGAIN
    ),
    FolioRule(
        R.THP_SPLIT_BUSY, lambda folio, _: folio.seen is Seen.SPLIT and folio.errno == errno.EBUSY
    ),
    FolioRule(R.FOLIO_LOCK_CONTENDED, lambda folio, _: folio.seen is Seen.LOCK),
    FolioRule(
        R.UNMAP_FAILED_PINNED,
        lambda folio, refs: folio.seen is Seen.MOVE and folio.mapcount > 0 and refs.pins > 0,
    ),
    FolioRule(R.EXTRA_REF_PINNED, lambda _, refs: refs.extra > 0 and refs.pins > 0),
    FolioRule(R.EXTRA_REF_PLAIN, lambda _, refs: refs.extra > 0),
    FolioRule(R.EXTRA_REF_GONE, lambda folio, _: folio.seen is Seen.MOVE and folio.mapcount == 0),
)


def classify_folio(folio: FolioFacts) -> BlockingFolio:
    """The reason that this folio alone gives."""
    refs = references.count(folio)
    reason = next((rule.reason for rule in FOLIO_RULES if rule.fits(folio, refs)), R.UNKNOWN)
    return BlockingFolio(facts=folio, references=refs, reason=reason)


def blocking(pin: PinFailed) -> tuple[BlockingFolio, ...]:
    """The folios that stayed; those that moved in a later pass are no cause. Where the kernel
    could not tell (hook putback is off) all of them."""
    stayed = tuple(folio for folio in pin.folios if folio.left) or pin.folios
    return tuple(map(classify_folio, stayed))


def primary(folios: tuple[BlockingFolio, ...]) -> BlockingFolio | None:
    """The folio to show: one with a reason before one without, then the most extra references."""
    return max(folios, key=lambda f: (f.reason is not R.UNKNOWN, f.references.extra), default=None)


def _explained_by(reason: FailureReason, folio: BlockingFolio) -> BlockingFolio:
    """A folio with no reason of its own has that of the operation."""
    return replace(folio, reason=reason) if folio.reason is R.UNKNOWN else folio


def classify(pin: PinFailed) -> tuple[FailureReason, tuple[BlockingFolio, ...]]:
    """The reason of a failed operation, and the folios that blocked it."""
    folios = blocking(pin) if pin.gup_errno == errno.ENOMEM else ()
    for rule in PIN_RULES:
        if rule.fits(pin):
            return rule.reason, tuple(_explained_by(rule.reason, folio) for folio in folios)
    chosen = primary(folios)
    return (chosen.reason if chosen else R.UNKNOWN), folios
