"""An alert on its way: scraped, evaluated, sent, routed and written for a person to read."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from pinwatch.expose import exposition
from pinwatch.model.snapshot import Counters, Snapshot
from tests.lab.tools import tool
from tests.monitoring import history
from tests.monitoring.fleet import scraping
from tests.monitoring.queries import SHIPPED
from tests.monitoring.servers import Mailbox, alertmanager, mailbox, prometheus, wait_for
from tests.unit import make

EXAMPLE = SHIPPED / "alertmanager/alertmanager.example.yaml"
TEMPLATE = EXAMPLE.with_name("pinwatch.tmpl")
VM = 'web "01"\n{{ .Evil }}'  # hostile: a name is anybody's text
RUNBOOK = "https://pinwatch.example/runbooks/PinwatchVfioMapFailed.md"


def test_amtool_accepts_the_example() -> None:
    done = subprocess.run(
        [tool("amtool"), "check-config", EXAMPLE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 templates" in done.stdout


def routing(post_to: str) -> dict[str, Any]:
    """The example, with short waits and all receivers on this machine."""
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        for slack in receiver.get("slack_configs", ()):
            slack["api_url"] = f"{post_to}/{receiver['name']}"
    return config


def sending(target: str, to: str) -> dict[str, Any]:
    """Scrapes a pinwatch, and sends alerts to an Alertmanager."""
    managers = [{"static_configs": [{"targets": [to.removeprefix("http://")]}]}]
    return {**scraping(target), "alerting": {"alertmanagers": managers}}


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


def messages(box: Mailbox, path: str, part: str) -> list[str]:
    return [m["attachments"][0][part] for m in box.posted.get(path, ())]


def test_a_failed_map_reaches_a_person(tmp_path: Path) -> None:
    with mailbox() as (url, box):
        started = time.time() - 10
        box.pages["/metrics"] = page(failing(0), started)
        with (
            alertmanager(tmp_path, routing(url), TEMPLATE) as to,
            prometheus(tmp_path, sending(url, to)),
        ):
            time.sleep(3)
            assert "/pager" not in box.posted
            box.pages["/metrics"] = page(failing(1), started)
            wait_for(lambda: messages(box, "/pager", "title"), "no message comes")
            title = messages(box, "/pager", "title")[0]
            text = messages(box, "/pager", "text")[0]
    assert title == f"[CRITICAL] VM {VM}: VFIO map failed with ENOMEM (extra_ref_plain)"
    assert f"VM {VM} asked VFIO to pin memory for a device" in text
    assert f"Runbook: {RUNBOOK}\n" in text
    instance = url.removeprefix("http://").replace(":", "%3A")
    assert (
        "Dashboard: https://grafana.example/d/pinwatch-vm?var-job=pinwatch"
        f"&var-instance={instance}&var-vm=web+%2201%22%0A%7B%7B+.Evil+%7D%7D" in text
    )
