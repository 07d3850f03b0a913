"""The confusion matrix: what was made to happen, and what pinwatch said of it, on each kernel.

`python -m tests.lab.matrix [SERIES...]` boots a guest for each kernel, runs all rows of
tests/lab/inside/matrix.py there, and writes docs/matrix.md. tests/lab/test_matrix.py judges rows by
the same `verdict`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import guest, kernels
from tests.lab.inside.causes import CAUSES, WITHOUT_RECIPE
from tests.lab.inside.holders import HOLDERS
from tests.lab.inside.sources import SOURCES
from tests.lab.layouts import LAYOUTS
from tests.lab.outcome import Event, Outcome

KERNELS = ("6.1", "6.12", "7.2")
TIMEOUT_S = 1800
DOCS = Path(__file__).resolve().parents[2] / "docs/matrix.md"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What pinwatch was to say, what it said, and whether that is the same."""

    expected: str
    said: str
    right: bool


def verdict(row: Row) -> Verdict:
    """Judge a row by its kind."""
    if "broken" in row["result"]:
        return Verdict("to happen", f"it did not: {row['result']['broken'][-300:]}", False)
    return _JUDGES[row["kind"]](row)


def _cause(row: Row) -> Verdict:
    """Each failed pin of the process has the reason; a race may have others among them."""
    cause = CAUSES[row["name"]]
    if not row["result"]["errno"]:
        return _slow(row, cause.name)
    mine = [f for f in row["failures"] if f["pin"]["task"]["key"]["tgid"] == row["result"]["pid"]]
    said = Counter(f["reason"] for f in mine)
    text = ", ".join(f"{reason} ({n})" if n > 1 else reason for reason, n in said.most_common())
    most = said.most_common(1)[0][0] if said else "nothing"
    right = most == cause.reason if cause.name == "lru_batch_ref" else set(said) == {cause.reason}
    sources = {f["pin"]["source"] for f in mine}
    return Verdict(cause.reason, text or "nothing", right and sources == {cause.source})


def _slow(row: Row, name: str) -> Verdict:
    """The pin worked, and was slow for the right reason; a livelock was raised while it spun."""
    expected = "isolation" if name == "isolation_livelock" else "writeback"
    said = [slow["cause"] for slow in row["slow"]]
    raised = any(stuck["livelock"] for stuck in row["stuck"])
    text = ", ".join(said) + (" (slow); raised while it spun" if raised else " (slow)")
    right = said == [expected] and raised == (expected == "isolation")
    return Verdict(f"{expected} (slow)", text, right)


def _source(row: Row) -> Verdict:
    """The source is named; a success has its pages counted, a failure its reason and the pipe."""
    name, _, case = row["name"].rpartition("-")
    label, result = SOURCES[name].label, row["result"]
    if case == "ok":
        pins = _grown(row, "pinwatch_longterm_pins_total", label)
        pages = _grown(row, "pinwatch_longterm_pinned_pages_total", label)
        expected = f"{label}, {result['pages']} pages"
        right = pins >= 1 and pages == result["pages"] and not row["failures"]
        return Verdict(expected, f"{label}, {pages:.0f} pages", right)
    said = [f"{f['pin']['source']} {f['reason']}, {f['holder']['holder']}" for f in row["failures"]]
    expected = f"{label} extra_ref_plain, pipe"
    return Verdict(expected, "; ".join(said), set(said) == {expected})


def _grown(row: Row, metric: str, source: str) -> float:
    """How much a metric grew for a source, over all VMs."""
    metrics: dict[str, float] = row["metrics"]
    return sum(
        n
        for series, n in metrics.items()
        if series.startswith(metric + "{") and f'source="{source}"' in series
    )


def _holder(row: Row) -> Verdict:
    """The holder is named, or told to have overlapped, in each failed pin of the process."""
    holder = HOLDERS[row["name"]].name
    mine = [f for f in row["failures"] if f["pin"]["task"]["key"]["tgid"] == row["result"]["pid"]]
    found = [next((m for m in (f["holder"], *f["also"]) if m["holder"] == holder), None)
             for f in mine]  # fmt: skip
    named = Counter(f"{m['holder']} ({m['confidence']})" if m else "not named" for m in found)
    text = ", ".join(f"{what} {n}x" for what, n in named.most_common())
    return Verdict(holder, text or "no pin failed", bool(found) and all(found))


_JUDGES: dict[str, Callable[[Row], Verdict]] = {
    "cause": _cause,
    "source": _source,
    "holder": _holder,
}


# ---- the document ---------------------------------------------------------------------------


def run(series: str) -> Outcome:
    """All rows on one kernel."""

    def show(event: Event) -> None:
        if event.get("event") == "row":
            judged = verdict(dict(event))
            mark = "right" if judged.right else "WRONG"
            print(f"{series:5} {mark} {event['name']}: {judged.said}", flush=True)

    command = [sys.executable, "-m", "tests.lab.inside.matrix"]
    kernel = kernels.fetch(kernels.series(series))
    return guest.boot(kernel, LAYOUTS["matrix"], command, timeout_s=TIMEOUT_S, on_event=show)


def rows(outcome: Outcome) -> dict[tuple[str, str], Row]:
    """By kind and name."""
    found = [dict(event) for event in outcome.events if event.get("event") == "row"]
    return {(row["kind"], row["name"]): row for row in found}


_TITLES = {
    "cause": ("Reasons", "induced cause"),
    "source": ("Sources", "source and case"),
    "holder": ("Holders", "beside failing pins"),
}


def document(outcomes: dict[str, Outcome]) -> str:
    """docs/matrix.md."""
    tables = {series: rows(outcome) for series, outcome in outcomes.items()}
    releases = {
        series: next(e["release"] for e in outcome.events if e.get("event") == "start")
        for series, outcome in outcomes.items()
    }
    return "".join(_lines(tables, releases))


def _lines(
    tables: dict[str, dict[tuple[str, str], Row]], releases: dict[str, Any]
) -> Iterator[str]:
    yield (
        "# The confusion matrix\n\nWritten by `make matrix`, which boots a guest for each kernel, "
        "makes each of these causes happen under one running daemon, and writes down what pinwatch "
        "said of the process that pinned. A cell with a tick is what was to be said; any other is "
        "wrong. Empty: it cannot happen on that kernel.\n\nKernels: "
        + ", ".join(f"{series} ({release})" for series, release in releases.items())
        + ".\n"
    )
    for kind, (title, what) in _TITLES.items():
        names = dict.fromkeys(n for table in tables.values() for k, n in table if k == kind)
        yield f"\n## {title}\n\n| {what} | expected | {' | '.join(tables)} |\n"
        yield "|---|---|" + "---|" * len(tables) + "\n"
        for name in names:
            yield _line(kind, name, tables)
    yield "\n## Not induced\n\nUnit tests decide them on records made by hand "
    yield "(`tests/unit/test_classify.py`).\n\n| reason | why not |\n|---|---|\n"
    for reason, why in WITHOUT_RECIPE.items():
        yield f"| `{reason}` | {why} |\n"


def _line(kind: str, name: str, tables: dict[str, dict[tuple[str, str], Row]]) -> str:
    judged = {
        series: verdict(table[kind, name]) if (kind, name) in table else None
        for series, table in tables.items()
    }
    expected = next(v.expected for v in judged.values() if v is not None)
    cells = [
        "" if v is None else f"✓ {v.said if v.said != v.expected else ''}".strip()
        if v.right else f"**{v.said or 'nothing'}**"
        for v in judged.values()
    ]  # fmt: skip
    return f"| {name} | `{expected}` | {' | '.join(cells)} |\n"


def main(series: list[str]) -> int:
    outcomes = {name: run(name) for name in series or KERNELS}
    DOCS.write_text(document(outcomes))
    wrong = sum(not verdict(row).right for o in outcomes.values() for row in rows(o).values())
    print(f"{DOCS}: {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
