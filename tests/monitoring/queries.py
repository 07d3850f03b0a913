"""Every query that dashboards, rules and alerts ask, and what a Prometheus answers to it.

`python -m tests.monitoring.queries URL` lists those that a running Prometheus leaves unanswered.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path(__file__).resolve().parents[2] / "dashboards"
BOARDS = tuple(sorted((SHIPPED / "dashboards_out").glob("*.json")))
RULES = SHIPPED / "prometheus_rules.yaml"
ALERTS = SHIPPED / "prometheus_alerts.yaml"
FAILURES = "vm_source_reason_holder:pinwatch_longterm_pin_failures:increase1m"

# What Grafana puts for its variables where all is chosen.
ALL = {"$job": ".+", "$instance": ".+", "$vm": ".+"}


@dataclass(frozen=True, slots=True)
class Span:
    """The time range that a dashboard shows, and what Grafana makes of it."""

    range_s: float = 3600
    step_s: float = 60
    rate_s: float = 120

    def variables(self) -> dict[str, str]:
        return {
            "$__rate_interval": f"{self.rate_s * 1000:.0f}ms",
            "$__interval": f"{self.step_s * 1000:.0f}ms",
            "$__range": f"{self.range_s * 1000:.0f}ms",
        }


HOUR = Span()
Series = dict[str, Any]  # as the API gives it: metric, and value or values


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and where it stands; `ranged`: asked for a span of time, not for now."""

    where: str
    expr: str
    ranged: bool = False


def board(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def panels(path: Path) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in board(path)["panels"] if panel["type"] != "row"]


def plain(expr: str, span: Span = HOUR, **chosen: str) -> str:
    """With values for Grafana's variables."""
    own = {f"${key}": value for key, value in chosen.items()}
    for name, value in {**span.variables(), **ALL, **own}.items():
        expr = expr.replace(name, value)
    return expr


def of_panels() -> Iterator[Query]:
    for path in BOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                where = f"{path.stem} / {panel['title']} / {target['refId']}"
                yield Query(where, target["expr"], bool(target.get("range")))


def of_variables() -> Iterator[Query]:
    """The selector inside each label_values(), which is all that Grafana asks for."""
    for path in BOARDS:
        for variable in board(path)["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = re.fullmatch(  # type: ignore[union-attr]
                    r"label_values\((.+), (\w+)\)", variable["query"]
                ).groups()
                where = f"{path.stem} / variable {variable['name']}"
                yield Query(where, f"group by ({label}) ({selector})")


def of_annotations() -> Iterator[Query]:
    for path in BOARDS:
        for annotation in board(path)["annotations"]["list"]:
            yield Query(f"{path.stem} / annotation {annotation['name']}", annotation["expr"])


@cache
def rules(path: Path) -> tuple[dict[str, Any], ...]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return tuple(rule for group in groups for rule in group["rules"])


def of_rules() -> Iterator[Query]:
    """Each recorded series."""
    for rule in rules(RULES):
        yield Query(f"rule {rule['record']}", rule["record"], ranged=True)


def of_alerts() -> Iterator[Query]:
    """What each alert looks for."""
    for number, rule in enumerate(rules(ALERTS)):
        yield Query(f"alert {number} {rule['alert']}", rule["expr"])


def everything() -> list[Query]:
    return [*of_panels(), *of_variables(), *of_annotations(), *of_rules(), *of_alerts()]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus that runs, and the moment that is now to those who ask."""

    url: str
    now: float
    span: Span = HOUR

    def get(self, path: str, **arguments: Any) -> Any:
        """What the API says. Raises urllib's HTTPError for a query that it does not understand."""
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=120) as answer:
            return json.load(answer)["data"]

    def ask(self, query: Query, **chosen: str) -> list[Series]:
        expr = plain(query.expr, self.span, **chosen)
        if query.ranged:
            start, step = self.now - self.span.range_s, self.span.step_s
            found = self.get("query_range", query=expr, start=start, end=self.now, step=step)
        else:
            found = self.get("query", query=expr, time=self.now)
        result: list[Series] = found["result"]
        return result

    def value(self, expr: str) -> float:
        """The one number that an expression gives now."""
        (only,) = self.ask(Query("", expr))
        return float(only["value"][1])


def unanswered(prometheus: Prometheus) -> list[Query]:
    """The queries that give nothing at all."""
    return [query for query in everything() if not prometheus.ask(query)]


if __name__ == "__main__":
    import time

    for one in unanswered(Prometheus(sys.argv[1].rstrip("/"), time.time())):
        print(one.where)
