"""What every panel, variable, rule and alert asks gets an answer from a real Prometheus."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.monitoring import history
from tests.monitoring.queries import (
    BOARDS,
    FAILURES,
    Prometheus,
    Query,
    everything,
    of_panels,
    plain,
)

# Where nothing is the right answer, and why.
MAY_BE_EMPTY: dict[str, str] = {}


@pytest.mark.parametrize("query", everything(), ids=lambda query: query.where)
def test_a_query_is_answered(fleet: Prometheus, query: Query) -> None:
    found = fleet.ask(query)
    assert bool(found) is (query.where not in MAY_BE_EMPTY), plain(query.expr)
    for series in found:
        numbers = [number for _, number in series.get("values") or [series["value"]]]
        assert set(numbers) != {"NaN"}, series["metric"]


def test_a_count_of_nothing_is_0(fleet: Prometheus) -> None:
    """And not "no data"."""
    counts = [query for query in of_panels() if "or vector(0)" in query.expr]
    assert len(counts) > 15
    for query in counts:
        (only,) = fleet.ask(query, instance="no-such-host")
        assert float(only["value"][1]) == 0, query.where


@pytest.mark.parametrize("instance", history.REPLAYED)
def test_the_dashboards_count_what_the_lab_saw(fleet: Prometheus, instance: str) -> None:
    """Failures by reason of a whole recording, through scrapes, the recording rule and a panel's
    query; many are the first of their kind, in series that were not there before."""
    snapshot = history.last_snapshot(history.REPLAYED[instance])
    happened = Counter(
        (f.vm.label, str(f.pin.source), str(f.reason), str(f.holder.holder))
        for f in snapshot.failures
    )
    (query,) = (q for q in of_panels() if q.where == "pinwatch-host / VMs that failed / A")
    shown = {
        tuple(row["metric"][label] for label in ("vm", "source", "reason", "holder")):
        float(row["value"][1])
        for row in fleet.ask(query, instance=instance)
    }  # fmt: skip
    assert shown == happened
    assert fleet.value(f'sum(sum_over_time({FAILURES}{{instance="{instance}"}}[1h]))') == len(
        snapshot.failures
    )


def test_a_dashboard_follows_its_variables(fleet: Prometheus) -> None:
    (query,) = (q for q in of_panels() if q.where == "pinwatch-vm / Headroom / A" and not q.ranged)
    least = {vm: fleet.ask(query, vm=vm)[0]["value"][1] for vm in ("web-01", "db-01")}
    assert float(least["web-01"]) < float(least["db-01"]) < 0
    assert fleet.ask(query, vm="no-such-vm") == []


def test_every_dashboard_is_asked() -> None:
    assert {path.stem for path in BOARDS} == {
        "pinwatch-fleet", "pinwatch-host", "pinwatch-vm", "pinwatch-itself",
    }  # fmt: skip
    assert len(everything()) > 100
