"""Name who was in the way: first what proves it, then what was active at the time.

Never invents one: without a match the holder is unknown, and where nobody can be in the way, none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pinwatch.model.event import Activity, MappingKind, PinEnded
from pinwatch.model.failure import BlockingFolio
from pinwatch.model.holder import Confidence, Holder, HolderMatch
from pinwatch.model.reason import FailureReason

H = Holder

LINGER_NS = 1_000_000  # ended less than this before the pin began: it may have left its mark

# Who may be named on coincidence alone, the likeliest first. Anything else that overlapped is said,
# but not named: it goes on all the time on some hosts, and its references live microseconds.
_PASSING = (
    H.DROP_CACHES, H.MEMORY_FAILURE, H.KHUGEPAGED, H.KSMD, H.DAMON, H.MEMORY_OFFLINE,
    H.CONTIG_ALLOC, H.COMPACTION, H.NUMA_BALANCING, H.MOVE_PAGES, H.RECLAIM,
)  # fmt: skip
_PINNING = (H.PROCESS_VM, H.DIRECT_IO, H.PIN)
_ISOLATING = (
    H.PIN, H.MEMORY_OFFLINE, H.CONTIG_ALLOC, H.NUMA_BALANCING, H.MOVE_PAGES, H.KHUGEPAGED,
    H.COMPACTION, H.RECLAIM, H.MEMORY_FAILURE, H.DAMON,
)  # fmt: skip
_LASTING = (H.DROP_CACHES, H.MEMORY_OFFLINE, H.CONTIG_ALLOC, H.MEMORY_FAILURE)
# They work on one range of frames from beginning to end; DAMON's is the page it looked at last.
_RANGED = (H.MEMORY_OFFLINE, H.CONTIG_ALLOC, H.MEMORY_FAILURE)
_SUSPECTS = {
    FailureReason.EXTRA_REF_PINNED: _PINNING,
    FailureReason.UNMAP_FAILED_PINNED: _PINNING,
    FailureReason.ISOLATION_LIVELOCK: _ISOLATING,
    FailureReason.EXTRA_REF_GONE: _PASSING,
    FailureReason.FOLIO_LOCK_CONTENDED: _PASSING,
    FailureReason.SPLIT_SUBPAGE_FAILED: _PASSING,
}


def match(
    pin: PinEnded,
    reason: FailureReason,
    folios: Iterable[BlockingFolio],
    io_in_flight: tuple[str, ...] = (),
) -> tuple[HolderMatch, tuple[HolderMatch, ...]]:
    """The likeliest holder, and what else overlapped."""
    if not reason.about_references:
        return HolderMatch(holder=H.NONE), ()
    blocking = tuple(folios)
    suspects = _SUSPECTS.get(reason, _LASTING)
    beside = tuple(overlaps(pin, blocking, io_in_flight))
    named = sorted(
        (one for one in beside if one.holder in suspects),
        key=lambda one: suspects.index(one.holder),
    )
    found = _without_doubles((*_proofs(pin, blocking), *named)) or (HolderMatch(holder=H.UNKNOWN),)
    return found[0], _without_doubles((*found, *beside))[1:]


def _without_doubles(matches: tuple[HolderMatch, ...]) -> tuple[HolderMatch, ...]:
    """Each kind once, the surest."""
    first: dict[Holder, HolderMatch] = {}
    for one in matches:
        first.setdefault(one.holder, one)
    return tuple(first.values())


# ---- proof ----------------------------------------------------------------------------------


def _proofs(pin: PinEnded, folios: tuple[BlockingFolio, ...]) -> Iterator[HolderMatch]:
    for folio in folios:
        facts = folio.facts
        if facts.culprit is not None:
            yield replace(_named(_known(facts.culprit, pin)), confidence=Confidence.EXACT)
        if facts.lru_batch is not None:
            holder = H.MLOCK_BATCH if facts.lru_batch.startswith("mlock") else H.LRU_BATCH
            detail = f"{facts.lru_batch} of CPU {facts.lru_batch_cpu}"
            yield from _who_filled(facts.lru_batch, detail, pin)
            yield HolderMatch(holder=holder, confidence=Confidence.EXACT, detail=detail)
        for activity in pin.activities:
            if _overlaps(activity, pin) and _covers(activity, folio):
                yield replace(_named(activity), confidence=Confidence.EXACT)


def _who_filled(batch: str, detail: str, pin: PinEnded) -> Iterator[HolderMatch]:
    """Only invalidation of a file puts pages into this batch: what it finds mapped it deactivates
    (deactivate_file_folio(), called by mapping_try_invalidate())."""
    if "deactivate_file" in batch:
        for activity in pin.activities:
            if activity.holder is H.DROP_CACHES and _overlaps(activity, pin):
                yield replace(_named(activity), detail=detail)


def _known(culprit: Activity, pin: PinEnded) -> Activity:
    """The same activity with all that its window tells."""
    for activity in pin.activities:
        if (activity.holder, activity.tid) == (culprit.holder, culprit.tid):
            return activity
    return culprit


def _covers(activity: Activity, folio: BlockingFolio) -> bool:
    """It works on a range of frames that has this folio in it."""
    pfn, last = folio.facts.pfn, activity.last_pfn
    return pfn is not None and activity.first_pfn < pfn + folio.facts.nr_pages and pfn < last


# ---- coincidence ----------------------------------------------------------------------------


def overlaps(
    pin: PinEnded, folios: tuple[BlockingFolio, ...], io_in_flight: tuple[str, ...] = ()
) -> Iterator[HolderMatch]:
    """What was active while the pin was, in no order."""
    for activity in pin.activities:
        here = not folios or any(_covers(activity, folio) for folio in folios)
        elsewhere = activity.holder in _RANGED and not here
        if _overlaps(activity, pin) and not elsewhere and _can_be(activity.holder, folios):
            yield _named(activity)
    if io_in_flight:
        yield HolderMatch(
            holder=H.DIRECT_IO, confidence=Confidence.OVERLAP, detail=", ".join(io_in_flight)
        )


def _overlaps(activity: Activity, pin: PinEnded) -> bool:
    began = pin.time_ns - pin.duration_ns
    ended = activity.end_ns is None or activity.end_ns >= began - LINGER_NS
    return activity.tid != pin.task.tid and activity.start_ns <= pin.time_ns and ended


def _can_be(holder: Holder, folios: tuple[BlockingFolio, ...]) -> bool:
    """ksmd looks at private memory only."""
    kinds = {folio.facts.kind for folio in folios}
    return holder is not H.KSMD or not kinds or bool(kinds & {MappingKind.ANON, MappingKind.KSM})


def _named(activity: Activity) -> HolderMatch:
    return HolderMatch(
        holder=activity.holder,
        confidence=Confidence.OVERLAP,
        tgid=activity.tgid,
        comm=activity.comm,
        parent_tgid=activity.parent_tgid,
        parent_comm=activity.parent_comm,
        value=activity.value,
    )
