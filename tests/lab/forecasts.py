"""docs/forecast-matrix.md: what `check` said of each setup of tests/lab/inside/setups.py, and what
came of it, on each kernel.

`python -m tests.lab.forecasts` boots the guests; with KERNEL=DIR,DIR it takes the results of
earlier ones. tests/lab/test_forecast.py judges the same.
"""

from __future__ import annotations

import errno
import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab import guest, kernels
from tests.lab.inside.setups import SETUPS, Setup
from tests.lab.layouts import LAYOUTS
from tests.lab.outcome import parse_line

DOCS = Path(__file__).resolve().parents[2] / "docs/forecast-matrix.md"
LAYOUTS_OF = {"6.1": ("forecast",), "6.12": ("forecast",), "7.2": ("forecast", "forecast-cma")}
TIMEOUT_S = 1800
Results = dict[str, dict[str, Any]]  # by setup

HEAD = """\
# What `check` said, and what happened

Written by `make forecasts`: a guest for each kernel, a process for each setup, `pinwatch check`
first, then a VFIO map of all its memory. ZONE_MOVABLE holds half of the memory; node 1 has nothing
else.

"""


def results(directories: list[Path]) -> Results:
    """Of guests that have run."""
    events = [
        parse_line(line)
        for directory in directories
        for line in (directory / "channel.jsonl").read_text().splitlines()
    ]
    return {e["name"]: e["result"] for e in events if e.get("event") == "scenario"}


def run(series: str) -> list[Path]:
    """Boot the guests of a kernel; their directories."""
    kernel = kernels.fetch(kernels.series(series))
    return [
        guest.boot(
            kernel,
            LAYOUTS[layout],
            [sys.executable, "-m", "tests.lab.inside.forecast", layout],
            timeout_s=TIMEOUT_S,
        ).directory
        for layout in LAYOUTS_OF[series]
    ]


def outcome_words(outcome: str) -> str:
    """Of what the process said of its map."""
    if outcome == "0":
        return "worked"
    return errno.errorcode[int(outcome)] if outcome.isdigit() else "out of memory, killed"


def document(by_kernel: dict[str, Results]) -> str:
    """The whole file."""
    return HEAD + "".join((*_confusion(by_kernel), *_setups(by_kernel)))


def _confusion(by_kernel: dict[str, Results]) -> Iterator[str]:
    """Verdicts against outcomes, over all kernels."""
    counts = Counter(
        (said["verdict"], said["outcome"] == "0")
        for results in by_kernel.values()
        for said in results.values()
        if "verdict" in said
    )
    yield "| verdict | the map worked | it failed |\n|---|---|---|\n"
    for verdict in ("fine", "at_risk", "will_fail"):
        yield f"| `{verdict}` | {counts[verdict, True]} | {counts[verdict, False]} |\n"
    hidden = [s.__name__ for of in SETUPS.values() for s, e in of.items() if e.hidden]
    yield f"\nThe `fine` that failed: `{'`, `'.join(hidden)}`, which nothing shows from outside "
    yield "([forecast.md](forecast.md) says why).\n\n"


def _setups(by_kernel: dict[str, Results]) -> Iterator[str]:
    yield f"| setup | what it is | {' | '.join(by_kernel)} |\n|---|---|{'---|' * len(by_kernel)}\n"
    for setups in SETUPS.values():
        for setup in setups:
            cells = (_cell(found.get(setup.__name__)) for found in by_kernel.values())
            yield f"| `{setup.__name__}` | {_words(setup)} | {' | '.join(cells)} |\n"


def _words(setup: Setup) -> str:
    return " ".join((inspect.getdoc(setup) or "").split())


def _cell(said: dict[str, Any] | None) -> str:
    if said is None:
        return ""
    risks = ", ".join(said["risks"])
    verdict = f"`{said['verdict']}`" + (f" ({risks})" if risks else "")
    return f"{verdict}; {outcome_words(said['outcome'])}"


def main(arguments: list[str]) -> int:
    by_kernel = {}
    for argument in arguments or LAYOUTS_OF:
        series, _, directories = argument.partition("=")
        found = [Path(one) for one in directories.split(",")] if directories else run(series)
        by_kernel[series] = results(found)
    DOCS.write_text(document(by_kernel))
    print(DOCS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
