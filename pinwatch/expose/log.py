"""A failed, slow or stuck pin as one line of a log, with fields for those who search.

Takes the frozen values, gives Lines; who writes them is pinwatch/journal.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from pinwatch.aggregate.ledger import errno_name
from pinwatch.expose import words
from pinwatch.model.failure import Failure, SlowPin, StuckPin
from pinwatch.model.pin import PinSource
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import Vm

# `journalctl MESSAGE_ID=...` finds all of a kind.
FAILED_ID = "6a4f1d1e3a5b4c6f9b0d7c2e8f1a9d53"
SLOW_ID = "0b7de5c8a2f14e0d8c6f3f5f0f2a7be1"
STUCK_ID = "f1c3a9d07f7e4a62b5d9e1b84c0d3a76"


class Priority(IntEnum):
    """syslog(3)'s levels that are used."""

    WARNING = 4
    NOTICE = 5
    INFO = 6


@dataclass(frozen=True, slots=True)
class Line:
    """Text that says enough by itself."""

    text: str
    priority: Priority = Priority.INFO
    fields: Mapping[str, str] = field(default_factory=dict)


def failed(failure: Failure) -> Line:
    """A pin that failed."""
    holder = failure.holder.holder
    text = f"{words.headline(failure)}: {failure.reason}, holder {holder} [{failure.id}]"
    more = {"EVENT": failure.id, "REASON": str(failure.reason), "HOLDER": str(holder),
            "ERRNO": errno_name(failure.pin.errno)}  # fmt: skip
    of = _fields(FAILED_ID, failure.vm, failure.pin.source, failure.pin.task.key)
    return Line(text, Priority.WARNING, of | _named(more))


def slow(slow: SlowPin) -> Line:
    """A pin that worked, and took long."""
    text = f"{words.explain_slow(slow).headline}: {slow.cause} [{slow.id}]"
    of = _fields(SLOW_ID, slow.vm, slow.pin.source, slow.pin.task.key)
    return Line(text, Priority.NOTICE, of | _named({"EVENT": slow.id, "CAUSE": str(slow.cause)}))


def stuck(stuck: StuckPin) -> Line:
    """A pin that has not returned."""
    of = _fields(STUCK_ID, stuck.vm, stuck.pin.source, stuck.pin.task)
    return Line(words.stuck_words(stuck), Priority.WARNING, of)


def _fields(message_id: str, vm: Vm, source: PinSource, task: TaskKey) -> dict[str, str]:
    own = {"VM": vm.name, "UUID": vm.uuid, "SOURCE": str(source), "TGID": str(task.tgid)}
    return {"MESSAGE_ID": message_id, **_named(own)}


def _named(own: dict[str, str]) -> dict[str, str]:
    return {f"PINWATCH_{name}": value for name, value in own.items() if value}
