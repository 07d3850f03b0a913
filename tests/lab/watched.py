"""A guest's run as a Prometheus saw it that scraped the daemon from outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.queries import Prometheus, Query, Series, of_panels
from tests.monitoring.watching import Watch

EVERY = "5s"  # a scrape; emulated, one takes a tenth of a second
STEP_S = 5
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
_TARGET = ("job", "instance")


@dataclass(frozen=True, slots=True)
class Watched:
    """Who watched, and when: from the first to the last scrape that was answered."""

    watch: Watch
    start: float
    end: float

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(self.watch.url, self.end)

    def ask(self, query: Query, **chosen: str) -> list[Series]:
        """At the end; what a dashboard counts it counts since the start. `chosen` are values of the
        dashboard's variables, all where there is none."""
        return self.prometheus.ask(query, __range=f"{self.end - self.start:.0f}s", **chosen)

    def panel(self, where: str, **chosen: str) -> list[Series]:
        """What the panel "BOARD / TITLE / TARGET" shows."""
        (query,) = (query for query in of_panels() if query.where == where)
        return self.ask(query, **chosen)

    def number(self, where: str, **chosen: str) -> float:
        """The one number of "BOARD / TITLE"; a graph may have the same title."""
        (query,) = (q for q in of_panels() if q.where == f"{where} / A" and not q.ranged)
        (only,) = self.ask(query, **chosen)
        return float(only["value"][1])

    def firing(self) -> list[dict[str, str]]:
        """The labels of alerts that have fired at any time, without those of the target. While the
        guest waited for its turn and booted, PinwatchDown may have."""
        span = {"start": self.start + 3 * STEP_S, "end": self.end, "step": STEP_S}
        found = self.prometheus.get("query_range", query='ALERTS{alertstate="firing"}', **span)[
            "result"
        ]
        told = ("__name__", "alertstate", *_TARGET)
        return [{k: v for k, v in one["metric"].items() if k not in told} for one in found]

    def samples(self, matching: str) -> Samples:
        """The newest of each series that was there at the end, without the target's labels."""
        found = self.prometheus.get("query", query=matching, time=self.end)["result"]
        return {_key(series["metric"]): float(series["value"][1]) for series in found}

    def exemplars(self, matching: str) -> list[dict[str, Any]]:
        """Those that scrapes brought."""
        found = self.prometheus.get(
            "query_exemplars", query=matching, start=self.start, end=self.end
        )
        return [exemplar for series in found for exemplar in series["exemplars"]]


def watched(watch: Watch, seconds: float, stopped: float) -> Watched:
    """Of a guest that ran for so long, until `stopped` (wall clock)."""
    span = {"start": stopped - seconds, "end": stopped, "step": 1}
    found = Prometheus(watch.url, stopped).get(
        "query_range", query='up{job="pinwatch"} == 1', **span
    )
    answered = [at for series in found["result"] for at, _ in series["values"]]
    return Watched(watch, min(answered, default=stopped), max(answered, default=stopped))


def scraped(page: Path) -> Samples:
    """All samples of a /metrics text."""
    families = text_string_to_metric_families(page.read_text())
    return {
        _key({"__name__": sample.name, **sample.labels}): sample.value
        for family in families
        for sample in family.samples
    }


def _key(metric: dict[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    """To Prometheus an empty label is none."""
    own = {k: v for k, v in metric.items() if v and k not in (*_TARGET, "__name__")}
    return metric["__name__"], frozenset(own.items())
