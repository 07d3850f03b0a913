"""What an operator's Prometheus and Alertmanager make of failures that happen in a guest.

They scrape the running daemon from outside, with all shipped rules and alerts, while the scenarios
of test_scenarios.py run.
"""

from __future__ import annotations

import subprocess
from collections import Counter

import pytest

from pinwatch.expose.catalogue import LOSSES, SLOW_PINS, VFIO_MAP_FAILURES, VM_COUNTERS, VM_INFO
from pinwatch.expose.metrics import EVENT_ID
from tests.lab.conftest import WATCHED, LabRun, in_guest
from tests.lab.inside.scenarios import METRICS
from tests.lab.test_scenarios import cma, plain
from tests.lab.tools import tool
from tests.lab.watched import Samples, Watched, scraped
from tests.monitoring.queries import of_alerts, of_annotations, of_panels, of_rules, of_variables

each_run = pytest.mark.parametrize("run", sorted(WATCHED), ids="-".join, indirect=True)
fragmented = in_guest("fragmented", "7.2")

# What the plain guest may lack, or is too short for (one rule runs each 5 minutes); other guests,
# and the replayed fleet of tests/monitoring, have it.
MAY_LACK = {
    "rule hint_timing:pinwatch_migrated_per_pinned_page:ratio_rate1h",
    "pinwatch-host / CMA allocation failures / A",
    "pinwatch-host / CMA areas / A",
    "pinwatch-vm / Refused splits of huge pages / A",
    "rule instance:pinwatch_longterm_pins_stuck:sum",
    "pinwatch-fleet / Slow pins / A",
    "pinwatch-host / Slow pins by cause / A",
    "rule vm_source_cause:pinwatch_longterm_slow_pins:increase1m",
    # nothing is shown where there is nothing to tell
    "pinwatch-itself / Losses / A",
    "pinwatch-itself / Difference from the kernel's own counters / A",
    *(f"pinwatch-itself / Searches for VMs, and requests without an answer / {at}" for at in "ABC"),
}
LABELS = ("vm", "source", "reason", "holder")


def of(run: LabRun) -> Watched:
    assert run.watched is not None
    return run.watched


def failures(run: LabRun) -> Counter[tuple[str, ...]]:
    """Those that the daemon told in the guest, of all scenarios."""
    told = Counter[tuple[str, ...]]()
    for event in run.outcome.events:
        for one in event["result"].get("failures", ()) if event["event"] == "scenario" else ():
            where = (one["vm"]["name"], one["pin"]["source"])
            told[(*where, one["reason"], one["holder"]["holder"])] += 1
    return told


def slow_causes(run: LabRun) -> set[str]:
    """Those of three slow pins or more."""
    counted = Counter[str]()
    for (name, labels), n in page(run).items():
        if name == SLOW_PINS.name:
            counted[dict(labels)["cause"]] += int(n)
    return {cause for cause, n in counted.items() if n >= 3}


def page(run: LabRun) -> Samples:
    """The daemon's own last word."""
    return scraped(run.outcome.directory / "share" / METRICS)


@each_run
def test_promtool_has_nothing_against_the_daemons_page(run: LabRun) -> None:
    text = (run.outcome.directory / "share" / METRICS).read_bytes()
    command = [str(tool("promtool")), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@each_run
def test_prometheus_holds_what_the_daemon_said(run: LabRun) -> None:
    """Every counter of every VM, after the last pin."""
    names = {spec.name for spec in VM_COUNTERS}
    said = {key: value for key, value in page(run).items() if key[0] in names}
    assert len(said) > 60
    assert of(run).samples('{__name__=~"pinwatch_.+_total", vm!=""}') == said


@each_run
def test_the_dashboards_count_each_failure_once(run: LabRun) -> None:
    happened = failures(run)
    assert happened
    for where in ("pinwatch-host / VMs that failed / A", "pinwatch-fleet / Where pins failed / A"):
        shown = {
            tuple(row["metric"][label] for label in LABELS): float(row["value"][1])
            for row in of(run).panel(where)
        }
        assert shown == happened, where


@each_run
def test_every_failed_map_and_nothing_else_raises_an_alert(run: LabRun) -> None:
    expected = {(vm, reason) for vm, source, reason, _ in failures(run) if source == "vfio_type1"}
    fired = of(run).firing()
    lost = {labels for (name, labels), n in page(run).items() if name == LOSSES.name and n}
    losing = [one for one in fired if one["alertname"] == "PinwatchLosingEvents"]
    assert {frozenset({("kind", one["kind"])}) for one in losing} == lost
    slow = [one for one in fired if one["alertname"] == "PinwatchSlowPins"]
    assert {one["cause"] for one in slow} <= slow_causes(run), "a busy machine makes pins slow"
    fired = [one for one in fired if one not in losing + slow]
    assert {one["alertname"] for one in fired} == {"PinwatchVfioMapFailed"}
    assert {(one["vm"], one["reason"]) for one in fired} == expected
    assert {one["severity"] for one in fired} == {"critical"}


@plain
def test_every_query_is_answered(run: LabRun) -> None:
    asked = [*of_panels(), *of_variables(), *of_annotations(), *of_rules()]
    silent = {query.where for query in asked if not of(run).ask(query)}
    assert silent <= MAY_LACK
    for query in of_alerts():
        of(run).ask(query)  # is understood; what fires is told above


@plain
def test_the_top_rows_say_what_happened(run: LabRun) -> None:
    seen, happened = of(run), failures(run)
    total = sum(happened.values())
    vms = [key for key in page(run) if key[0] == VM_INFO.exposed_name]
    for where, expected in {
        "pinwatch-fleet / Failed pins": total,
        "pinwatch-fleet / Hosts that failed": 1,
        "pinwatch-fleet / Stuck pins": 0,
        "pinwatch-fleet / VMs that would fail": 1,
        "pinwatch-fleet / VMs": len(vms),
        "pinwatch-fleet / Hosts watched": 1,
        "pinwatch-fleet / Hosts not watched": 0,
        "pinwatch-host / Failed pins": total,
        "pinwatch-host / CMA failures": 0,
        "pinwatch-host / Losses": sum(n for key, n in page(run).items() if key[0] == LOSSES.name),
        "pinwatch-itself / Hooks refused": 0,
        "pinwatch-itself / VMs without series": 0,
        "pinwatch-itself / History not writable": 0,
    }.items():
        assert seen.number(where) == expected, where
    assert seen.number("pinwatch-vm / Failed pins", vm="web-01") == 1
    assert seen.number("pinwatch-vm / Would fail now", vm="doomed") == 1
    for vm in ("quiet", "web-01"):  # nothing of one that was not looked at
        rows = seen.panel("pinwatch-vm / Would fail now / A", vm=vm)
        assert {row["value"][1] for row in rows} <= {"0"}
    risks = [row["metric"] for row in seen.panel("pinwatch-fleet / What stands against pins / A")]
    assert risks == [{"risk": "memlock", "verdict": "will_fail"}]


@plain
def test_the_first_failure_of_a_vm_is_in_its_graph(run: LabRun) -> None:
    """It comes as a new series with 1 in it, of which increase() makes 0."""
    shown = of(run).panel("pinwatch-vm / Failed pins and their events / A", vm="web-01")
    (series,) = shown
    assert series["metric"] == {
        "instance": f"lab-{run.series}", "source": "vfio_type1", "reason": "extra_ref_plain",
        "holder": "pipe",
    }  # fmt: skip
    assert max(float(value) for _, value in series["values"]) == 1


@plain
def test_a_number_leads_to_its_event(run: LabRun) -> None:
    """Prometheus's exemplar is what `pinwatch why --event` took in the guest."""
    work = run.scenario("real_qemu").workload
    (newest,) = of(run).exemplars(f'{VFIO_MAP_FAILURES.name}{{vm="web-01"}}')
    assert newest["labels"] == {EVENT_ID: work["events"][-1]["id"]}
    assert newest["timestamp"] == pytest.approx(work["events"][-1]["time_s"], abs=0.001)
    assert "VM web-01: VFIO map of 128 MiB failed with ENOMEM" in work["why_event"]


@plain
def test_a_person_is_told_which_vm_did_not_start(run: LabRun) -> None:
    summary = "VM web-01: VFIO map failed with ENOMEM (extra_ref_plain)\n"
    text = next(text for text in of(run).watch.messages("pager", "text") if summary in text)
    assert f"On lab-{run.series}, VM web-01 asked VFIO to pin memory for a device" in text
    assert "/runbooks/PinwatchVfioMapFailed.md" in text
    assert f"var-instance=lab-{run.series}&var-vm=web-01" in text


@fragmented
def test_refused_splits_are_shown(run: LabRun) -> None:
    refused = run.scenario("founding_report").workload["split_failed"]
    (series,) = of(run).panel("pinwatch-vm / Refused splits of huge pages / A")
    assert series["metric"] == {"instance": f"lab-{run.series}", "errno": "EAGAIN"}
    shown = [float(value) for _, value in series["values"]]
    assert max(shown) == refused


@cma
def test_cma_is_shown(run: LabRun) -> None:
    (area,) = of(run).panel("pinwatch-host / CMA areas / A")
    assert area["metric"]["area"] == "reserved"
    assert float(area["value"][1]) == 1400 << 20
    (failed,) = of(run).panel("pinwatch-host / CMA allocation failures / A")
    assert {value for _, value in failed["values"]} == {"0"}
