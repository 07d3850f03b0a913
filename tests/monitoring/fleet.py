"""A real Prometheus that holds what hosts answered, with what the recording rules make of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.lab.tools import tool
from tests.monitoring import history
from tests.monitoring.queries import ALERTS, RULES, Prometheus
from tests.monitoring.servers import prometheus, wait_for

_EMPTY = {"global": {"evaluation_interval": "1s"}}
_WITH_RULES = {**_EMPTY, "rule_files": [str(RULES), str(ALERTS)]}


@contextmanager
def fleet(home: Path) -> Iterator[Prometheus]:
    """Two hours of the fleet of history.py. Its alerts fire."""
    now = time.time()
    with holding(home, history.scrapes(now), now) as running:
        firing = 'ALERTS{alertname="PinwatchVfioMapFailed", alertstate="firing"}'
        wait_for(lambda: _now(running.url, firing), "no alert fires")
        yield replace(running, now=time.time())


@contextmanager
def holding(home: Path, scraped: Iterable[history.Scrape], now: float) -> Iterator[Prometheus]:
    """The last two hours, as hosts answered. It runs with all rules."""
    samples = home / "samples.om"
    with samples.open("w") as out:
        out.writelines(history.openmetrics(scraped))
    data = home / "data"
    _promtool("tsdb", "create-blocks-from", "openmetrics", "--quiet", samples, data)
    with prometheus(home, _EMPTY) as url:
        _promtool(
            "tsdb", "create-blocks-from", "rules", f"--start={now - history.BAD_FOR_S:.0f}",
            f"--end={now:.0f}", f"--url={url}", f"--output-dir={data}", RULES,
        )  # fmt: skip
    with prometheus(home, _WITH_RULES) as url:
        yield Prometheus(url, now)


def _now(url: str, expr: str) -> bool:
    return bool(Prometheus(url, time.time()).get("query", query=expr)["result"])


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [tool("promtool"), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
