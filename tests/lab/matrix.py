"""The confusion matrix: what was made to happen, and what pinwatch said of it, on each kernel.

`python -m tests.lab.matrix` boots two guests for each kernel, one for all rows of
tests/lab/inside/matrix.py and one for the founding report, which needs memory of its own shape, and
one for the sources that need a kernel built here (tests/lab/inside/built.py); then it writes
docs/matrix.md. SERIES=DIR,DIR takes the results of earlier guests instead. tests/lab/test_matrix.py
judges rows by the same `verdict`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.lab import guest, kernels
from tests.lab.inside import built_sources, holders
from tests.lab.inside.causes import CAUSES, WITHOUT_RECIPE
from tests.lab.inside.holders import HOLDERS
from tests.lab.inside.sources import SOURCES
from tests.lab.layouts import LAYOUTS
from tests.lab.outcome import Event, parse_line

KERNELS = ("6.1", "6.12", "7.2")
BUILT = "6.12-iommufd"
TIMEOUT_S = 1800
DOCS = Path(__file__).resolve().parents[2] / "docs/matrix.md"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What pinwatch was to say, what it said, and whether that is the same."""

    expected: str
    said: str
    right: bool


# A batch that is emptied between the last try to move the page and the search has left a reference
# of which nothing more can be known: to name it would be invented.
_RACES = {"lru_batch_ref": ("extra_ref_plain", "extra_ref_gone")}


def verdict(row: Row) -> Verdict:
    """Judge a row by its kind."""
    if "broken" in row["result"]:
        return Verdict("to happen", f"it did not: {row['result']['broken'][-300:]}", False)
    return _JUDGES[row["kind"]](row)


def _cause(row: Row) -> Verdict:
    """Each failed pin of the process has the reason."""
    cause = CAUSES[row["name"]]
    if not row["result"]["errno"] or cause.name == "isolation_livelock":
        return _slow(row, cause.name)
    mine = [f for f in row["failures"] if f["pin"]["task"]["key"]["tgid"] == row["result"]["pid"]]
    said = Counter(f["reason"] for f in mine)
    text = ", ".join(f"{reason} ({n})" if n > 1 else reason for reason, n in said.most_common())
    may_be = {cause.reason, *_RACES.get(cause.name, ())}
    right = cause.reason in said and set(said) <= may_be
    sources = {f["pin"]["source"] for f in mine}
    return Verdict(cause.reason, text or "nothing", right and sources == {cause.source})


def _founding_report(row: Row) -> Verdict:
    """A scenario: everything that failed meanwhile."""
    said = [failure["reason"] for failure in row["failures"]]
    return Verdict("thp_split_refs", ", ".join(said), said == ["thp_split_refs"])


def _slow(row: Row, name: str) -> Verdict:
    """The pin worked, and was slow for the right reason. A livelock was raised while it spun, and
    may fail at its end: whoever had isolated the page puts it back by way of a batch."""
    expected = "isolation" if name == "isolation_livelock" else "writeback"
    said = [slow["cause"] for slow in row["slow"]]
    raised = any(stuck["livelock"] for stuck in row["stuck"])
    failed = [f["reason"] for f in row["failures"]]
    text = ", ".join([f"{cause} (slow)" for cause in said] + failed)
    text += "; raised while it spun" if raised else ""
    spun = expected == "isolation"
    right = (said == [expected] or (spun and bool(failed))) and raised == spun
    return Verdict(f"{expected} (slow)", text, right)


_LABELS = {name: source.label for name, source in SOURCES.items()} | {
    name: source.label for name, source in built_sources.SOURCES.items()
}


def _source(row: Row) -> Verdict:
    """The source is named; a success has its pages counted, a failure its reason and the pipe."""
    name, _, case = row["name"].rpartition("-")
    label, result = _LABELS[name], row["result"]
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
    """The holder is named, or told to have overlapped. They come in bursts: not beside each pin."""
    holder = HOLDERS[row["name"]].name
    mine = [f for f in row["failures"] if f["pin"]["task"]["key"]["tgid"] == row["result"]["pid"]]
    found = [next((m for m in (f["holder"], *f["also"]) if m["holder"] == holder), None)
             for f in mine]  # fmt: skip
    named = Counter(f"{m['holder']} ({m['confidence']})" if m else "not named" for m in found)
    text = ", ".join(f"{what} {n}x" for what, n in named.most_common())
    return Verdict(holder, text or "no pin failed", any(found))


_JUDGES: dict[str, Callable[[Row], Verdict]] = {
    "cause": _cause,
    "scenario": _founding_report,
    "source": _source,
    "holder": _holder,
}


# ---- the document ---------------------------------------------------------------------------


# Layout and module of tests/lab/inside with its arguments, by kernel.
_JOBS = {
    "": (("matrix", "matrix"), ("fragmented", "scenarios", "fragmented")),
    BUILT: (("built", "built"),),
}


def run(series: str) -> list[Event]:
    """All rows on one kernel."""
    kernel = kernels.fetch(kernels.series(series))
    events: list[Event] = []
    for layout, *job in _JOBS.get(series, _JOBS[""]):
        command = [sys.executable, "-m", f"tests.lab.inside.{job[0]}", *job[1:]]
        outcome = guest.boot(
            kernel, LAYOUTS[layout], command, timeout_s=TIMEOUT_S, on_event=partial(_show, series)
        )
        events += outcome.events
    return events


def _show(series: str, event: Event) -> None:
    for row in rows([event]).values():
        judged = verdict(row)
        mark = "right" if judged.right else "WRONG"
        print(f"{series:5} {mark} {row['name']}: {judged.said}", flush=True)


def earlier(directories: list[str]) -> list[Event]:
    """What guests said that ran before."""
    texts = [Path(name, "channel.jsonl").read_text() for name in directories]
    return [parse_line(line) for text in texts for line in text.splitlines()]


def rows(events: Iterable[Event]) -> dict[tuple[str, str], Row]:
    """By kind and name."""
    found = [dict(event) for event in events if event["event"] == "row"]
    found += [
        {"kind": "scenario", "name": event["name"], **event["result"], "result": {}}
        for event in events
        if event["event"] == "scenario" and event["name"] == "founding_report"
    ]
    return {(row["kind"], row["name"]): row for row in found}


_TITLES = {
    ("cause", "scenario"): ("Reasons", "induced cause"),
    ("source",): ("Sources", "source and case"),
    ("holder",): ("Holders", "beside failing pins"),
}

Tables = dict[str, dict[tuple[str, str], Row]]


def document(events: dict[str, list[Event]]) -> str:
    """docs/matrix.md."""
    tables = {series: rows(found) for series, found in events.items()}
    releases = [
        f"{series} ({next(e['release'] for e in found if e['event'] == 'start')})"
        for series, found in events.items()
    ]
    return "".join(_lines(tables, releases))


def _lines(tables: Tables, releases: list[str]) -> Iterator[str]:
    yield (
        "# The confusion matrix\n\nWritten by `make matrix`, which boots a guest for each kernel, "
        "makes each of these causes happen under one running daemon, and writes down what pinwatch "
        "said of the process that pinned. A cell with a tick is what was to be said; any other is "
        "wrong. Empty: it cannot happen on that kernel.\n\nKernels: " + ", ".join(releases) + ".\n"
    )
    for kinds, (title, what) in _TITLES.items():
        keys = dict.fromkeys(key for table in tables.values() for key in table if key[0] in kinds)
        yield f"\n## {title}\n\n| {what} | expected | {' | '.join(tables)} |\n"
        yield "|---|---|" + "---|" * len(tables) + "\n"
        for key in keys:
            yield _line(key, tables)
    yield "\n## Not induced\n\nUnit tests decide them on records made by hand "
    yield "(`tests/unit/test_classify.py`).\n\n| reason | why not |\n|---|---|\n"
    for reason, why in sorted(WITHOUT_RECIPE.items()):
        yield f"| `{reason}` | {why} |\n"
    yield "\n| holder | why it has no row of its own |\n|---|---|\n"
    for holder, why in sorted(holders.WITHOUT_RECIPE.items()):
        yield f"| `{holder}` | {why} |\n"


def _line(key: tuple[str, str], tables: Tables) -> str:
    judged = [verdict(table[key]) if key in table else None for table in tables.values()]
    expected = next(v.expected for v in judged if v is not None)
    return f"| {key[1]} | `{expected}` | {' | '.join(map(_cell, judged))} |\n"


def _cell(judged: Verdict | None) -> str:
    if judged is None:
        return ""
    if not judged.right:
        return f"**{judged.said or 'nothing'}**"
    return "✓" if judged.said == judged.expected else f"✓ {judged.said}"


def main(arguments: list[str]) -> int:
    events = {}
    for argument in arguments or (*KERNELS, BUILT):
        series, _, directories = argument.partition("=")
        events[series] = earlier(directories.split(",")) if directories else run(series)
    DOCS.write_text(document(events))
    wrong = sum(not verdict(row).right for e in events.values() for row in rows(e).values())
    print(f"{DOCS}: {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
