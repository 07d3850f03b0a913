"""An alert on its way: scraped, evaluated, sent, routed and written for a person to read."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from pinwatch.expose import exposition
from pinwatch.model.snapshot import Counters, Snapshot
from tests.lab.tools import tool
from tests.monitoring import history
from tests.monitoring.servers import mailbox, wait_for
from tests.monitoring.watching import EXAMPLE, Watch, routing, watching
from tests.unit import make
from tests.unit.test_alerts import ALERTS

VM = 'web "01"\n{{ .Evil }}'  # hostile: a name is anybody's text
RUNBOOK = "https://pinwatch.example/runbooks/PinwatchVfioMapFailed.md"


def test_amtool_accepts_the_example() -> None:
    done = subprocess.run(
        [tool("amtool"), "check-config", EXAMPLE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 templates" in done.stdout


def test_what_is_about_pinwatch_itself_has_a_route_of_its_own() -> None:
    """Those whose dashboard is that of pinwatch itself."""
    *_, route = yaml.safe_load(EXAMPLE.read_text())["route"]["routes"]
    assert route["group_by"] == ["alertname"]
    (matcher,) = route["matchers"]
    (pattern,) = re.findall(r'^alertname=~"(.+)"$', matcher)
    itself = {a.name for a in ALERTS if "/d/pinwatch-itself?" in a.annotations["dashboard_url"]}
    assert {a.name for a in ALERTS if re.fullmatch(pattern, a.name)} == itself


def send(watch: Watch, alert: str, severity: str, *hosts: str, ends: bool = False) -> None:
    """As a Prometheus does: alerts of these hosts, all at once."""
    end = {"endsAt": datetime.now(UTC).isoformat()} if ends else {}
    alerts = [
        {
            "labels": {"alertname": alert, "severity": severity, "job": "pinwatch",
                       "instance": host},
            "annotations": {"summary": f"{alert} of {host}", "description": f"what of {host}",
                            "runbook_url": "RUNBOOK", "dashboard_url": f"BOARD-{host}"},
            **end,
        }
        for host in hosts
    ]  # fmt: skip
    request = urllib.request.Request(
        f"{watch.url}/api/v2/alerts", json.dumps(alerts).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def test_a_lost_route_is_one_message_and_what_ends_is_told_apart(tmp_path: Path) -> None:
    hosts = [f"host-{number:02}" for number in range(22)]
    with routing(tmp_path, "2s") as watch:
        send(watch, "PinwatchDown", "warning", *hosts)
        wait_for(lambda: watch.messages("team", "title"), "no message comes")
        send(watch, "PinwatchDown", "warning", *hosts[3:], ends=True)
        wait_for(lambda: len(watch.messages("team", "title")) > 1, "nothing of the end")
        send(watch, "PinwatchDown", "warning", hosts[0], hosts[1], ends=True)
        wait_for(lambda: len(watch.messages("team", "title")) > 2, "nothing of the next end")
        send(watch, "PinwatchDown", "warning", hosts[2], ends=True)
        wait_for(lambda: len(watch.messages("team", "title")) > 3, "nothing of the last end")
        titles, texts = watch.messages("team", "title"), watch.messages("team", "text")
    assert titles == [
        "[WARNING] PinwatchDown: 22 firing",
        "[WARNING] PinwatchDown: 3 firing, 19 resolved",
        "[WARNING] PinwatchDown: 1 firing, 2 resolved",
        "[resolved] PinwatchDown of host-02",
    ]
    assert told(texts[0]) == {"Firing: 22": hosts}
    assert texts[0].count("Runbook: RUNBOOK\n") == 20
    assert texts[0].endswith("PinwatchDown of host-20\nPinwatchDown of host-21\n")
    assert told(texts[1]) == {"Firing: 3": hosts[:3], "Resolved: 19": hosts[3:]}
    assert told(texts[2]) == {"Firing: 1": hosts[2:3], "Resolved: 2": hosts[:2]}
    assert texts[3] == "PinwatchDown of host-02\nDashboard: BOARD-host-02\n"


def told(text: str) -> dict[str, list[str]]:
    """Hosts below each heading."""
    parts = re.split(r"^((?:Firing|Resolved): \d+)$", text, flags=re.M)
    assert parts[0] == ""
    return {
        heading: re.findall(r"^PinwatchDown of (\S+)$", below, re.M)
        for heading, below in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_what_is_about_vms_is_a_message_a_host(tmp_path: Path) -> None:
    with routing(tmp_path, "1s") as watch:
        send(watch, "PinwatchVmAtRisk", "warning", "host-03", "host-04")
        send(watch, "PinwatchVfioMapFailed", "critical", "host-01", "host-02")
        send(watch, "PinwatchSeriesCapHit", "info", "host-01")
        wait_for(lambda: len(watch.messages("team", "title")) > 1, "too few messages")
        wait_for(lambda: len(watch.messages("pager", "title")) > 1, "too few messages")
        team, pager = watch.messages("team", "title"), watch.messages("pager", "title")
    assert sorted(team) == [f"[WARNING] PinwatchVmAtRisk of host-0{n}" for n in (3, 4)]
    assert sorted(pager) == [f"[CRITICAL] PinwatchVfioMapFailed of host-0{n}" for n in (1, 2)]


def page(snapshot: Snapshot, started: float) -> bytes:
    text = exposition.text(snapshot, make.FACTS)
    return f"{text}process_start_time_seconds {started}\n".encode()


def failing(times: int) -> Snapshot:
    """A VM whose maps have failed so often since the daemon started."""
    bad = history.bad(time.time() + 300, 0)
    failures: Counters = {
        "pinwatch_vfio_map_failures_total": {("ENOMEM", "extra_ref_plain"): float(times)},
        "pinwatch_longterm_pin_failures_total": {
            ("vfio_type1", "extra_ref_plain", "pipe"): float(times)
        },
    }
    counters = {VM: failures if times else {}}
    return replace(bad, vms=(), devices={}, outlooks={}, vm_counters=counters)


def test_a_failed_map_reaches_a_person(tmp_path: Path) -> None:
    with mailbox() as (url, pages):
        started, target = time.time() - 10, url.removeprefix("http://")
        pages.pages["/metrics"] = page(failing(0), started)
        with watching(tmp_path, target) as watch:
            time.sleep(3)
            assert not watch.messages("pager", "title")
            pages.pages["/metrics"] = page(failing(1), started)
            wait_for(lambda: watch.messages("pager", "title"), "no message comes")
            title = watch.messages("pager", "title")[0]
            text = watch.messages("pager", "text")[0]
    assert title == f"[CRITICAL] VM {VM}: VFIO map failed with ENOMEM (extra_ref_plain)"
    assert f"VM {VM} asked VFIO to pin memory for a device" in text
    assert f"Runbook: {RUNBOOK}\n" in text
    instance = target.replace(":", "%3A")
    assert (
        "Dashboard: https://grafana.example/d/pinwatch-vm?var-job=pinwatch"
        f"&var-instance={instance}&var-vm=web+%2201%22%0A%7B%7B+.Evil+%7D%7D" in text
    )
