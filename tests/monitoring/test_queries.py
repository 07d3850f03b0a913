"""What every panel, variable, rule and alert asks gets an answer from a real Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.monitoring import history
from tests.monitoring.fleet import deserted
from tests.monitoring.queries import (
    BOARDS,
    FAILURES,
    Prometheus,
    Query,
    Series,
    everything,
    of_annotations,
    of_panels,
    plain,
)

# Where nothing is the right answer, and why.
MAY_BE_EMPTY: dict[str, str] = {}
HOSTS = {*history.REPLAYED, history.BAD_HOST}  # that answer

each_panel = pytest.mark.parametrize("query", list(of_panels()), ids=lambda query: query.where)


def panel(where: str) -> Query:
    """That of "BOARD / TITLE / TARGET"; a graph may have the same title as a number."""
    (query,) = (q for q in of_panels() if q.where == where and not q.ranged)
    return query


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
    assert not [query.where for query in counts if query.where.startswith("pinwatch-vm")]
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


@each_panel
def test_no_panel_counts_what_is_not_ours(fleet: Prometheus, query: Query) -> None:
    """`up`, `process_...` and `scrape_...` are there of each target of that Prometheus."""
    found = fleet.ask(query)
    assert found == fleet.ask(query, job="pinwatch")
    assert not {row["metric"].get("instance") for row in found} & (history.FOREIGN.keys() - HOSTS)


def test_what_is_not_ours_cannot_be_chosen(fleet: Prometheus) -> None:
    foreign = fleet.ask(Query("", f'up{{job="{history.FOREIGN_JOB}"}}'))
    assert {row["metric"]["instance"] for row in foreign} == history.FOREIGN.keys()
    assert fleet.options("pinwatch-fleet", "job") == ["pinwatch"]
    assert set(fleet.options("pinwatch-host", "instance")) == HOSTS
    assert "x" not in fleet.options("pinwatch-vm", "vm")
    assert fleet.value(panel("pinwatch-fleet / Hosts watched / A").expr) == len(HOSTS)
    assert fleet.value(panel("pinwatch-fleet / Hosts not watched / A").expr) == 1
    assert fleet.value(panel("pinwatch-itself / Hosts not watched / A").expr) == 1


@pytest.fixture(scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with deserted(tmp_path_factory.mktemp("deserted")) as running:
        yield running


@pytest.mark.parametrize("uid", [path.stem for path in BOARDS])
def test_a_fleet_without_any_pinwatch_is_not_green(nobody: Prometheus, uid: str) -> None:
    """The one alert has no host, and Grafana offers none; one may be chosen from before."""
    assert nobody.options(uid, "instance") == []
    chosen = {"pinwatch-host": {"instance": "gone"}, "pinwatch-vm": {"vm": "gone"}}.get(uid, {})
    asked = [*of_annotations(), *(q for q in of_panels() if "/ Firing alerts /" in q.where)]
    of_board = [query for query in asked if query.where.startswith(f"{uid} / ")]
    assert len(of_board) == (1 if uid == "pinwatch-vm" else 2)
    for query in of_board:
        (alert,) = nobody.ask(query, **chosen)
        assert alert["metric"]["alertname"] == "PinwatchDown", query.where
    assert nobody.value(panel("pinwatch-fleet / Hosts watched / A").expr) == 0


def test_a_host_is_shown_alone(fleet: Prometheus) -> None:
    """And not the buckets of all."""
    for query in of_panels():
        if query.where.startswith("pinwatch-host"):
            for host in fleet.options("pinwatch-host", "instance"):
                shown = {
                    row["metric"].get("instance", host) for row in fleet.ask(query, instance=host)
                }
                assert shown <= {host}, query.where


def of_vms() -> list[Query]:
    return [query for query in of_panels() if query.where.startswith("pinwatch-vm / ")]


def by_labels(found: list[Series]) -> dict[Any, Series]:
    return {tuple(sorted(row["metric"].items())): row for row in found}


def test_vms_of_one_name_on_several_hosts_stay_apart(fleet: Prometheus) -> None:
    where = Query("", "count by (vm) (group by (vm, instance) (pinwatch_longterm_pins_total)) > 1")
    names = [row["metric"]["vm"] for row in fleet.ask(where)]
    assert names
    answered = 0
    for name in names:
        for query in of_vms():
            together = fleet.ask(query, vm=name)
            each = [row for host in HOSTS for row in fleet.ask(query, vm=name, instance=host)]
            assert by_labels(together) == by_labels(each), query.where
            assert all("instance" in row["metric"] for row in together), query.where
            answered += len({row["metric"]["instance"] for row in together}) > 1
    assert answered > 10


def test_a_vm_that_is_known_has_0_failures(fleet: Prometheus) -> None:
    """And not "no data"."""
    for title in ("Failed pins", "Slow pins", "Stuck pins"):
        (only,) = fleet.ask(panel(f"pinwatch-vm / {title} / A"), vm="db-01")
        assert float(only["value"][1]) == 0
        assert fleet.ask(panel(f"pinwatch-vm / {title} / A"), vm="no-such-vm") == []


def test_a_dashboard_follows_its_variables(fleet: Prometheus) -> None:
    query = panel("pinwatch-vm / Headroom / A")
    least = {vm: fleet.ask(query, vm=vm)[0]["value"][1] for vm in ("web-01", "db-01")}
    assert float(least["web-01"]) < float(least["db-01"]) < 0
    assert fleet.ask(query, vm="no-such-vm") == []


def test_every_dashboard_is_asked() -> None:
    assert {path.stem for path in BOARDS} == {
        "pinwatch-fleet", "pinwatch-host", "pinwatch-vm", "pinwatch-itself",
    }  # fmt: skip
    assert len(everything()) > 100
