"""A simulated fleet with a real Prometheus that scrapes it, and one that federates from that; and
what can be measured of them.

With a `speed` above 1 the hosts' time and every duration in the configuration are that much
shorter, so that a test sees many minutes of a fleet in a few seconds.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.tools import tool
from tests.monitoring.queries import (
    ALERTS,
    FAILURES,
    RULES,
    Prometheus,
    Query,
    Span,
    everything,
)
from tests.monitoring.servers import prometheus
from tests.monitoring.serving import Served
from tests.monitoring.snippets import configuration

EVALUATE_S, SCRAPE_S, LOOKBACK_S = 60, 30, 300
_DURATION = re.compile(r"\b(\d+)([smhd])\b")
_SECONDS = re.compile(r"(time\(\) - \S+ [<>] )(\d+)\b")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_FAILED = "PinwatchVfioMapFailed|PinwatchPinFailed"


def faster(text: str, speed: float) -> str:
    """Rules with every duration shorter."""

    def shorter(found: re.Match[str]) -> str:
        return f"{int(found[1]) * _UNITS[found[2]] * 1000 / speed:.0f}ms"

    text = _SECONDS.sub(lambda found: f"{found[1]}{int(found[2]) / speed}", text)
    return _DURATION.sub(shorter, text)


def span(range_s: float, step_s: float, speed: float) -> Span:
    return Span(range_s / speed, step_s / speed, 120 / speed)


@dataclass(frozen=True, slots=True)
class Watched:
    """A fleet and who watches it."""

    served: Served
    home: Path
    near: str  # URL of the Prometheus that scrapes the hosts
    far: str  # and of the one that federates from it
    scrape_s: float

    @property
    def speed(self) -> float:
        return self.served.shape.speed

    def asking(self, url: str, *, range_s: float = 3600, step_s: float = 60) -> Prometheus:
        return Prometheus(url, time.time(), span(range_s, step_s, self.speed))


@contextmanager
def watched(
    served: Served, home: Path, scrape_s: float = SCRAPE_S, drop: str = ""
) -> Iterator[Watched]:
    """Both of them, until the end of the block. `drop` are metrics that are not stored."""
    for name in ("near", "far"):
        (home / name).mkdir(exist_ok=True)
    flags = (
        f"--query.lookback-delta={LOOKBACK_S / served.shape.speed * 1000:.0f}ms",
        "--web.enable-admin-api",
    )
    config = _scraping(served, home, scrape_s / served.shape.speed, drop)
    with prometheus(home / "near", config, *flags) as near:
        federating = _federating(near, served.shape.speed)
        with prometheus(home / "far", federating, flags[0]) as far:
            yield Watched(served, home, near, far, scrape_s)


def _scraping(served: Served, home: Path, interval_s: float, drop: str) -> dict[str, Any]:
    rules = []
    for path in (RULES, ALERTS):
        rules.append(str(home / path.name))
        (home / path.name).write_text(faster(path.read_text(), served.shape.speed))
    job = {**limits(), **served.job()}
    if drop:
        dropping = {"source_labels": ["__name__"], "regex": drop, "action": "drop"}
        job["metric_relabel_configs"] = [dropping]
    return {
        "global": {
            "scrape_interval": f"{interval_s * 1000:.0f}ms",
            "scrape_timeout": f"{min(interval_s, 10) * 1000:.0f}ms",
            "evaluation_interval": f"{EVALUATE_S / served.shape.speed * 1000:.0f}ms",
        },
        "rule_files": rules,
        "scrape_configs": [job],
    }


def limits() -> dict[str, int]:
    """Those of docs/fleet.md."""
    (job,) = yaml.safe_load(configuration("scrape"))["scrape_configs"]
    return {name: value for name, value in job.items() if name.endswith("_limit")}


def dropped() -> str:
    """The metrics that docs/fleet.md does without."""
    (job,) = yaml.safe_load(configuration("scrape"))["scrape_configs"]
    (dropping,) = job["metric_relabel_configs"]
    return str(dropping["regex"])


def _federating(near: str, speed: float) -> dict[str, Any]:
    """What docs/fleet.md says, at that speed."""
    config: dict[str, Any] = yaml.safe_load(faster(configuration("federation"), speed))
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [near.removeprefix("http://")]}]
    return config


# ---- what is right ------------------------------------------------------------------------------


def failures_put_in(said: dict[str, Any]) -> Counter[tuple[str, ...]]:
    """By instance, vm, source, reason, holder."""
    return Counter({tuple(of): n for *of, n in said["failures"]})


def failures_shown(prometheus: Prometheus) -> Counter[tuple[str, ...]]:
    """By the query of the fleet dashboard's table."""
    (query,) = (q for q in everything() if q.where == "pinwatch-fleet / Where pins failed / A")
    labels = ("instance", "vm", "source", "reason", "holder")
    return Counter(
        {tuple(row["metric"][label] for label in labels): round(float(row["value"][1]))
         for row in prometheus.ask(query)}
    )  # fmt: skip


def failures_recorded(prometheus: Prometheus) -> int:
    """All of the time range."""
    return round(prometheus.value(f"sum(sum_over_time({FAILURES}[$__range]))"))


def fired(prometheus: Prometheus, names: str = _FAILED) -> set[str]:
    """Hosts on which one of these alerts has fired in the time range."""
    firing = f'ALERTS{{alertname=~"{names}", alertstate="firing"}}[$__range]'
    found = prometheus.ask(Query("", f"count by (instance) (count_over_time({firing}))"))
    return {row["metric"]["instance"] for row in found}


# ---- what it costs ------------------------------------------------------------------------------


def own_metrics(url: str) -> dict[str, float]:
    """What a Prometheus says of itself, by name and labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        sample.name + "".join(f"|{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def rule_times(url: str) -> dict[str, float]:
    """Seconds of the last evaluation of each rule."""
    with_groups = Prometheus(url, 0).get("rules")["groups"]
    times: Counter[str] = Counter()
    for group in with_groups:
        for rule in group["rules"]:
            times[rule["name"]] += rule["evaluationTime"]
    return dict(times)


def series_of(prometheus: Prometheus, instance: str) -> tuple[dict[str, int], dict[str, int]]:
    """How many series of each metric a host has: of VMs, and its own. Scraped ones only."""
    return tuple(  # type: ignore[return-value]
        {row["metric"]["__name__"]: int(row["value"][1])
         for row in prometheus.ask(Query("", f"count by (__name__) ({selector})"))
         if ":" not in row["metric"]["__name__"] and row["metric"]["__name__"] != "ALERTS"}
        for selector in (f'{{instance="{instance}", vm=~"[^~].*", alertname=""}}',
                         f'{{instance="{instance}", vm!~"[^~].*", alertname=""}}')
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Timed:
    """How long a query took: the first time, then the median and the worst of some more."""

    where: str
    first_s: float
    median_s: float
    worst_s: float
    series: int


def timed(prometheus: Prometheus, query: Query, times: int = 5, **chosen: str) -> Timed:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        found = prometheus.ask(query, **chosen)
        took.append(time.perf_counter() - began)
    later = sorted(took[1:])
    return Timed(query.where, took[0], later[len(later) // 2], later[-1], len(found))


def of_board(uid: str) -> list[Query]:
    """What opening a dashboard asks."""
    return [query for query in everything() if query.where.startswith(f"{uid} / ")]


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def snapshot(watched: Watched) -> Path:
    """The head as a block, by the admin API."""
    request = urllib.request.Request(f"{watched.near}/api/v1/admin/tsdb/snapshot", method="POST")
    with urllib.request.urlopen(request, timeout=600) as answer:
        name = str(json.load(answer)["data"]["name"])
    return watched.home / "near/data/snapshots" / name


def settle(watched: Watched, minutes: float) -> None:
    """Until the fleet has run for so many of its minutes."""
    time.sleep(max(0.0, watched.served.began_s + minutes * 60 / watched.speed - time.time()))


def version() -> str:
    told = subprocess.run(
        [tool("prometheus"), "--version"], capture_output=True, text=True, check=True
    )
    return (told.stdout + told.stderr).split()[2]
