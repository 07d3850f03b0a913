"""More failures than any host should see: all are counted, or it is counted that they are not."""

from __future__ import annotations

import pytest

from tests.lab.conftest import LabRun, Observed, in_guest

pytestmark = [pytest.mark.full, in_guest("storm", "6.12")]
DAEMON_SHARE = 0.6  # of one CPU, while everything fails as fast as it can: half for the records


# By these no failure is lost: the second alert about losses has them.
KEEPING_COUNT = ("vm_evidence", "placement", "hints_full", "history", "recording")


def losses(metrics: dict[str, float]) -> float:
    """Those by which a failure may not be counted."""
    others = {f'pinwatch_losses_total{{kind="{kind}"}}' for kind in KEEPING_COUNT}
    return sum(
        n
        for series, n in metrics.items()
        if series.startswith("pinwatch_losses_total{") and series not in others
    )


def test_ten_thousand_failing_maps(run: LabRun) -> None:
    seen = run.result("maps")
    assert seen["failed"] == seen["maps"] == 10_000
    counted = Observed({}, seen["metrics"], {}, {}, []).total("pinwatch_vfio_map_failures_total")
    assert counted + losses(seen["metrics"]) == seen["failed"]
    pins = 'pinwatch_longterm_pins_total{source="vfio_type1",vm="~host"}'
    assert seen["metrics"][pins] == seen["vmstat"]["pgmigrate_fail"] == seen["failed"]
    assert seen["daemon_cpu_share"] < DAEMON_SHARE
    assert seen["memory"]["rss_kib"] < 60 * 1024


def test_a_million_pages_that_compaction_cannot_move(run: LabRun) -> None:
    seen = run.result("compaction")
    assert seen["failed"] >= 1_000_000
    series = 'pinwatch_host_migrations_total{migrate_reason="compaction",result="failed"}'
    assert seen["metrics"][series] == seen["vmstat"]["pgmigrate_fail"]
    assert losses(seen["metrics"]) == 0
    assert seen["daemon_cpu_share"] < seen["idle_cpu_share"] + 0.1
