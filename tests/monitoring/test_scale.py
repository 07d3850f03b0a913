"""Ten minutes of a small fleet, six times as fast as they pass.

The failures that were put in are those that the fleet dashboard shows, here and where it is
federated to, and without the series that docs/fleet.md drops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from pinwatch.expose.exposition import TEXT
from tests.monitoring import scaled
from tests.monitoring.queries import Prometheus, Query
from tests.monitoring.scaled import Watched
from tests.monitoring.servers import wait_for
from tests.monitoring.serving import serving
from tests.monitoring.simulated import FAILS_AT_S, Host, Shape

# The rules look at a minute when it is 15 s old, and a host answers 8 s late. What is left is the
# machine's: 1.2 s; a busy one was seen to take 0.7 s for an answer.
SHAPE = Shape(hosts=10, vms=5, speed=6)
MINUTES = 9.5  # failures end in the eighth
OWN, OF_A_VM, OF_REASONS = 768, 80, 46  # series, without those that Prometheus adds
ADDED = ("up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added",
         "scrape_samples_post_metric_relabeling")  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    home = tmp_path_factory.mktemp("scaled")
    with serving(SHAPE) as served, scaled.watched(served, home, drop=scaled.dropped()) as running:
        scaled.settle(running, MINUTES)
        wait_for(lambda: down_is_told(running), "the dead host has no alert")
        yield running


def down_is_told(running: Watched) -> bool:
    """The last that comes, and last where it is federated to."""
    return bool(scaled.fired(running.asking(running.far), "PinwatchDown"))


@pytest.fixture(params=["near", "far"])
def asking(watched: Watched, request: pytest.FixtureRequest) -> Prometheus:
    return watched.asking(getattr(watched, request.param))


def test_failures_shown_are_those_that_happened(watched: Watched, asking: Prometheus) -> None:
    happened = scaled.failures_put_in(watched.served.said())
    assert sum(happened.values()) == 2 * len(FAILS_AT_S)
    assert scaled.failures_shown(asking) == happened
    assert scaled.failures_recorded(asking) == sum(happened.values())


def test_alerts_fire_for_the_hosts_that_failed_and_for_the_dead_one(
    watched: Watched, asking: Prometheus
) -> None:
    assert scaled.fired(asking) == {"compute-0003", "compute-0008"}
    assert scaled.fired(asking, "PinwatchDown") == set(watched.served.said()["dead"])
    assert watched.served.said()["dead"] == ["compute-0005"]
    (query,) = (q for q in scaled.of_board("pinwatch-fleet") if "Hosts not watched" in q.where)
    assert asking.value(query.expr) == 1


@pytest.mark.parametrize("query", scaled.of_board("pinwatch-fleet"), ids=lambda query: query.where)
def test_the_fleet_dashboard_is_answered(asking: Prometheus, query: Query) -> None:
    assert asking.ask(query)


def test_series_are_as_many_as_the_page_says(watched: Watched) -> None:
    of_vms, own = scaled.series_of(watched.asking(watched.near), "compute-0000")
    assert sum(of_vms.values()) == SHAPE.vms * (OF_A_VM - OF_REASONS)
    added = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added",
             "scrape_samples_post_metric_relabeling"}  # fmt: skip
    assert sum(own.values()) - len(own.keys() & added) == OWN
    assert watched.asking(watched.near).value('up{instance="compute-0000"}') == 1


def test_a_host_stays_below_the_limits() -> None:
    """With 300 VMs, each with some failures, and nothing dropped."""
    assert scaled.limits()["sample_limit"] > OWN + 300 * (OF_A_VM + 15)
    counted = _counted(vms=7) - _counted(vms=5)
    assert sum(counted.values()) == 2 * OF_A_VM
    assert counted["pinwatch_vfio_map_failures_total"] == 2 * OF_REASONS
    assert sum(_counted(vms=5).values()) == OWN + 5 * OF_A_VM


def _counted(vms: int) -> Counter[str]:
    """Series of an idle host, by metric."""
    text = Host(0, Shape(1, vms), began_s=1_790_000_000).answer(1_790_000_030, TEXT)
    assert text
    lines = (line for line in text.decode().splitlines() if not line.startswith("#"))
    return Counter(line.partition("{")[0].partition(" ")[0] for line in lines)
