"""The configurations that docs/fleet.md shows are accepted, and say what the page says of them."""

from __future__ import annotations

import json
import re
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from pinwatch.expose import log
from tests.monitoring import snippets
from tests.monitoring.queries import of_panels
from tests.monitoring.servers import prometheus, wait_for
from tests.monitoring.watching import routing
from tests.unit import make
from tests.unit.test_alerts import ALERTS, promtool
from tests.unit.test_dashboards import METRICS, recorded_labels, selectors

OF_PROMETHEUS = ("scrape", "federation", "remote-write", "thanos")
OF_RULES = "missing"
OF_LOGS = ("alloy", "promtail", "otel")
OF_PODS = "alloy-pods"
_ROW = re.compile(r"^\| `(pinwatch_\S+)` \| ([^|]+) \| (.+) \|$", re.MULTILINE)
_PANEL = re.compile(r"(Host|VM): ([^;]+)")


def test_these_are_all() -> None:
    assert set(snippets.blocks()) == {*OF_PROMETHEUS, OF_RULES, *OF_LOGS, OF_PODS}


@pytest.mark.parametrize("name", OF_PROMETHEUS)
def test_promtool_accepts_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yaml"
    path.write_text(snippets.configuration(name))
    done = promtool("check", "config", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_of_two_replicas_is_one(tmp_path: Path) -> None:
    """With the real servers; without the relabeling it is two."""
    said = yaml.safe_load(snippets.configuration("thanos"))
    rules = tmp_path / "rules.yaml"
    rules.write_text("groups: [{name: x, rules: [{alert: Always, expr: vector(1)}]}]")
    with ExitStack() as stack:
        watch = stack.enter_context(routing(tmp_path / "manager", "1s"))
        to = [{"static_configs": [{"targets": [watch.url.removeprefix("http://")]}]}]
        for replica in "ab":
            labels = {**said["global"]["external_labels"], "replica": replica}
            config = {
                "global": {"external_labels": labels, "evaluation_interval": "1s"},
                "alerting": {**said["alerting"], "alertmanagers": to},
                "rule_files": [str(rules)],
            }
            (tmp_path / replica).mkdir()
            url = stack.enter_context(prometheus(tmp_path / replica, config, RESEND))
            wait_for(lambda url=url: sent(url), "no alert is sent")
        alerts = asked(f"{watch.url}/api/v2/alerts")
    assert [alert["labels"] for alert in alerts] == [{"alertname": "Always", "shard": "rack-1"}]


RESEND = "--rules.alert.resend-delay=1s"  # the first comes before the Alertmanager is known


def asked(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def sent(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return bool(re.search(r"^prometheus_notifications_sent_total\S+ [1-9]", text, re.M))


_DAEMON_SET = '{namespace="pinwatch", daemonset="pinwatch"}'
_LABELS = {"namespace": "pinwatch", "daemonset": "pinwatch", "severity": "warning"}


def test_a_host_that_is_no_target_raises_its_alert(tmp_path: Path) -> None:
    """promtool evaluates the rules: a node lacks its pod for a while, a host leaves."""
    (tmp_path / "rules.yaml").write_text(snippets.configuration(OF_RULES))
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", tmp_path / "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr

    def at(minutes: int, alert: str, *labels: dict[str, str]) -> dict[str, Any]:
        return {"eval_time": f"{minutes}m", "alertname": alert,
                "exp_alerts": [{"exp_labels": one, "exp_annotations": filled_in(alert)}
                               for one in labels]}  # fmt: skip

    pods, gone = "PinwatchPodsMissing", "PinwatchTargetGone"
    left = {"job": "pinwatch", "instance": "host-2", "severity": "warning"}
    case = {
        "interval": "1m",
        "input_series": [
            {"series": "kube_daemonset_status_desired_number_scheduled" + _DAEMON_SET,
             "values": "3x300"},
            {"series": "kube_daemonset_status_number_ready" + _DAEMON_SET,
             "values": "3x10 2x59 3x60 _x100"},
            {"series": 'up{job="pinwatch", instance="host-1"}', "values": "1x300"},
            {"series": 'up{job="pinwatch", instance="host-2"}', "values": "0x100 stale"},
        ],
        "alert_rule_test": [
            at(5, pods), at(35, pods), at(45, pods, _LABELS), at(75, pods),
            at(90, gone), at(105, gone), at(120, gone, left), at(175, gone),
            at(180, pods, _LABELS),
        ],
    }  # fmt: skip
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [case]}))
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def filled_in(alert: str) -> dict[str, str]:
    """As the page has them, filled in."""
    (group,) = yaml.safe_load(snippets.configuration(OF_RULES))["groups"]
    (rule,) = (rule for rule in group["rules"] if rule["alert"] == alert)
    return {
        name: text.replace("{{ $value }}", "1").replace("{{ $labels.instance }}", "host-2")
        for name, text in rule["annotations"].items()
    }


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
