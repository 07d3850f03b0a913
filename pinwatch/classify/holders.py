"""Name who was in the way: match a failed pin with what was active at the time.

Never invents one: without a match the holder is unknown, and where nobody can be in the way, none.
"""

from __future__ import annotations

from collections.abc import Iterable

from pinwatch.model.event import HolderSeen, PinFailed
from pinwatch.model.failure import (
    BlockingFolio,
    Confidence,
    FailureReason,
    Holder,
    HolderMatch,
)


def match(
    pin: PinFailed,
    reason: FailureReason,
    folios: Iterable[BlockingFolio],
    windows: Iterable[HolderSeen],
) -> HolderMatch:
    """The best match: one that walked a blocking folio's mapping, else one that overlapped."""
    if not reason.about_references:
        return HolderMatch(holder=Holder.NONE)
    known = tuple(windows)
    walkers = {(f.facts.walker_tid, f.facts.walk_start_ns) for f in folios if f.facts.walker_tid}
    for window in known:
        if (window.task.tid, window.start_ns) in walkers:
            return _named(window, Confidence.EXACT)
    began = pin.time_ns - pin.duration_ns
    for window in known:
        if window.start_ns <= pin.time_ns and (window.end_ns is None or window.end_ns >= began):
            return _named(window, Confidence.OVERLAP)
    return HolderMatch(holder=Holder.UNKNOWN)


def _named(window: HolderSeen, confidence: Confidence) -> HolderMatch:
    return HolderMatch(
        holder=Holder(window.holder),
        confidence=confidence,
        tgid=window.task.key.tgid,
        comm=window.task.comm,
        parent_tgid=window.parent_tgid,
        parent_comm=window.parent_comm,
        value=window.value,
    )
