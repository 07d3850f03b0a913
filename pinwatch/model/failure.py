"""A failed or slow pin, explained."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pinwatch.model.event import FolioFacts, PinEnded
from pinwatch.model.hint import HintGiven
from pinwatch.model.holder import HolderMatch
from pinwatch.model.pin import Wait
from pinwatch.model.reason import FailureReason
from pinwatch.model.sample import OpenPin
from pinwatch.model.vm import Device, Vm

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def event_id(wall_ns: int) -> str:
    """A name for what ended then: twelve characters that sort by time and mean the same after a
    restart, in a recording, and in the history."""
    digits = []
    while wall_ns > 0:
        wall_ns, digit = divmod(wall_ns, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


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
    """A failed pin: why, and who was in the way. `also` overlapped, and is less likely."""

    id: str  # event_id()
    number: int  # of this daemon, from 1
    time_s: float  # wall clock
    vm: Vm
    pin: PinEnded
    reason: FailureReason
    holder: HolderMatch
    also: tuple[HolderMatch, ...]
    primary: BlockingFolio | None
    folios: tuple[BlockingFolio, ...]
    caller: tuple[str, ...]  # kernel functions, innermost first; only for PinSource.OTHER
    devices: tuple[Device, ...]  # that VFIO had given to the VM
    hints: tuple[HintGiven, ...]  # what the VMM had said of its memory, newest last


class SlowCause(StrEnum):
    """Where most of a slow pin's time went; `words` completes "it waited ..."."""

    words: str

    LRU_DRAIN = Wait.LRU_DRAIN.value, Wait.LRU_DRAIN.words
    WRITEBACK = Wait.WRITEBACK.value, Wait.WRITEBACK.words
    FOLIO_LOCK = Wait.FOLIO_LOCK.value, Wait.FOLIO_LOCK.words
    COMPACTION = Wait.COMPACTION.value, Wait.COMPACTION.words
    ISOLATION = "isolation", "for a page that something else had isolated"
    IN_PLACE = "pinned_in_place", "for nothing: a page that must move was pinned where it is"
    WORK = "work", "for nothing: faulting in, copying and pinning took that long"

    def __new__(cls, value: str, words: str) -> SlowCause:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowPin:
    """A pin that worked, and took so long that the next one may not."""

    id: str
    number: int
    time_s: float
    vm: Vm
    pin: PinEnded
    cause: SlowCause
    also: tuple[HolderMatch, ...]
    caller: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckPin:
    """A pin that has not returned for too long. `livelock`: it starts again and again."""

    vm: Vm
    pin: OpenPin
    age_s: float
    livelock: bool
