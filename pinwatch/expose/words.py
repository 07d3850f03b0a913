"""A failure in plain words: what happened, why, to which page, who was in the way, what to do.

Takes a Failure, gives text; no terminal, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from pinwatch.aggregate.ledger import errno_name
from pinwatch.expose import chain, plainly, remedies
from pinwatch.expose.amounts import duration, plural, size
from pinwatch.expose.remedies import Command
from pinwatch.model.event import PinEnded, RefusedVma, Seen
from pinwatch.model.failure import BlockingFolio, Failure, SlowPin, StuckPin
from pinwatch.model.hint import Hint, HintGiven, Timing
from pinwatch.model.holder import Confidence, Holder, HolderMatch
from pinwatch.model.reason import FailureReason
from pinwatch.model.vm import Device, Vm

# Where the documents are read. A file of that name is in the source, too.
DOCS_URL = "https://pinwatch.example/docs"
REASONS, SLOW_PINS = "why.md", "reasons.md#slow-and-stuck-pins"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A headline; a summary for everyone; the chain and the evidence under short labels; what to
    type; and the document that says more."""

    headline: str
    paragraphs: tuple[tuple[str, str], ...]
    summary: str = ""
    commands: tuple[Command, ...] = ()
    document: str = ""  # below DOCS_URL, and below docs/ in the source

    @property
    def link(self) -> str:
        return f"{DOCS_URL}/{self.document}"

    @property
    def text(self) -> str:
        """Plain text, one line a paragraph."""
        rows = [*self.paragraphs, *(("$", f"{c.run}  # {c.what}") for c in self.commands)]
        rows += [("more", self.link)] if self.document else []
        width = max(len(label) for label, _ in rows)
        lines = (f"  {label:<{width}}  {text}" for label, text in rows)
        told = (f"  {self.summary}",) if self.summary else ()
        return "\n".join((self.headline, *told, *lines))


def explain(failure: Failure) -> Explanation:
    """The whole story of one failure."""
    pin, reason = failure.pin, failure.reason
    paragraphs = [("why", f"{reason.meaning} [{reason}]"), *chain.before_the_page(failure)]
    if failure.primary is not None:
        paragraphs.append(("page", folio_words(failure.primary, reason)))
    if reason.about_vma and pin.vma is not None:
        paragraphs.append(("memory", vma_words(pin.vma)))
    if reason is FailureReason.RLIMIT_MEMLOCK:
        paragraphs.append(("limit", memlock_words(pin)))
    paragraphs.append(("codes", chain.codes_words(failure)))
    if pin.gup_errno not in (0, pin.errno) and pin.failed_pages:
        paragraphs.append(("errno", masked_words(pin)))
    if reason.about_references:
        paragraphs.append(("holder", holder_words(failure.holder)))
    if failure.also:
        paragraphs.append(("also", also_words(failure.also)))
    if failure.hints:
        paragraphs.append(("hints", hints_words(failure.hints)))
    if failure.devices:
        paragraphs.append(("devices", ", ".join(map(device_words, failure.devices))))
    if failure.caller:
        paragraphs.append(("caller", caller_words(failure.caller)))
    paragraphs.append(("remedy", f"{reason.remedy} ({reason.severity.words})"))
    return Explanation(
        headline(failure),
        tuple(paragraphs),
        summary=plainly.summary(failure, size(pin.length_bytes)),
        commands=remedies.commands(failure),
        document=f"{REASONS}#{reason}",
    )


def explain_slow(slow: SlowPin) -> Explanation:
    """Where the time of a slow pin went."""
    pin = slow.pin
    waits = [f"{wait} {duration(ns)}" for wait, ns in pin.waits_ns.items() if ns]
    paragraphs = [
        ("why", f"it waited {slow.cause.words} [{slow.cause}]"),
        ("map", chain.map_words(pin)),
        ("time", ", ".join(waits) or "no wait that pinwatch measures"),
    ]
    if pin.rounds:
        paragraphs.append(("passes", chain.passes_words(pin)))
    paragraphs.append(("tries", f"one page was tried up to {plural(pin.loops, 'time')}"))
    if slow.also:
        paragraphs.append(("also", also_words(slow.also)))
    if slow.caller:
        paragraphs.append(("caller", caller_words(slow.caller)))
    took = duration(pin.duration_ns)
    return Explanation(
        f"{who(slow.vm)}: {pin.source.words} of {size(pin.length_bytes)} took "
        f"{took} ({pin.task.comm}, pid {pin.task.key.tgid})",
        tuple(paragraphs),
        summary=plainly.slow_summary(slow, size(pin.length_bytes), took),
        document=SLOW_PINS,
    )


def stuck_words(stuck: StuckPin) -> str:
    """One line on a pin that has not returned yet."""
    pin = stuck.pin
    state = f"waits {pin.wait.words}" if pin.wait else "is at work"
    if stuck.livelock:
        state = (
            f"starts again and again ({pin.loops} times): a page cannot be isolated "
            f"[{FailureReason.ISOLATION_LIVELOCK}]"
        )
    return (
        f"{who(stuck.vm)}: {pin.source.words} of {size(pin.length_bytes)} has not returned for "
        f"{stuck.age_s:.1f} s and {state} (pid {pin.task.tgid})"
    )


def hints_words(hints: tuple[HintGiven, ...]) -> str:
    """What a VMM said of its memory, each kind once, and which of it came too late."""
    said: dict[tuple[Hint, int, Timing, int], list[HintGiven]] = {}
    for one in hints:
        value = one.value if one.hint is Hint.UNKNOWN_ADVICE else 0
        said.setdefault((one.hint, value, one.timing, one.errno), []).append(one)
    return "; ".join(_hint_words(*key, of) for key, of in said.items())


def _hint_words(hint: Hint, value: int, timing: Timing, errno: int, of: list[HintGiven]) -> str:
    text = f"{hint.words} {value}" if value else hint.words
    if bytes_ := sum(one.length_bytes for one in of):
        text += f", {size(bytes_)}"
    if errno:
        return f"{text}: refused with {errno_name(errno)}"
    if hint.is_late and timing is not Timing.BEFORE_POPULATE:
        return f"{text}: {timing.words}, which changes none of it"
    return text


def device_words(device: Device) -> str:
    """A VFIO device of a VM."""
    group = f", IOMMU group {device.iommu_group}" if device.iommu_group else ""
    return f"{device.address} ({device.driver}{group})"


def who(vm: Vm) -> str:
    """A VM with its other name, unless that is part of the first."""
    if vm.name.startswith("~"):
        return vm.name
    return f"VM {vm.name}" if vm.alias in vm.name else f"VM {vm.name} ({vm.alias})"


def headline(failure: Failure) -> str:
    """One line, fit for a log."""
    pin = failure.pin
    return (
        f"{who(failure.vm)}: {pin.source.words} of {size(pin.length_bytes)} failed with "
        f"{errno_name(pin.errno)} after {duration(pin.duration_ns)} "
        f"({pin.task.comm}, pid {pin.task.key.tgid})"
    )


def caller_words(caller: tuple[str, ...]) -> str:
    """Functions of the kernel, innermost first, without those of pinwatch's own programs."""
    return " < ".join(name for name in caller if not name.startswith(("bpf_prog_", "bpf_trampo")))


def masked_words(pin: PinEnded) -> str:
    """The errno that the program got hides the one of the migration."""
    return (
        f"{errno_name(pin.errno)} is what the program got, because part of the memory was pinned "
        f"already; the pin itself failed with {errno_name(pin.gup_errno)} in migration"
    )


def vma_words(vma: RefusedVma) -> str:
    """The mapping that GUP refused."""
    rights = "".join(
        letter if vma.flags & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4))
    )
    sharing = "shared" if vma.flags & 8 else "private"
    words = f"{vma.start:#x}-{vma.end:#x} {rights} {sharing}, {vma.kind} memory"
    return words + (f" (file system magic {vma.s_magic:#x})" if vma.s_magic else "")


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
    return f"{holder_name(match)}: {match.confidence.words}"


def holder_name(match: HolderMatch) -> str:
    """A holder with its process, its parent, and where."""
    name = match.holder.words
    if match.detail:
        name += f" ({match.detail})"
    if match.tgid:
        name += f" by pid {match.tgid} ({match.comm})"
    if match.parent_tgid:
        name += f", started by pid {match.parent_tgid} ({match.parent_comm})"
    if match.holder is Holder.PROCESS_VM and match.value:
        name += f", of the memory of pid {match.value}"
    return name


def also_words(matches: tuple[HolderMatch, ...]) -> str:
    """What else there was, surest first."""
    parts = [
        holder_name(match)
        + (f": {match.confidence.words}" if match.confidence is Confidence.EXACT else "")
        for match in matches
    ]
    return "active at the time: " + "; ".join(parts)


def memlock_words(pin: PinEnded) -> str:
    """The limit against what is locked and what was asked for."""
    lock, wanted = pin.memlock, pin.length_bytes
    locked = max(lock.locked_pages, lock.pinned_pages, lock.user_pages)
    return (
        f"RLIMIT_MEMLOCK is {size(lock.limit_pages * 4096)}, {size(locked * 4096)} are locked, "
        f"and this needs {size(wanted)}"
    )
