"""A day of recorded series before a fleet began, for queries over a day.

What its Prometheus records now, with values that move, and failures here and there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from tests.lab.tools import tool
from tests.monitoring.queries import FAILURES, Query, Series
from tests.monitoring.scaled import EVALUATE_S, Watched

_BLOCK_S = 7200  # promtool reads its input once for each block
_FAILS_EVERY = 120  # minutes, each host of those that fail


def backfill(watched: Watched, day_s: float) -> None:
    """Into the data of the first Prometheus, which sees it when it starts again."""
    asking = watched.asking(watched.near)
    steady = asking.ask(Query("", '{__name__=~"instance.*:pinwatch_.+"}'))
    failures = asking.ask(Query("", f"last_over_time({FAILURES}[$__range])"))
    for series in failures:
        series["metric"]["__name__"] = FAILURES
    end_s = watched.served.began_s - 60
    step_s = EVALUATE_S / watched.speed
    start_s = end_s - day_s
    while start_s < end_s:
        until_s = min(end_s, (start_s // _BLOCK_S + 1) * _BLOCK_S)
        text = watched.home / "backfill.om"
        with text.open("w") as out:
            out.writelines(_lines(steady, failures, start_s, until_s, step_s))
        subprocess.run(
            [tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet", text,
             watched.home / "near/data"],
            check=True, capture_output=True,
        )  # fmt: skip
        start_s = until_s


def _lines(
    steady: list[Series], failures: list[Series], start_s: float, end_s: float, step_s: float
) -> Iterator[str]:
    """OpenMetrics, series by series."""
    times = [start_s + number * step_s for number in range(int((end_s - start_s) / step_s))]
    for series in steady:
        name, value = _name(series), float(series["value"][1])
        for number, at in enumerate(times):
            yield f"{name} {value + number % 7} {at:.3f}\n"
    for which, series in enumerate(failures):
        name = _name(series)
        for at in times[which % _FAILS_EVERY :: _FAILS_EVERY]:
            yield f"{name} 1 {at:.3f}\n"
    yield "# EOF\n"


def _name(series: Series) -> str:
    labels = dict(series["metric"])
    name = str(labels.pop("__name__"))
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"
