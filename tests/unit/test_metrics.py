"""The exposition: valid, complete, exact at its edges."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pinwatch.aggregate.ledger import Ledger
from pinwatch.attribute.names import vm_name
from pinwatch.expose.exposition import OPENMETRICS, TEXT, Encoder, expose
from pinwatch.expose.metrics import (
    BROKEN,
    CATALOGUE,
    HISTORY_BYTES,
    HISTORY_EVENTS,
    HISTORY_WRITABLE,
    REFUSED,
    buckets,
    counter_family,
    gauge_family,
)
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.pin import PinSource
from pinwatch.model.sample import Durations
from pinwatch.model.vm import Vm
from tests.lab import tools
from tests.unit.make import FACTS, TASK, VM, failure, sample

DOCS = (Path(__file__).resolve().parents[2] / "docs/metrics.md").read_text()


def ledger(vm: Vm = VM) -> Ledger:
    """One of everything."""
    filled = Ledger()
    filled.name_task(TASK.key, vm)
    filled.add_failure(failure(vm=vm))
    slots = tuple(int(slot in (20, 21)) for slot in range(40))
    durations = Durations(source=PinSource.VFIO_TYPE1, failed=False, sum_ns=3 << 20, slots=slots)
    filled.add_sample(sample(durations=(durations,), losses={"ring_full": 1}))
    filled.set_reconciliation({"pgmigrate_fail": 0})
    filled.set_hooks((HookState(hook="split", symbol="s", mode=Mode.FENTRY),))
    return filled


def exposition(of: Ledger, encoder: Encoder = TEXT) -> str:
    also: list[Metric] = [counter_family(spec, {(): 0}) for spec in (REFUSED, BROKEN)]
    also += [
        gauge_family(one, {(): 0}) for one in (HISTORY_WRITABLE, HISTORY_BYTES, HISTORY_EVENTS)
    ]
    made = expose(of.snapshot(), FACTS, also)
    return b"".join(made.encode(encoder)).decode()


def test_promtool_accepts_it() -> None:
    done = subprocess.run(
        [tools.tool("promtool"), "check", "metrics"],
        input=exposition(ledger()).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr


def test_open_metrics_can_be_made_of_it() -> None:
    text = exposition(ledger(), OPENMETRICS)
    assert text.endswith("# EOF\n")
    assert text.count("# EOF\n") == 1


def test_everything_in_the_catalogue_is_exposed_and_documented() -> None:
    text = exposition(ledger())
    for spec in CATALOGUE:
        assert f"# HELP {spec.name}" in text, spec.name
        assert f"`{spec.name}" in DOCS, spec.name


def test_labels_are_those_of_the_catalogue() -> None:
    labels = {spec.name: set(spec.labels) for spec in CATALOGUE}
    for family in text_string_to_metric_families(exposition(ledger())):
        for one in family.samples:
            if one.name in labels:
                assert set(one.labels) == labels[one.name], one.name


def test_bucket_edges_are_exact_powers_of_two() -> None:
    slots = [0] * 40
    slots[20] = 1  # at most 2^20 ns
    edges = dict(buckets(tuple(slots)))
    assert edges[repr(2**20 / 1e9)] == 1
    assert edges[repr(2**19 / 1e9)] == 0
    assert edges["+Inf"] == 1


@settings(deadline=None)  # a busy machine is no fault
@given(st.text(min_size=1))
def test_hostile_names_round_trip(name: str) -> None:
    vm = Vm(name=vm_name(name), uuid=vm_name(name))
    parsed = text_string_to_metric_families(exposition(ledger(vm)))
    found = {s.labels["vm"] for f in parsed for s in f.samples if "vm" in s.labels}
    assert found == {vm.name}


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.name)
def test_names_follow_the_conventions(spec: object) -> None:
    assert re.fullmatch(r"pinwatch_[a-z_]+", spec.name)  # type: ignore[attr-defined]
    assert spec.help.endswith(".")  # type: ignore[attr-defined]
