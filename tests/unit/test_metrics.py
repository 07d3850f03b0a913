"""The exposition: valid, complete, exact at its edges."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from pinwatch.abi import layout
from pinwatch.aggregate.ledger import Ledger
from pinwatch.attribute.names import vm_name
from pinwatch.expose.catalogue import (
    BROKEN,
    CATALOGUE,
    DURATION,
    HISTORY_BYTES,
    HISTORY_EVENTS,
    HISTORY_WRITABLE,
    LOSSES,
    PIN_FAILURES,
    REFUSED,
    THP_SPLIT_FAILURES,
    VFIO_MAP_FAILURES,
    WITH_EXEMPLARS,
    MetricSpec,
)
from pinwatch.expose.exposition import OPENMETRICS, TEXT, Format, expose
from pinwatch.expose.metrics import EVENT_ID, buckets, counter_family, gauge_family
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.loss import LossKind
from pinwatch.model.pin import PinSource
from pinwatch.model.sample import Durations
from pinwatch.model.vm import Vm
from tests import reference
from tests.lab import tools
from tests.unit.make import FACTS, TASK, VM, failure, pin, sample, slow_pin


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


def exposition(of: Ledger, form: Format = TEXT) -> str:
    also: list[Metric] = [counter_family(spec, {(): 0}) for spec in (REFUSED, BROKEN)]
    also += [
        gauge_family(one, {(): 0}) for one in (HISTORY_WRITABLE, HISTORY_BYTES, HISTORY_EVENTS)
    ]
    made = expose(of.snapshot(), FACTS, also)
    return b"".join(made.encode(form)).decode()


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


def test_everything_in_the_catalogue_is_exposed() -> None:
    text = exposition(ledger())
    for spec in CATALOGUE:
        assert f"# HELP {spec.name}" in text, spec.name


def test_the_reference_is_the_catalogue() -> None:
    assert reference.REFERENCE.read_text() == reference.reference_document(), "run `make documents`"


def test_the_reference_explains_every_label() -> None:
    assert {label for spec in CATALOGUE for label in spec.labels} == reference.LABELS.keys()


def test_units_are_those_of_the_names() -> None:
    """As OpenMetrics wants them: at the end of the name, and only such."""
    found = {f.name: f.unit for f in parsed(exposition(ledger(), OPENMETRICS))}
    for spec in CATALOGUE:
        name = spec.name.removesuffix("_total")
        assert found[name] == spec.open_unit
        assert name.endswith(spec.open_unit)
    assert found["pinwatch_longterm_pinned_pages"] == "pages"
    assert found["pinwatch_longterm_pin_duration_seconds"] == "seconds"


def parsed(text: str) -> list[Metric]:
    """By the library's parser of OpenMetrics, which takes nothing that is not in the standard."""
    return list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def test_what_failed_or_was_slow_can_be_looked_up() -> None:
    """Each counter of events, and the bucket of each duration, has the id of the newest."""
    of = ledger()
    of.add_failure(failure(pin(split_failed=3), id="second", time_s=1_790_000_001.5))
    slow = slow_pin(id="slow", pin=replace(slow_pin().pin, duration_ns=1 << 20))
    of.add_slow(slow)
    seen = {
        (s.name, s.labels.get("le")): s.exemplar
        for family in parsed(exposition(of, OPENMETRICS))
        for s in family.samples
        if s.exemplar
    }
    assert {name for name, _ in seen} == {
        spec.name if spec is not DURATION else f"{spec.name}_bucket" for spec in WITH_EXEMPLARS
    }
    assert seen[THP_SPLIT_FAILURES.name, None].value == 3
    newest = seen[VFIO_MAP_FAILURES.name, None]
    assert newest.labels == {EVENT_ID: "second"}
    assert (newest.value, str(newest.timestamp)) == (1, "1790000001.500000000")
    bucket = seen[f"{DURATION.name}_bucket", repr(2**20 / 1e9)]
    assert bucket.labels == {EVENT_ID: "slow"}
    assert bucket.value == 2**20 / 1e9


def created(of: Ledger, metric: str) -> dict[tuple[str, ...], float]:
    """When each series began, by its values of labels."""
    return {
        tuple(s.labels.values()): s.value
        for family in parsed(exposition(of, OPENMETRICS))
        for s in family.samples
        if s.name == f"{metric.removesuffix('_total')}_created"
    }


def test_a_counter_says_when_it_began() -> None:
    """One that was there at 0 with the VM: then. Another: when it counted first."""
    of = Ledger(wall_offset_ns=1_000_000_000_000)
    of.name_task(TASK.key, VM)
    of.add_sample(sample(time_ns=10_000_000_000))
    assert created(of, VFIO_MAP_FAILURES.name) == {}
    for second in (2000.0, 3000.0):
        of.add_failure(failure(time_s=second))
    of.add_sample(sample(time_ns=99_000_000_000, losses={"ring_full": 2}))
    assert created(of, VFIO_MAP_FAILURES.name) == {("ENOMEM", "extra_ref_plain", "web-01"): 1010}
    assert set(created(of, PIN_FAILURES.name).values()) == {2000}
    assert created(of, LOSSES.name) == {("ring_full",): 1010}


def test_the_text_format_has_none_of_that() -> None:
    text = exposition(ledger())
    assert "_created" not in text
    assert " # {" not in text


def test_all_that_may_be_lost_begins_at_0() -> None:
    """Else nobody sees the first one."""
    lost = {s.labels["kind"]: s.value for family in parsed(exposition(ledger(), OPENMETRICS))
            for s in family.samples if s.name == LOSSES.name}  # fmt: skip
    assert lost == {str(kind): int(kind is LossKind.RING_FULL) for kind in LossKind}
    assert set(layout.LOSS_NAMES.values()) < set(lost)


def test_labels_are_those_of_the_catalogue() -> None:
    labels = {spec.name: set(spec.labels) for spec in CATALOGUE}
    for family in text_string_to_metric_families(exposition(ledger())):
        for one in family.samples:
            if one.name in labels:
                assert set(one.labels) == labels[one.name], one.name


def test_bucket_edges_are_exact_powers_of_two() -> None:
    slots = [0] * 40
    slots[20] = 1  # at most 2^20 ns
    edges = {edge: count for edge, count, *_ in buckets(tuple(slots))}
    assert edges[repr(2**20 / 1e9)] == 1
    assert edges[repr(2**19 / 1e9)] == 0
    assert edges["+Inf"] == 1


@given(st.text(min_size=1))
def test_hostile_names_round_trip(name: str) -> None:
    vm = Vm(name=vm_name(name), uuid=vm_name(name))
    parsed = text_string_to_metric_families(exposition(ledger(vm)))
    found = {s.labels["vm"] for f in parsed for s in f.samples if "vm" in s.labels}
    assert found == {vm.name}


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.name)
def test_names_follow_the_conventions(spec: MetricSpec) -> None:
    assert re.fullmatch(r"pinwatch_[a-z_]+", spec.name)
    assert spec.name.endswith("_total") is (spec.kind == "counter")


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.name)
def test_help_says_meaning_unit_and_source(spec: MetricSpec) -> None:
    assert re.fullmatch(r"[A-Z1].+\. Unit: .*[^.]\. Source: .*[^.]\.", spec.help)
