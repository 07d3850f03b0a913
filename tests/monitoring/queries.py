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

# What Grafana puts for its variables where all is chosen; for `job` see Prometheus.every_job().
ALL = {"$job": "pinwatch", "$instance": ".+", "$vm": ".+"}


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
    """With values for Grafana's variables. What a dashboard asks of one host or one VM is asked of
    all together where none is chosen, which Grafana would not."""
    own = {f"${key}": value for key, value in chosen.items()}
    for name in ALL.keys() - own.keys():
        expr = expr.replace(f'="{name}"', f'=~"{name}"')
    for name, value in {**span.variables(), **ALL, **own}.items():
        expr = expr.replace(name, value)
    return expr


def of_panels() -> Iterator[Query]:
    for path in BOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                where = f"{path.stem} / {panel['title']} / {target['refId']}"
                yield Query(where, target["expr"], bool(target.get("range")))


def variables(path: Path) -> dict[str, dict[str, Any]]:
    """By name, without that of the data source."""
    every = board(path)["templating"]["list"]
    return {variable["name"]: variable for variable in every if variable["type"] == "query"}


def asked(variable: dict[str, Any]) -> tuple[str, str]:
    """The selector and the label inside label_values(), which is all that Grafana asks for."""
    selector, label = re.fullmatch(  # type: ignore[union-attr]
        r"label_values\((.+), (\w+)\)", variable["query"]
    ).groups()
    return selector, label


def of_variables() -> Iterator[Query]:
    for path in BOARDS:
        for name, variable in variables(path).items():
            selector, label = asked(variable)
            yield Query(f"{path.stem} / variable {name}", f"group by ({label}) ({selector})")


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

    def options(self, uid: str, name: str) -> list[str]:
        """What Grafana offers for a variable of a dashboard; where there is no "all", the first is
        chosen."""
        (path,) = (path for path in BOARDS if path.stem == uid)
        selector, label = asked(variables(path)[name])
        matching = plain(
            selector, self.span, **({} if name == "job" else {"job": self.every_job()})
        )
        start = self.now - self.span.range_s
        arguments = {"match[]": matching, "start": start, "end": self.now}
        return sorted(self.get(f"label/{label}/values", **arguments))

    def every_job(self) -> str:
        """What Grafana puts for `job` where all are chosen."""
        return _every_job(self)

    def ask(self, query: Query, **chosen: str) -> list[Series]:
        if "$job" in query.expr:
            chosen = {"job": self.every_job(), **chosen}
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


@cache
def _every_job(prometheus: Prometheus) -> str:
    if all_value := variables(BOARDS[0])["job"].get("allValue"):
        return str(all_value)
    found = prometheus.options(BOARDS[0].stem, "job")
    escaped = [re.escape(job).replace("\\", "\\\\") for job in found]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def unanswered(prometheus: Prometheus) -> list[Query]:
    """The queries that give nothing at all."""
    return [query for query in everything() if not prometheus.ask(query)]


if __name__ == "__main__":
    import time

    for one in unanswered(Prometheus(sys.argv[1].rstrip("/"), time.time())):
        print(one.where)
