"""A real Prometheus that holds what hosts answered, with what the recording rules make of it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tests.lab.tools import tool
from tests.monitoring import history
from tests.monitoring.queries import ALERTS, RULES, Prometheus
from tests.monitoring.scaled import faster
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
def deserted(home: Path) -> Iterator[Prometheus]:
    """Two hours of all but pinwatch, which no target is left of. PinwatchDown fires, sooner."""
    now = time.time()
    _import(home, history.openmetrics(history.foreign(now)))
    hurried = home / ALERTS.name
    hurried.write_text(faster(ALERTS.read_text(), speed=300))
    with prometheus(home, {**_EMPTY, "rule_files": [str(hurried)]}) as url:
        firing = 'ALERTS{alertname="PinwatchDown", alertstate="firing"}'
        wait_for(lambda: _now(url, firing), "no alert fires")
        yield Prometheus(url, time.time())


@contextmanager
def holding(home: Path, scraped: Iterable[history.Scrape], now: float) -> Iterator[Prometheus]:
    """The last two hours, as hosts answered. It runs with all rules."""
    _import(home, history.openmetrics(scraped))
    with prometheus(home, _EMPTY) as url:
        recorded = list(_recorded(Prometheus(url, now)))
    _import(home, recorded)
    with prometheus(home, _WITH_RULES) as url:
        yield Prometheus(url, now)


def _recorded(holds: Prometheus) -> Iterator[str]:
    """What the rules make of it, as OpenMetrics. (`promtool tsdb create-blocks-from rules` leaves
    evaluations out where one block of two hours ends, and all where the first is short.)"""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield from _evaluated(holds, rule, group["interval"])
    yield "# EOF\n"


def _evaluated(holds: Prometheus, rule: dict[str, Any], step: str) -> Iterator[str]:
    start = holds.now - history.BAD_FOR_S
    found = holds.get("query_range", query=rule["expr"], start=start, end=holds.now, step=step)
    for series in found["result"]:
        labels = {**series["metric"], **rule.get("labels", {})}
        labels.pop("__name__", None)  # an expression that keeps it
        text = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
        for at, value in series["values"]:
            yield f"{rule['record']}{{{text}}} {value} {at:.3f}\n"


def _import(home: Path, lines: Iterable[str]) -> None:
    samples = home / "samples.om"
    with samples.open("w") as out:
        out.writelines(lines)
    _promtool("tsdb", "create-blocks-from", "openmetrics", "--quiet", samples, home / "data")


def _now(url: str, expr: str) -> bool:
    return bool(Prometheus(url, time.time()).get("query", query=expr)["result"])


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [tool("promtool"), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
