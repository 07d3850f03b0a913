"""The dashboards: what the generator writes, valid, by the rules of Grafana's dashboard-linter, and
in the words of the metrics catalogue; alerts and rules too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.dashboard import Panel as PanelModel

from dashboards.generate import operator, texts
from dashboards.generate.parts import RUNBOOKS
from pinwatch.expose.catalogue import BUILD, CATALOGUE, DURATION, VM_DEVICE, VM_INFO
from tests.monitoring.queries import (
    BOARDS,
    RULES,
    SHIPPED,
    Query,
    board,
    everything,
    of_panels,
    of_variables,
    panels,
    plain,
    rules,
)
from tests.unit.test_alerts import ALERTS, promtool

# Names as Prometheus stores them, with their labels.
_INFO = (VM_INFO, VM_DEVICE, BUILD)
METRICS: dict[str, set[str]] = {
    **{spec.name: set(spec.labels) for spec in CATALOGUE if spec not in (*_INFO, DURATION)},
    **{spec.name + "_info": set(spec.labels) for spec in _INFO},
    **{f"{DURATION.name}_{part}": set(DURATION.labels) for part in ("sum", "count")},
    DURATION.name + "_bucket": {*DURATION.labels, "le"},
    # what history.py exports of itself
    "pinwatch_history_writable": set(),
    # not ours: Prometheus's own, and prometheus_client's of the process
    "ALERTS": {"alertname", "alertstate", "severity", "vm"},
    **dict.fromkeys(  # noqa: RUF024  - nobody changes them
        ("up", "scrape_duration_seconds", "scrape_samples_scraped", "process_start_time_seconds",
         "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"),
        set(),
    ),
}  # fmt: skip
TARGET_LABELS = {"job", "instance"}
# Counters of which the value itself is shown: what was said since the VM is known.
SHOWN_AS_THEY_ARE = {"pinwatch_vm_hints_total"}

# Dashboards of one, and the variable that says of which.
ONE_OF = {"pinwatch-host": "instance", "pinwatch-vm": "vm"}

# A heatmap and quantiles say it better; only the words of an alert ask for the errno.
NOT_SHOWN = {DURATION.name + "_sum", DURATION.name + "_count", "pinwatch_vfio_map_failures_total"}

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_EITHER = re.compile(r'\{__name__=~"([\w|]+)"[^}]*\}')
_NAME = re.compile(r"(?<![\w$.])([A-Za-z_:][\w:]*)\b(?!\s*\()\s*(\{[^}]*\})?")
_OPERATORS = {"and", "or", "unless", "offset", "bool"}

each_board = pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
each_query = pytest.mark.parametrize("query", everything(), ids=lambda query: query.where)
each_panel = pytest.mark.parametrize(
    "panel",
    [pytest.param(panel, id=f"{path.stem} / {panel['title']}")
     for path in BOARDS for panel in panels(path)],
)  # fmt: skip


def recorded_labels() -> dict[str, set[str]]:
    """The labels of recorded series, by their names' first part."""
    return {rule["record"]: set(rule["record"].split(":")[0].split("_")) for rule in rules(RULES)}


def known() -> dict[str, set[str]]:
    return {**METRICS, **recorded_labels()}


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression with the labels that its matchers name. Where one of several is
    asked for, matchers take it that some have no such label."""
    expr = _EITHER.sub(lambda found: found[1].replace("|", " or "), expr)
    bare = _GROUPING.sub("", re.sub(r'"[^"]*"', "", plain(expr)))
    for name, matchers in _NAME.findall(bare):
        if name not in _OPERATORS:
            yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))


def grouping_labels(expr: str) -> set[str]:
    return {label for group in _GROUPING.findall(expr) for label in re.findall(r"\w+", group)}


# ---- what is committed --------------------------------------------------------------------------


def test_the_files_are_what_the_generator_writes() -> None:
    wrong = [path.name for path, text in texts().items() if path.read_text() != text]
    assert not wrong, "run `make dashboards`"
    assert set(texts()) == {*BOARDS, operator.RULE}


@each_board
def test_a_dashboard_fits_the_schema(path: Path) -> None:
    """Grafana's own types read it and write the same: no field of it is unknown to them. They only
    add what is the default."""
    register_default_plugins()
    given = board(path)
    assert given.pop("id") is None
    every = given.pop("panels")
    assert within(given, Dashboard.from_json(given))
    for panel in every:
        if panel["type"] != "row":
            assert within(panel, PanelModel.from_json(panel))


def within(given: Any, read: Any) -> bool:
    """All of `given` is in what was read, also in each part of it."""
    plain_read = json.loads(json.dumps(read, cls=JSONEncoder))
    if isinstance(given, dict):
        return all(key in plain_read and within(given[key], plain_read[key]) for key in given)
    if isinstance(given, list):
        return len(given) == len(plain_read) and all(map(within, given, plain_read))
    return bool(given == plain_read)


@each_board
def test_a_dashboard_can_be_provisioned_anywhere(path: Path) -> None:
    """A fixed uid, the data source chosen by a variable, and no address but the runbooks'."""
    dashboard = board(path)
    assert dashboard["uid"] == path.stem
    assert dashboard["editable"] is False
    assert dashboard["tags"] == ["pinwatch"]
    assert set(re.findall(r'\w+://[^"/]*/\w*', path.read_text())) == {RUNBOOKS}
    variables = [v for v in dashboard["templating"]["list"] if v["type"] == "query"]
    targets = [target for panel in panels(path) for target in panel["targets"]]
    for part in (*variables, *panels(path), *targets, *dashboard["annotations"]["list"]):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_board
def test_panels_have_ids_and_places_of_their_own(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    every = board(path)["panels"]
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


@each_board
def test_the_top_answers_without_scrolling(path: Path) -> None:
    """Numbers in one line, then where; the first row title comes after them."""
    first = board(path)["panels"]
    types = [panel["type"] for panel in first]
    numbers = types.index("table")
    assert types[:numbers] == ["stat"] * (7 if path.stem == "pinwatch-fleet" else 6)
    assert {panel["gridPos"]["y"] for panel in first[:numbers]} == {0}
    assert sum(panel["gridPos"]["w"] for panel in first[:numbers]) == 24
    assert types.index("row") == numbers + 2


@each_board
def test_links_lead_to_dashboards_that_are_there(path: Path) -> None:
    linked = set(re.findall(r'"url": "/d/([\w-]+)\?', path.read_text()))
    assert linked
    assert linked <= {other.stem for other in BOARDS}


@each_board
def test_each_dashboard_leads_to_the_others(path: Path) -> None:
    """With what is chosen, but for the one where all hosts would be none."""
    *others, runbooks = board(path)["links"]
    assert runbooks["url"] == RUNBOOKS
    urls = dict(link["url"].removeprefix("/d/").split("?") for link in others)
    assert urls.keys() == {other.stem for other in BOARDS} - {path.stem}
    for uid, carried in urls.items():
        names = re.findall(r"\$\{(\w+):queryparam\}", carried)
        assert names == ["datasource", "job", "instance"][: 2 if uid == "pinwatch-host" else 3]
    assert all(link["keepTime"] for link in others)


# ---- the rules of dashboard-linter --------------------------------------------------------------


@each_board
def test_lint_variables(path: Path) -> None:
    """template-datasource, template-on-time-change-reload, and template-job, template-instance but
    for two things. All jobs are no `.+`, with which `up` would be that of every exporter. A host's
    dashboard is of one, and that of a VM: there the variable has one value, and no "all"."""
    source, *others = board(path)["templating"]["list"]
    assert (source["name"], source["type"], source["query"], source["label"]) == (
        "datasource", "datasource", "prometheus", "Data source",
    )  # fmt: skip
    names = [variable["name"] for variable in others]
    assert names == ["job", "instance", "vm"][: len(names)]
    assert len(names) == (3 if path.stem == "pinwatch-vm" else 2)
    for variable in others:
        assert variable["label"]
        assert variable["refresh"] == 2
        one = variable["name"] == ONE_OF.get(path.stem)
        assert variable["multi"] is variable["includeAll"] is not one
        assert variable.get("allValue") == (
            ".+" if variable["name"] == "instance" and not one else None
        )
        assert variable.get("current", {}).get("value") == (None if one else ["$__all"])


@each_panel
def test_lint_panel(panel: dict[str, Any]) -> None:
    """panel-title-description, panel-units, panel-no-targets."""
    assert panel["title"]
    assert panel["description"].rstrip().endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]


@pytest.mark.parametrize("query", list(of_panels()), ids=lambda query: query.where)
def test_lint_target(query: Query) -> None:
    """target-job, target-instance, target-rate-interval, and of a VM's dashboard the VM as well. A
    variable of one value is not escaped, so it must not be read as a regular expression. An alert
    may be of no host."""
    uid = query.where.split(" / ")[0]
    host = '="$instance"' if ONE_OF.get(uid) == "instance" else '=~"$instance"'
    of_no_host = query.expr.count('ALERTS{job=~"$job", instance="", ')
    assert of_no_host == query.expr.count("ALERTS{") / 2
    assert query.expr.count(f'{{job=~"$job", instance{host}') == (
        len(list(selectors(query.expr))) - of_no_host
    )
    for function, name, span in re.findall(r"(\w+)\(([\w:]+)[^()]*\[([$\w]+)\]", query.expr):
        recorded = function == "sum_over_time" and name != "up"
        assert span in {"$__range", "$__interval" if recorded else "$__rate_interval"}, function
    if uid == "pinwatch-vm":
        of_vms = [name for name, _ in selectors(query.expr) if name != "up"]
        assert query.expr.count('vm="$vm"') == len(of_vms)


@pytest.mark.parametrize("query", list(of_panels()), ids=lambda query: query.where)
def test_vms_of_one_name_are_not_added_up(query: Query) -> None:
    """Of two hosts, or of one host that it came from."""
    if query.where.startswith("pinwatch-vm"):
        aggregations = re.findall(r"\b(?:sum|min|max|count|group)\b( by \([^)]*\))?", query.expr)
        assert aggregations
        assert all("instance" in by for by in aggregations)


@pytest.mark.parametrize("query", list(of_panels()), ids=lambda query: query.where)
def test_lint_counters(query: Query) -> None:
    """target-counter-agg: a counter is never shown as it stands. A new series may stand beside its
    increase(), which does not see where that comes from; and one may give 0 by being there."""
    there = r"0 \* group by \(\w+\) \(count_over_time\(\w+\{[^}]*\}\[\$__range\]\)\)"
    beside = r"(\w+)\{[^}]*\} and count_over_time\(\1\{[^}]*\}\[\$__rate_interval\]\)\s+<"
    rest = re.sub(f"{there}|{beside}", "", query.expr)
    rest = re.sub(r"\b(?:rate|increase)\(\s*\w+\{[^}]*\}\[[$\w]+\]\s*\)", "", rest)
    left = set(re.findall(r"\b\w+_(?:total|bucket|sum|count)(?=\{)", rest))
    assert left <= SHOWN_AS_THEY_ARE


@each_panel
def test_a_graph_of_many_hosts_draws_ten(panel: dict[str, Any]) -> None:
    """500 of them are a fleet; a VM is on few."""
    for target in panel["targets"]:
        if panel["type"] == "timeseries" and "{{instance}}" in target["legendFormat"]:
            of_one_vm = 'vm="$vm"' in target["expr"]
            assert of_one_vm or re.search(r"\b(top|bottom)k\(10, ", target["expr"])


# ---- in the words of the catalogue --------------------------------------------------------------


def test_the_fleet_asks_for_no_series_of_vms() -> None:
    """What is recorded, and a few of each host: so it stays cheap, and can be federated."""
    asked = {
        name
        for query in everything()
        if query.where.startswith("pinwatch-fleet / ")
        for name, _ in selectors(query.expr)
    }
    assert {name for name in asked if ":" not in name} == {"up", "pinwatch_build_info", "ALERTS"}


@each_query
def test_metrics_and_labels_are_those_of_the_catalogue(query: Query) -> None:
    used = list(selectors(query.expr))
    assert used, "no metric in it"
    assert {name for name, _ in used} <= set(known())
    for name, labels in used:
        assert labels <= known()[name] | TARGET_LABELS, name
    had = TARGET_LABELS.union(*(known()[name] for name, _ in used))
    assert grouping_labels(query.expr) <= had


@pytest.mark.parametrize("rule", rules(RULES), ids=lambda rule: rule["record"])
def test_a_recorded_series_is_named_for_its_labels(rule: dict[str, Any]) -> None:
    """level:metric:operation; the level is its labels beside those of the target."""
    used = [name for name, _ in selectors(rule["expr"])]
    assert set(used) <= set(METRICS)
    outer = re.match(r"\w+ by \(([^)]*)\)", rule["expr"])
    left = set(re.findall(r"\w+", outer[1])) - {"job"} if outer else METRICS[used[0]]
    assert recorded_labels()[rule["record"]] == left


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_annotations_use_labels_that_the_alert_has(alert: Any) -> None:
    had = TARGET_LABELS.union(*(known()[name] for name, _ in selectors(alert.expr)))
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(alert.annotations.values())))
    assert used <= had


def test_promtool_parses_every_expression(tmp_path: Path) -> None:
    expressions = [query.expr for query in (*of_panels(), *of_variables())]
    recorded = [
        {"record": f"test:expression:{number}", "expr": plain(expr)}
        for number, expr in enumerate(expressions)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "test", "rules": recorded}]}))
    done = promtool("check", "rules", "--lint=none", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(expressions)} rules found" in done.stdout


def test_every_metric_is_shown_somewhere() -> None:
    """On a panel, or by what a recording rule makes of it."""
    used = {name for query in everything() for name, _ in selectors(query.expr)}
    used |= {name for rule in rules(RULES) for name, _ in selectors(rule["expr"])}
    ours = {name for name in METRICS if name.startswith("pinwatch_")}
    assert ours - used == NOT_SHOWN


def test_provisioning_names_files_that_exist() -> None:
    for path in (SHIPPED / "grafana/provisioning").glob("*/*.yaml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1
