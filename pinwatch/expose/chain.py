"""What happened on the way down, step by step: the request, the piece of it that failed, the passes
of migration, and the return codes back up. The page itself is words.folio_words().

Takes a failed pin, gives labelled lines.
"""

from __future__ import annotations

from collections.abc import Iterator

from pinwatch.aggregate.ledger import errno_name
from pinwatch.expose.amounts import plural, size
from pinwatch.model.event import PinEnded
from pinwatch.model.failure import Failure
from pinwatch.model.pin import PinSource

PAGE_SIZE = 4096
_WITH_IOVA = (PinSource.VFIO_TYPE1, PinSource.IOMMUFD, PinSource.VHOST_VDPA)


def before_the_page(failure: Failure) -> Iterator[tuple[str, str]]:
    """Map, chunk, passes."""
    pin = failure.pin
    yield "map", map_words(pin)
    if pin.gup_calls:
        yield "chunk", chunk_words(pin)
    if pin.rounds or pin.failed_pages:
        yield "passes", passes_words(pin)


def map_words(pin: PinEnded) -> str:
    """What was asked for, by whom."""
    words = f"{pin.source.words} of {size(pin.length_bytes)} at address {pin.vaddr:#x}"
    if pin.source in _WITH_IOVA:
        words += f", for the device at {pin.iova:#x}"
    return f"{words}, by thread {pin.task.tid} of process {pin.task.key.tgid} ({pin.task.comm})"


def chunk_words(pin: PinEnded) -> str:
    """The kernel asks GUP for a piece at a time."""
    done = f"{plural(pin.pinned_pages, 'page')} ({size(pin.pinned_pages * PAGE_SIZE)})"
    if not pin.gup_errno and not pin.gup_short:
        return f"the kernel pins it in pieces: all {pin.gup_calls} worked, {done}"
    words = f"the kernel pins it in pieces: number {pin.gup_calls} failed"
    return f"{words}, after {done}" if pin.pinned_pages else words


def passes_words(pin: PinEnded) -> str:
    """What migration did."""
    words = (
        f"{plural(pin.rounds, 'round')} of migration: {plural(pin.migrated_pages, 'page')} moved, "
        f"{pin.failed_pages} did not"
    )
    if pin.dst_failed:
        words += (
            f"; {plural(pin.dst_failed, 'destination')} could not be allocated "
            f"(the last of order {pin.dst_order})"
        )
    if pin.split_failed or pin.split_ok:
        words += f"; huge pages split: {pin.split_ok}"
        words += f", refused: {plural(pin.split_failed, 'attempt')}" if pin.split_failed else ""
    return f"{words}; what moved stays moved"


def codes_words(failure: Failure) -> str:
    """From the innermost that pinwatch saw to what the program got."""
    pin, folio = failure.pin, failure.primary
    steps = []
    if folio is not None:
        if pin.split_failed:
            steps.append(f"split {errno_name(pin.split_errno)}")
        elif folio.facts.errno:
            steps.append(f"{folio.facts.seen} {errno_name(folio.facts.errno)}")
        steps.append(f"migrate_pages() left {plural(max(pin.failed_pages, 1), 'page')}")
    elif pin.vma is not None and pin.vma.errno:
        steps.append(f"check_vma_flags() {errno_name(pin.vma.errno)}")
    if pin.gup_errno:
        steps.append(f"GUP {errno_name(pin.gup_errno)}")
    elif pin.gup_short:
        steps.append(f"GUP gave {plural(pin.gup_short, 'page')} too few")
    elif pin.gup_calls:
        steps.append("GUP worked")
    return " → ".join((*steps, f"{pin.source.words} {errno_name(pin.errno)}"))
