"""The configurations that docs/fleet.md shows are accepted, and say what the page says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pinwatch.expose import log
from tests.monitoring import snippets
from tests.monitoring.queries import of_panels
from tests.unit import make
from tests.unit.test_alerts import ALERTS, promtool
from tests.unit.test_dashboards import METRICS, recorded_labels, selectors

OF_PROMETHEUS = ("scrape", "federation", "remote-write", "thanos")
OF_LOGS = ("alloy", "promtail", "otel")
OF_PODS = "alloy-pods"
_ROW = re.compile(r"^\| `(pinwatch_\S+)` \| ([^|]+) \| (.+) \|$", re.MULTILINE)
_PANEL = re.compile(r"(Host|VM): ([^;]+)")


def test_these_are_all() -> None:
    assert set(snippets.blocks()) == {*OF_PROMETHEUS, *OF_LOGS, OF_PODS}


@pytest.mark.parametrize("name", OF_PROMETHEUS)
def test_promtool_accepts_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yaml"
    path.write_text(snippets.configuration(name))
    done = promtool("check", "config", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_federated_is_what_the_fleet_asks_for() -> None:
    (job,) = yaml.safe_load(snippets.configuration("federation"))["scrape_configs"]
    (recorded, *others) = job["params"]["match[]"]
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', recorded)
    assert all(re.fullmatch(pattern, name) for name in recorded_labels())
    named = {re.match(r"\w+", other)[0] for other in others}  # type: ignore[index]
    asked = {
        name
        for query in of_panels()
        if query.where.startswith("pinwatch-fleet / ")
        for name, _ in selectors(query.expr)
    }
    assert {name for name in asked if not re.fullmatch(pattern, name)} <= named


def test_what_is_written_far_away_is_recorded_or_counts_failures() -> None:
    (remote,) = yaml.safe_load(snippets.configuration("remote-write"))["remote_write"]
    (keep,) = remote["write_relabel_configs"]
    assert keep["source_labels"] == ["__name__", "job"]
    kept = {name for name in (*METRICS, *recorded_labels())
            if re.fullmatch(keep["regex"], f"{name};pinwatch")}  # fmt: skip
    assert kept == {
        *recorded_labels(), "ALERTS", "up", "pinwatch_build_info", "process_start_time_seconds",
        "pinwatch_longterm_pin_failures_total", "pinwatch_longterm_slow_pins_total",
    }  # fmt: skip
    assert not re.fullmatch(keep["regex"], "up;node")
    assert all(re.fullmatch(keep["regex"], f"{name};") for name in recorded_labels())  # no job


@pytest.mark.parametrize(
    ("pattern", "lost"),
    [(row[0].replace("\\|", "|"), row[2]) for row in _ROW.findall(snippets.PAGE.read_text())],
)
def test_what_is_dropped_empties_what_the_page_says(pattern: str, lost: str) -> None:
    dropped = {name for name in METRICS if re.fullmatch(pattern, name)}
    assert dropped
    empty = {
        tuple(query.where.split(" / ")[:2])
        for query in of_panels()
        if dropped & {name for name, _ in selectors(query.expr)}
    }
    boards = {"Host": "pinwatch-host", "VM": "pinwatch-vm"}
    said = {(boards[board], panel) for board, panels in _PANEL.findall(lost)
            for panel in _titles(boards[board], panels)}  # fmt: skip
    assert said == empty
    assert not any(dropped & {name for name, _ in selectors(alert.expr)} for alert in ALERTS)


def _titles(uid: str, listed: str) -> list[str]:
    """Of a list whose titles may have commas themselves."""
    every = {query.where.split(" / ")[1] for query in of_panels() if query.where.startswith(uid)}
    found = [title for title in every if title in listed]
    assert len("".join(found)) + 2 * (len(found) - 1) == len(listed)
    return found


def _fields() -> set[str]:
    """That pinwatch writes to the journal, without what they begin with."""
    lines = (log.failed(make.failure()), log.slow(make.slow_pin()))
    return {name.removeprefix("PINWATCH_") for line in lines for name in line.fields}


@pytest.mark.parametrize("name", OF_LOGS)
def test_a_configuration_for_logs_names_fields_that_there_are(name: str) -> None:
    text = snippets.configuration(name)
    named = set(re.findall(r"PINWATCH_(\w+)", text))
    for group in re.findall(r"__journal_pinwatch_\(([^)]*)\)", text):
        named |= {field.upper() for field in group.split("|")}
    assert {"EVENT", "VM", "REASON", "SOURCE"} <= named <= _fields()


def test_text_of_a_pod_is_taken_apart() -> None:
    (written,) = re.findall(r'expression = "(.*)"', snippets.configuration(OF_PODS))
    pattern = re.compile(written.replace("\\\\", "\\"))
    failed, slow = make.failure(), make.slow_pin()
    for line, parts in (
        (log.failed(failed), (str(failed.reason), str(failed.holder.holder), failed.id)),
        (log.slow(slow), (str(slow.cause), None, slow.id)),
    ):
        found = pattern.search(f"pinwatch: {line.text}")
        assert found is not None, line.text
        assert found.group("reason", "holder", "event") == parts


@pytest.mark.parametrize("name", ["promtail", "otel"])
def test_it_is_yaml(name: str) -> None:
    assert isinstance(yaml.safe_load(snippets.configuration(name)), dict)


def test_only_what_is_bounded_is_a_label_of_loki() -> None:
    """Reason and source stay labels; all else becomes structured metadata."""
    promtail = yaml.safe_load(snippets.configuration("promtail"))["scrape_configs"][0]
    (stage,) = promtail["pipeline_stages"]
    (mapped,) = (r for r in promtail["relabel_configs"] if r.get("action") == "labelmap")
    labels = set(re.findall(r"\(([^)]*)\)", mapped["regex"])[0].split("|"))
    assert labels - set(stage["structured_metadata"]) == {"reason", "source"}
    (values,) = re.findall(r"values = \{([^}]*)\}", snippets.configuration("alloy"))
    assert set(re.findall(r"(\w+) =", values)) == set(stage["structured_metadata"])
