"""The dashboard: valid, described, and in the words of the metrics catalogue; alerts too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pinwatch.expose.metrics import BUILD, COUNTERS, DURATION, HOOK, LOSSES, RECONCILIATION, VM_INFO
from tests.unit.test_alerts import ALERTS, ROOT, promtool

DASHBOARD = ROOT / "dashboards/grafana/pinwatch-vfio.json"

# What stands for Grafana's variables where promtool reads the expressions.
VARIABLES = {
    "$__rate_interval": "5m",
    "$__range": "1h",
    "$job": "pinwatch",
    "$instance": "h1",
    "$vm": "web-01",
}
TARGET_LABELS = {"job", "instance"}

# Names as Prometheus stores them, with their labels.
METRICS: dict[str, set[str]] = {
    **{spec.name: set(spec.labels) for spec in (*COUNTERS, HOOK, LOSSES, RECONCILIATION)},
    **{spec.name + "_info": set(spec.labels) for spec in (VM_INFO, BUILD)},
    DURATION.name + "_bucket": {*DURATION.labels, "le"},
    DURATION.name + "_sum": set(DURATION.labels),
    DURATION.name + "_count": set(DURATION.labels),
    # not ours: Prometheus's own, and prometheus_client's of the process
    "up": set(),
    "process_start_time_seconds": set(),
}

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME = re.compile(r"(?<![\w$.])([A-Za-z_:][\w:]*)\b(?!\s*\()\s*(\{[^}]*\})?")
_OPERATORS = {"and", "or", "unless", "offset", "bool"}


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = load()["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def panel_expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def variable_expressions() -> Iterator[str]:
    """The selector inside each label_values()."""
    for variable in load()["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            assert variable["definition"] == query
            yield re.fullmatch(r"label_values\((.+), \w+\)", query)[1]  # type: ignore[index]


def all_expressions() -> list[str]:
    alerts = [alert.expr for alert in ALERTS]
    return [*panel_expressions(), *variable_expressions(), *alerts]


def plain(expr: str) -> str:
    """The expression with values for Grafana's variables."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression with the labels that its matchers name."""
    bare = _GROUPING.sub("", re.sub(r'"[^"]*"', "", plain(expr)))
    for name, matchers in _NAME.findall(bare):
        if name not in _OPERATORS:
            yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))


def grouping_labels(expr: str) -> set[str]:
    return {label for group in _GROUPING.findall(expr) for label in re.findall(r"\w+", group)}


def test_the_dashboard_can_be_provisioned_anywhere() -> None:
    """Fixed uid, no id of some installation, the data source chosen by a variable."""
    dashboard = load()
    assert dashboard["id"] is None
    assert dashboard["uid"] == "pinwatch-vfio"
    assert dashboard["title"] == "pinwatch: VFIO map failures"
    assert dashboard["schemaVersion"] >= 36
    assert "pinwatch" in dashboard["tags"]
    variables = {variable["name"]: variable["type"] for variable in dashboard["templating"]["list"]}
    queries = dict.fromkeys(("job", "instance", "vm"), "query")
    assert variables == {"datasource": "datasource", **queries}


def test_the_text_holds_no_address_and_no_other_data_source() -> None:
    assert "://" not in DASHBOARD.read_text()
    variables = [v for v in load()["templating"]["list"] if v["type"] == "query"]
    targets = [target for panel in panels() for target in panel["targets"]]
    for part in (*variables, *panels(), *targets):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_has_title_description_and_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].rstrip().endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]


def test_panels_have_ids_and_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    every = load()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    for place in (panel["gridPos"] for panel in every):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, place
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("expr", all_expressions())
def test_metrics_and_labels_are_those_of_the_catalogue(expr: str) -> None:
    used = list(selectors(expr))
    assert used, "no metric in it"
    assert {name for name, _ in used} <= set(METRICS)
    for name, labels in used:
        assert labels <= METRICS[name] | TARGET_LABELS, name
    had = TARGET_LABELS.union(*(METRICS[name] for name, _ in used))
    assert grouping_labels(expr) <= had


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_annotations_use_labels_that_the_alert_has(alert: Any) -> None:
    had = TARGET_LABELS.union(*(METRICS[name] for name, _ in selectors(alert.expr)))
    assert set(re.findall(r"\$labels\.(\w+)", alert.text)) <= had


@pytest.mark.parametrize("expr", panel_expressions())
def test_a_panel_follows_its_variables(expr: str) -> None:
    """Each selector is narrowed to the chosen job and host; no span is fixed."""
    assert expr.count('{job=~"$job",instance=~"$instance"') == len(list(selectors(expr)))
    spans = set(re.findall(r"(?:\[|offset )([$\w]+)", expr))
    assert spans <= {"$__rate_interval", "$__range"}


def rules(expressions: list[str]) -> str:
    """A rules file that records each expression. JSON is YAML."""
    recorded = [
        {"record": f"test:expression:{n}", "expr": plain(expr)}
        for n, expr in enumerate(expressions)
    ]
    return json.dumps({"groups": [{"name": "test", "rules": recorded}]})


def test_promtool_parses_every_expression(tmp_path: Path) -> None:
    expressions = [*panel_expressions(), *variable_expressions()]
    assert len(expressions) > 15
    path = tmp_path / "rules.yaml"
    path.write_text(rules(expressions))
    done = promtool("check", "rules", "--lint=none", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(expressions)} rules found" in done.stdout


def test_the_stat_counts_a_failure_that_comes_as_a_new_series(tmp_path: Path) -> None:
    """A VM that fails in its first map; beside it one that was there before and fails twice."""
    stat = next(panel for panel in panels() if panel["type"] == "stat")
    labels = 'job="pinwatch", instance="h1", vm="web-01", errno="ENOMEM"'
    series = {"reason_a": "_x70 1x20", "reason_b": "0x70 2x20"}
    case = {
        "interval": "1m",
        "input_series": [
            {"series": f'{COUNTERS[3].name}{{{labels}, reason="{reason}"}}', "values": values}
            for reason, values in series.items()
        ],
        "promql_expr_test": [
            {"expr": plain(stat["targets"][0]["expr"]), "eval_time": time,
             "exp_samples": [{"labels": "{}", "value": value}]}
            for time, value in (("60m", 0), ("75m", 3))
        ],
    }  # fmt: skip
    path = tmp_path / "test.yaml"
    path.write_text(json.dumps({"tests": [case]}))
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
