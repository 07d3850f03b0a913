"""An alert on its way: scraped, evaluated, sent, routed and written for a person to read."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

from pinwatch.expose import exposition
from pinwatch.model.snapshot import Counters, Snapshot
from tests.lab.tools import tool
from tests.monitoring import history
from tests.monitoring.servers import mailbox, wait_for
from tests.monitoring.watching import EXAMPLE, watching
from tests.unit import make

VM = 'web "01"\n{{ .Evil }}'  # hostile: a name is anybody's text
RUNBOOK = "https://pinwatch.example/runbooks/PinwatchVfioMapFailed.md"


def test_amtool_accepts_the_example() -> None:
    done = subprocess.run(
        [tool("amtool"), "check-config", EXAMPLE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 templates" in done.stdout


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
