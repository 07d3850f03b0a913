"""The alerts: promtool's word on the rules and on their tests, and a runbook for each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pinwatch.cli import COMMANDS
from tests.lab.archive import cache_dir

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "dashboards/prometheus/pinwatch-alerts.yaml"
RULE_TESTS = ROOT / "dashboards/prometheus/pinwatch-alerts.test.yaml"
RECORDING_RULES = ROOT / "dashboards/prometheus/pinwatch-rules.yaml"
RUNBOOKS = ROOT / "docs/runbooks"


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule, as far as the tests need it: its text, and its expression."""

    name: str
    text: str

    @property
    def expr(self) -> str:
        return self.found(r"^ {8}expr: \|\n((?: {10}.*\n)+)")

    @property
    def runbook_url(self) -> str:
        return self.found(r"^ {10}runbook_url: (\S+)$")

    def found(self, pattern: str) -> str:
        """The one match."""
        matches: list[str] = re.findall(pattern, self.text, re.M)
        assert len(matches) == 1, f"{self.name}: {pattern} matches {matches}"
        return matches[0]


def read_alerts() -> list[Alert]:
    """Read by lines, as no YAML reader is among what pinwatch needs; promtool counts them too."""
    rule = re.compile(r"^ {6}- alert: (\w+)\n((?: {8}.*\n|\n)*)", re.M)
    return [Alert(name, text) for name, text in rule.findall(RULES.read_text())]


ALERTS = read_alerts()
each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool. A test fails, and is not skipped, where there is none."""
    program = os.environ.get("PROMTOOL") or shutil.which("promtool") or _unpacked_promtool()
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def _unpacked_promtool() -> str:
    found = sorted(cache_dir().glob("**/usr/bin/promtool"))
    if not found:
        pytest.fail(f"no promtool in $PROMTOOL, on PATH or below {cache_dir()}: run `make setup`")
    return str(found[-1])


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(ALERTS)} rules found" in done.stdout


def test_promtool_accepts_the_recording_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RECORDING_RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("tests", sorted(RULES.parent.glob("*.test.yaml")), ids=lambda t: t.name)
def test_the_tests_of_the_rules_pass(tests: Path) -> None:
    done = promtool("test", "rules", tests)
    assert done.returncode == 0, done.stdout + done.stderr


@each_alert
def test_an_alert_is_tested_to_be_silent_to_fire_and_to_recover(alert: Alert) -> None:
    stories = [
        "".join(
            "." if silent else "F"
            for silent in re.findall(
                rf"- alertname: {alert.name}\n +eval_time: \w+\n +exp_alerts:( \[\])?", case
            )
        )
        for case in RULE_TESTS.read_text().split("\n  - name: ")
    ]
    assert any(re.search(r"\.F+\.", story) for story in stories), stories


@each_alert
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: Alert) -> None:
    assert alert.found(r"^ {10}severity: (\w+)$") in {"critical", "warning", "info"}
    for annotation in ("summary", "description"):
        assert alert.found(rf"^ {{10}}{annotation}: (.+)$")
    assert alert.runbook_url.endswith(f"/{alert.name}.md")


def test_the_failure_alert_names_vm_reason_and_errno() -> None:
    text = next(alert for alert in ALERTS if alert.name == "PinwatchVfioMapFailed").text
    assert {"vm", "reason", "errno"} <= set(re.findall(r"\$labels\.(\w+)", text))


def test_runbook_urls_have_one_base() -> None:
    assert len({alert.runbook_url.rpartition("/")[0] for alert in ALERTS}) == 1


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {alert.name for alert in ALERTS}


@pytest.mark.parametrize("path", sorted(RUNBOOKS.glob("*.md")), ids=lambda path: path.stem)
def test_a_runbook_has_its_parts_and_names_commands_that_exist(path: Path) -> None:
    text = path.read_text()
    headings = re.findall(r"^#+ .*$", text, re.M)
    parts = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
    assert headings == [f"# {path.stem}", *parts]
    commands = set(re.findall(r"(?:`|^ {4})pinwatch (\w+)", text, re.M))
    assert commands
    assert commands <= set(COMMANDS)
