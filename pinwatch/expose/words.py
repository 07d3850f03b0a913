"""A failure in plain words: what happened, why, to which page, who was in the way, what to do.

Takes a Failure, gives text; no terminal, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from pinwatch.aggregate.ledger import errno_name
from pinwatch.model.event import PinFailed, Seen
from pinwatch.model.failure import (
    BlockingFolio,
    Confidence,
    Failure,
    FailureReason,
    Holder,
    HolderMatch,
)

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, slots=True)
class Explanation:
    """A headline, and paragraphs under short labels."""

    headline: str
    paragraphs: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """Plain text, one line a paragraph."""
        width = max(len(label) for label, _ in self.paragraphs)
        rows = (f"  {label:<{width}}  {text}" for label, text in self.paragraphs)
        return "\n".join((self.headline, *rows))


def explain(failure: Failure) -> Explanation:
    """The whole story of one failure."""
    pin = failure.pin
    paragraphs = [("why", f"{failure.reason.meaning} [{failure.reason}]")]
    if failure.primary is not None:
        paragraphs.append(("page", folio_words(failure.primary, failure.reason)))
    if failure.reason is FailureReason.RLIMIT_MEMLOCK:
        paragraphs.append(("limit", memlock_words(pin)))
    if failure.reason.about_references:
        paragraphs.append(("holder", holder_words(failure.holder)))
    paragraphs.append(("work", work_words(pin)))
    paragraphs.append(("remedy", failure.reason.remedy))
    return Explanation(headline(failure), tuple(paragraphs))


def headline(failure: Failure) -> str:
    """One line, fit for a log."""
    pin = failure.pin
    who = f"VM {failure.vm.name}" if not failure.vm.name.startswith("~") else failure.vm.name
    return (
        f"{who}: {pin.source.words} of {size(pin.length_bytes)} failed with "
        f"{errno_name(pin.errno)} after {duration(pin.duration_ns)} "
        f"({pin.task.comm}, pid {pin.task.key.tgid})"
    )


def size(count: int) -> str:
    """Bytes as a number of the largest unit that divides them."""
    for unit, name in _UNITS:
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} bytes"


def duration(ns: int) -> str:
    """Three significant digits, in s or ms."""
    return f"{ns / 1e9:.2f} s" if ns >= 100_000_000 else f"{ns / 1e6:.3g} ms"


def plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def place(folio: BlockingFolio) -> str:
    """Zone, node, and whether it lies in CMA."""
    facts = folio.facts
    where = f"ZONE_{facts.zone.upper()}" if facts.zone else "a zone that is not known"
    if facts.cma:
        where += " in CMA"
    return where if facts.node is None else f"{where} on node {facts.node}"


def folio_words(folio: BlockingFolio, reason: FailureReason) -> str:
    """The folio that was left, with its references."""
    facts, refs = folio.facts, folio.references
    state = ", ".join(
        word
        for word, holds in (("dirty", facts.dirty), ("under writeback", facts.writeback))
        if holds
    )
    words = (
        f"an order-{facts.order} folio ({plural(facts.nr_pages, 'page')}) of {facts.kind} memory"
    )
    words += f", {state}" if state else ""
    words += f", in {place(folio)}"
    words += f", pfn {facts.pfn:#x}" if facts.pfn else ""
    if reason.about_references:
        words += f"; it {facts.seen.words}{attempt_words(folio)} and had {reference_words(folio)}"
        words += f" (refcount {facts.refcount}, {refs.expected} explained)"
    return words


def attempt_words(folio: BlockingFolio) -> str:
    """How often a split was tried. Of moves, pinwatch sees phases of several passes each."""
    if folio.facts.seen is not Seen.SPLIT:
        return ""
    return f" in {plural(folio.facts.attempts, 'attempt')}"


def reference_words(folio: BlockingFolio) -> str:
    """How many references too many, and of which sort."""
    refs = folio.references
    parts = []
    if refs.plain:
        parts.append(f"{plural(refs.plain, 'extra plain reference')}")
    if refs.pins:
        parts.append(plural(refs.pins, "pin"))
    return " and ".join(parts) or "no extra reference left when it was looked at"


def holder_words(match: HolderMatch) -> str:
    """Who was in the way, and how sure that is."""
    if match.holder is Holder.UNKNOWN:
        return "unknown: nothing that pinwatch watches was at this memory at the time"
    who = f"{match.holder} by pid {match.tgid} ({match.comm})"
    if match.parent_tgid:
        who += f", started by pid {match.parent_tgid} ({match.parent_comm})"
    if match.confidence is Confidence.EXACT:
        return who + ": it was walking this very memory"
    return who + ": it ran at the same time"


def memlock_words(pin: PinFailed) -> str:
    """The limit against what is locked and what was asked for."""
    lock, wanted = pin.memlock, pin.length_bytes
    return (
        f"RLIMIT_MEMLOCK is {size(lock.limit_pages * 4096)}, {size(lock.locked_pages * 4096)} are "
        f"locked, and this map needs {size(wanted)}"
    )


def work_words(pin: PinFailed) -> str:
    """What was done before it failed."""
    words = (
        f"{plural(pin.pinned_pages, 'page')} pinned, {pin.migrated_pages} moved and "
        f"{pin.failed_pages} not, in {plural(pin.rounds, 'round')} of migration"
    )
    if pin.dst_failed:
        words += (
            f"; {plural(pin.dst_failed, 'destination')} could not be allocated "
            f"(the last of order {pin.dst_order})"
        )
    if pin.split_failed or pin.split_ok:
        words += (
            f"; huge pages split: {pin.split_ok}, refused: {plural(pin.split_failed, 'attempt')}"
        )
        words += f" ({errno_name(pin.split_errno)})" if pin.split_failed else ""
    return words + "; all of it was undone but the moves"
