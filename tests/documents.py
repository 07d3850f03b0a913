"""`python -m tests.documents`: write docs/why.md, docs/reference.md and docs/pictures/*.svg anew
(`make documents`).

The first has what `pinwatch why` says of a typical failure for every reason, the second all
metrics; the pictures show `why` and `top` for a failure of the lab, from its recording.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI

from pinwatch.classify import holders, rules
from pinwatch.commands import why
from pinwatch.expose import state, stories, words
from pinwatch.expose.plainly import PLAIN
from pinwatch.model.event import Activity, MappingKind, Memlock, PinEnded
from pinwatch.model.failure import Failure, SlowCause
from pinwatch.model.holder import Holder
from pinwatch.model.pin import Wait
from pinwatch.model.reason import FailureReason
from pinwatch.model.vm import Basis, Device, Platform, Vm
from pinwatch.playback import Playback
from pinwatch.top.frame import Scene, draw
from pinwatch.top.view import View
from tests.reference import REFERENCE, reference_document
from tests.unit.make import activity, failure, folio, pin, slow_pin
from tests.unit.test_classify import FOLIOS, PINS

ROOT = Path(__file__).resolve().parents[1]
WHY, PICTURE = ROOT / "docs/why.md", ROOT / "docs/pictures/why.svg"
TOP = ROOT / "docs/pictures/top.svg"
RECORDING = ROOT / "tests/replay/6.12-plain.jsonl.gz"

R = FailureReason
VM = Vm(
    name="web-01", uuid="6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21", platform=Platform.LIBVIRT,
    vmm="qemu-system-x86_64", basis=Basis.CMDLINE,
)  # fmt: skip
DEVICE = Device(address="0000:3b:00.0", driver="vfio-pci", iommu_group="42")
_PINNER = activity(holder=Holder.PROCESS_VM, comm="backup", parent_tgid=0, parent_comm="", value=1)
# Who was there, where somebody can be.
_BESIDE: dict[FailureReason, Activity] = {
    R.EXTRA_REF_PLAIN: activity(),
    R.THP_SPLIT_REFS: activity(),
    R.EXTRA_REF_PINNED: _PINNER,
    R.UNMAP_FAILED_PINNED: _PINNER,
    R.EXTRA_REF_GONE: activity(holder=Holder.DAMON, tgid=61, comm="kdamond.0", parent_tgid=0,
                               parent_comm=""),
    R.ISOLATION_LIVELOCK: activity(holder=Holder.MEMORY_OFFLINE, parent_tgid=1,
                                   parent_comm="systemd"),
}  # fmt: skip
_FILE = {"kind": MappingKind.FILE, "s_magic": 0xEF53}
_OF_FILES = dict.fromkeys(
    (R.WRITEBACK_BUSY, R.PRIVATE_BUSY, R.NO_MIGRATE_OP, R.THP_SPLIT_BUSY, R.THP_SPLIT_INVAL), _FILE
)
_LIMIT = Memlock(
    limit_pages=16384, locked_pages=0, pinned_pages=0, user_pages=0, cap_ipc_lock=False
)
_ABOUT = """# What `pinwatch why` says

One section for each reason: what it means for somebody who runs VMs, and what `pinwatch why` says
of a typical failure. [reasons.md](reasons.md) has the table of all reasons and how pinwatch knows
each. `make documents` writes this page from the program's own words.

A *folio* is the unit in which the kernel keeps memory: one page of 4 KiB, or a block of 2, 4, 8 ...
of them, whose *order* is the power of two. To *pin* memory for the long term is to fix it where it
is, so that a device may use its address for as long as it likes.

`pinwatch why --json` gives a list. Each entry has all that was seen of one failure (`pin`,
`folios`, `holder`, `also`, `vm`, `devices`, `hints`), `reason`, `severity` and `time_s` (seconds
since 1970), and:

| key | what |
|---|---|
| `explanation.headline`, `.summary` | one line; the paragraph for everyone |
| `explanation.paragraphs` | the text of each row by its label, in their order |
| `explanation.commands` | a list of `run` (for a shell of root) and `what` (it is for) |
| `explanation.link`, `.document` | where to read on; the same below `docs/` |
| `story.count`, `.bursts` | how many failures of one cause this one stands for, in how many tries |
| `story.since_s`, `.last_s` | when the first and the last of them happened |
| `story.followed_by` | reasons of those that failed after it in the newest try |
"""


def _changes(reason: FailureReason) -> dict[str, Any]:
    """What a typical pin of this reason looks like: the first that the tests of rules have."""
    of_folio = (changes for changes, given in FOLIOS if given is reason)
    of_pin = (changes for changes, given in PINS if given is reason)
    if (changes := next(of_folio, None)) is not None and reason is not R.DST_ALLOC_FAILED:
        split = {"split_failed": 10, "split_errno": changes["errno"], "dst_failed": 70,
                 "dst_order": 9, "failed_pages": 512} if "errno" in changes else {}  # fmt: skip
        beside = {"attempts": 10} if split else {}
        return {"folios": (folio(**{**changes, **beside, **_OF_FILES.get(reason, {})}),), **split}
    return next(of_pin, {})


def typical(reason: FailureReason) -> Failure:
    """A failure of a libvirt VM."""
    changes = _changes(reason)
    if reason is R.RLIMIT_MEMLOCK:
        changes = {**changes, "memlock": _LIMIT, "length_bytes": 4 << 30}
    of: PinEnded = pin(**changes)
    task = replace(of.task, comm="qemu-system-x86")
    beside = (_BESIDE[reason],) if reason in _BESIDE else ()
    of = replace(of, task=task, vaddr=0x7F1C40000000, activities=beside)
    if reason is R.ISOLATION_LIVELOCK:
        of = replace(of, duration_ns=90_000_000_000)
    if not of.gup_calls:
        of = replace(of, rounds=0, migrated_pages=0, failed_pages=0, pinned_pages=0)
    elif not of.folios:
        of = replace(of, rounds=0, migrated_pages=0, failed_pages=0)
    found, blocking = rules.classify(of)
    holder, also = holders.match(of, found, blocking)
    if reason is R.HUGETLB_UNSUPPORTED:  # nothing tells it from hugetlb_lock
        of = replace(of, folios=(folio(**dict(FOLIOS_BY[R.HUGETLB_LOCK])),))
        found, blocking = reason, rules.classify(of)[1]
    made = failure(of, holder=holder, also=also, vm=VM, devices=(DEVICE,))
    return replace(made, reason=reason, folios=blocking, primary=rules.primary(blocking))


FOLIOS_BY = {reason: changes for changes, reason in reversed(FOLIOS)}


def why_document() -> str:
    """docs/why.md."""
    return _ABOUT + "".join("\n" + section for section in map(_section, FailureReason))


def _section(reason: FailureReason) -> str:
    if reason is R.PINNED_IN_PLACE:
        waits = dict.fromkeys(Wait, 0)
        slow = slow_pin(cause=SlowCause.IN_PLACE, vm=VM,
                        pin=replace(slow_pin().pin, in_place=1, waits_ns=waits))  # fmt: skip
        told = words.explain_slow(slow)
    else:
        told = words.explain(typical(reason))
    return (
        f"## {reason}\n\n{PLAIN[reason]} What to expect: {reason.severity.words}.\n\n"
        f"```text\n{told.headline}\n\n" + "\n".join(_lines(told)) + "\n```\n\n"
        f"In the kernel: {reason.reference}.\n"
    )


def _lines(told: words.Explanation) -> Iterator[str]:
    yield from _folded(told.summary, "  ")
    yield ""
    width = max(len(label) for label, _ in told.paragraphs)
    for label, text in told.paragraphs:
        yield from _folded(text, " " * (width + 4), f"  {label:<{width}}  ")
    for command in told.commands:
        yield from ("", f"  # {command.what}", f"  {command.run}")


def _folded(text: str, indent: str, first: str = "") -> list[str]:
    """At 92 columns, at spaces."""
    return textwrap.wrap(
        text, 92, initial_indent=first or indent, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def picture() -> str:
    """docs/pictures/why.svg: a terminal that shows the failure of a real recording."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    document = stories.document(Playback(str(RECORDING)).end(), "web-01")
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    for pin_ in document["stories"]:
        console.print(why.told(pin_))
        for line in why.end(pin_["explanation"]):
            console.print(line)
    return _svg(console, "why")


def picture_of_top() -> str:
    """docs/pictures/top.svg: the same recording, while its VM still runs."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    failed = (s for s in Playback(str(RECORDING)).moments() if "web-01" in s.outlooks)
    *_, moment = (s for s in failed if any(f.vm.name == "web-01" for f in s.failures))
    console = Console(record=True, width=110, file=io.StringIO(), force_terminal=True)
    for line in draw(Scene(document=state.document(moment)), View(), 110, 18):
        console.print(line)
    return _svg(console, "top")


def _svg(console: Console, name: str) -> str:
    svg = console.export_svg(title=f"pinwatch {name}", theme=MONOKAI, unique_id=name)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # they lie on the web


def main() -> None:
    WHY.write_text(why_document())
    REFERENCE.write_text(reference_document())
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture())
    TOP.write_text(picture_of_top())


if __name__ == "__main__":
    main()
