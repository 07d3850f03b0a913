"""The alerts: promtool's word on the rules and on their tests, and a runbook for each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.generate.parts import RUNBOOKS as RUNBOOKS_URL
from pinwatch.cli import COMMANDS
from pinwatch.commands import why
from pinwatch.model.loss import LossKind
from tests.lab.tools import tool
from tests.monitoring.queries import ALERTS as ALERTS_FILE
from tests.monitoring.queries import RULES, SHIPPED, rules

ROOT = Path(__file__).resolve().parents[2]
RULE_TESTS = sorted(SHIPPED.glob("*.test.yaml"))
CASES = [case for path in RULE_TESTS for case in yaml.safe_load(path.read_text())["tests"]]
RUNBOOKS = ROOT / "docs/runbooks"
GRAFANA = "https://grafana.example"


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule, as far as the tests need it."""

    name: str
    expr: str
    severity: str
    annotations: dict[str, str]


def read_alerts() -> list[Alert]:
    return [
        Alert(rule["alert"], rule["expr"], rule["labels"]["severity"], rule["annotations"])
        for rule in rules(ALERTS_FILE)
    ]


ALERTS = read_alerts()
each_alert = pytest.mark.parametrize(
    "alert", ALERTS, ids=lambda alert: f"{alert.name}-{alert.severity}"
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool. A test fails, and is not skipped, where there is none."""
    program = os.environ.get("PROMTOOL") or shutil.which("promtool") or tool("promtool")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("path", [ALERTS_FILE, RULES], ids=lambda path: path.stem)
def test_promtool_accepts_the_rules(path: Path) -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("tests", RULE_TESTS, ids=lambda path: path.name)
def test_the_tests_of_the_rules_pass(tests: Path) -> None:
    done = promtool("test", "rules", tests)
    assert done.returncode == 0, done.stdout + done.stderr


def story(alert: Alert, case: dict[str, Any]) -> str:
    """What a case asks of an alert over time: "." is silent, "F" fires."""
    return "".join(
        "F" if any(e["exp_labels"]["severity"] == alert.severity for e in at["exp_alerts"]) else "."
        for at in case.get("alert_rule_test", ())
        if at["alertname"] == alert.name
    )


@each_alert
def test_an_alert_is_tested_to_be_silent_to_fire_and_to_recover(alert: Alert) -> None:
    stories = [story(alert, case) for case in CASES]
    assert any(re.search(r"\.F+\.", each) for each in stories), stories


@each_alert
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: Alert) -> None:
    assert alert.severity in {"critical", "warning", "info"}
    assert set(alert.annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert alert.annotations["runbook_url"] == f"{RUNBOOKS_URL}/{alert.name}.md"
    uid = re.match(rf"{GRAFANA}/d/([\w-]+)\?", alert.annotations["dashboard_url"])
    assert uid
    assert (SHIPPED / f"dashboards_out/{uid[1]}.json").exists()
    assert "{{" not in " ".join(
        re.sub(r'\{\{(?:[^{}"]|"[^"]*")*\}\}', "", t) for t in alert.annotations.values()
    )


def test_the_failure_alert_names_vm_reason_and_errno() -> None:
    (alert,) = (alert for alert in ALERTS if alert.name == "PinwatchVfioMapFailed")
    text = " ".join(alert.annotations.values())
    assert {"vm", "reason", "holder"} <= set(re.findall(r"\$labels\.(\w+)", text))
    assert ".Labels.errno" in text


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {alert.name for alert in ALERTS}


def test_the_runbook_of_losses_has_all_of_them() -> None:
    text = (RUNBOOKS / "PinwatchLosingEvents.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) - {"kind"} == set(map(str, LossKind))
    harmless = text.partition("Not so of ")[2].partition(":")[0]
    assert set(re.findall(r"`(\w+)`", harmless)) == set(map(str, why.NO_FAILURE_LOST))


def test_a_loss_is_a_warning_when_a_failure_may_be_among_it() -> None:
    for alert in ALERTS:
        if alert.name == "PinwatchLosingEvents":
            operator = {"info": "=~", "warning": "!~"}[alert.severity]
            chosen = re.findall(r'kind(=~|!~)"(.+?)"', alert.expr)
            assert len(chosen) == 2
            for how, kinds in chosen:
                assert how == operator
                assert set(kinds.split("|")) == set(map(str, why.NO_FAILURE_LOST))


def test_what_counts_failures_counts_slow_pins_too() -> None:
    """The two rules, and the two alerts of failures, are the same but for what they are of."""
    failed, slow = (rule["expr"] for rule in rules(RULES)[:2])
    said = failed.replace("pin_failures", "slow_pins").replace("reason, holder", "cause")
    assert said == slow
    vfio, others = (a.expr for a in ALERTS if a.name in ("PinwatchVfioMapFailed",
                                                          "PinwatchPinFailed"))  # fmt: skip
    assert vfio.replace('source="vfio', 'source!="vfio') == others


_SYSTEMD = re.compile(r"systemctl [a-z-]+|journalctl -[ku]")
_SHELL = re.compile(
    r"^ {4}(.+)$|`((?:cat|grep|echo|ps|iostat|virsh|journalctl|systemctl|sysctl) .+?)`"
)


def typed(text: str) -> set[str]:
    """Programs that a runbook has one type; of systemd's, with what is asked of them."""
    found = set()
    for line in text.splitlines():
        for block, inline in _SHELL.findall(line):
            command = re.sub(r"'[^']*'", "''", block or inline)
            found |= set(_SYSTEMD.findall(command))
            found |= {part.split()[0] for part in re.split(r"[|;]|\$\(", command)}
    return found - {"systemctl", "journalctl"}


def test_all_that_runbooks_have_one_type_is_translated_for_a_cluster() -> None:
    asked = set().union(*(typed(path.read_text()) for path in RUNBOOKS.glob("*.md")))
    assert {"pinwatch", "curl", "virsh", "iostat", "journalctl -k", "systemctl edit"} <= asked
    section = (ROOT / "docs/deploy.md").read_text().partition("| in a runbook |")[2]
    table = section.partition("\n\n")[0]
    rows = " ".join(re.findall(r"^\| (.*?) \| ", table, re.M))
    assert {one for one in asked if not re.search(rf"[`(]{one}\b", rows)} - {"head"} == set()


@pytest.mark.parametrize("path", sorted(RUNBOOKS.glob("*.md")), ids=lambda path: path.stem)
def test_a_runbook_has_its_parts_and_names_commands_that_exist(path: Path) -> None:
    text = path.read_text()
    headings = re.findall(r"^#+ .*$", text, re.M)
    parts = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
    assert headings == [f"# {path.stem}", *parts]
    commands = set(re.findall(r"(?:`|^ {4})pinwatch (\w+)", text, re.M))
    assert commands
    assert commands <= set(COMMANDS)
    linked = re.findall(r"\]\(([^)#:]+)", text)
    assert all((path.parent / link).exists() for link in linked), linked
    assert "../deploy.md" in linked, "what to type in a cluster"
    assert "curl" not in typed(text) or path.stem == "PinwatchDown", "`pinwatch metrics`"
