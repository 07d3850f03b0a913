"""Counting."""

from __future__ import annotations

from dataclasses import replace

from pinwatch.aggregate.ledger import Ledger, errno_name
from pinwatch.model.pin import PinSource
from pinwatch.model.reason import FailureReason
from pinwatch.model.sample import KernelSample, Migrations, TaskKey, TaskTotals
from pinwatch.model.vm import HOST, Vm
from tests.unit import make
from tests.unit.make import TASK, VM, failure, folio, pin

SOURCE = PinSource.VFIO_TYPE1


def sample(**counts: int) -> KernelSample:
    values = {"pins": 0, "failures": 0, "pages": 0, "migrated": 0, "migrate_failed": 0} | counts
    totals = TaskTotals(task=TASK.key, source=SOURCE, **values)
    return make.sample(totals=(totals,), losses={"ring_full": 2})


def counter(ledger: Ledger, name: str, *labels: str) -> float:
    return ledger.snapshot().counters[name][labels]


def test_samples_are_absolute_and_counters_grow_by_their_difference() -> None:
    ledger = Ledger()
    ledger.name_task(TASK.key, VM)
    for pins, pages in ((2, 100), (2, 100), (5, 107)):
        ledger.add_sample(sample(pins=pins, pages=pages))
    assert counter(ledger, "pinwatch_longterm_pins_total", "web-01", SOURCE) == 5
    assert counter(ledger, "pinwatch_longterm_pinned_pages_total", "web-01", SOURCE) == 107


def test_a_process_that_is_gone_leaves_its_counts() -> None:
    ledger = Ledger()
    ledger.name_task(TASK.key, VM)
    ledger.add_sample(sample(pins=2))
    ledger.forget_task(TASK.key)
    ledger.name_task(replace(TASK.key, start_ns=1), VM)
    assert counter(ledger, "pinwatch_longterm_pins_total", "web-01", SOURCE) == 2
    assert ledger.tasks == (replace(TASK.key, start_ns=1),)


def test_a_process_that_nothing_named_can_be_forgotten_too() -> None:
    ledger = Ledger()
    ledger.add_sample(sample(pins=2))
    assert set(ledger.tasks) == {TASK.key}
    ledger.forget_task(TASK.key)
    assert not ledger.tasks


def test_what_nothing_named_is_counted_as_such() -> None:
    ledger = Ledger()
    ledger.add_sample(sample(pins=1))
    assert counter(ledger, "pinwatch_longterm_pins_total", "~unattributed", SOURCE) == 1


def test_a_known_vm_has_every_reason_at_zero() -> None:
    ledger = Ledger()
    ledger.name_task(TASK.key, VM)
    series = ledger.snapshot().counters["pinwatch_vfio_map_failures_total"]
    assert {labels[2] for labels in series} == set(FailureReason)
    assert set(series.values()) == {0}


def test_so_has_the_host_as_soon_as_one_of_its_processes_pins() -> None:
    ledger = Ledger()
    ledger.name_task(TASK.key, HOST)
    series = ledger.snapshot().counters["pinwatch_vfio_map_failures_total"]
    assert {labels[0] for labels in series} == {"~host"}


def test_idle_vms_share_their_zeros() -> None:
    ledger = Ledger()
    for number in range(2):
        ledger.name_task(TaskKey(number, 0), Vm(name=f"vm-{number}"))
    first, second = ledger.snapshot().vm_counters.values()
    assert all(first[metric] is second[metric] for metric in first)


def test_a_failure_is_counted_by_all_its_labels() -> None:
    ledger = Ledger()
    ledger.name_task(TASK.key, VM)
    ledger.add_failure(failure(pin(split_failed=10, split_errno=11, folios_dropped=3)))
    assert (
        counter(ledger, "pinwatch_vfio_map_failures_total", "web-01", "ENOMEM", "extra_ref_plain")
        == 1
    )
    assert (
        counter(
            ledger,
            "pinwatch_longterm_pin_failures_total",
            "web-01", SOURCE, "extra_ref_plain", "unknown",
        )
        == 1
    )  # fmt: skip
    folios = ledger.snapshot().counters["pinwatch_pin_migration_failed_folios_total"]
    assert folios == {
        ("web-01", "extra_ref_plain", "Movable", "0"): 1,
        ("web-01", "extra_ref_plain", "unknown", "unknown"): 3,
    }
    assert counter(ledger, "pinwatch_thp_split_failures_total", "web-01", "EAGAIN") == 10


def test_other_sources_are_no_vfio_failures() -> None:
    ledger = Ledger()
    ledger.add_failure(failure(pin(source=PinSource.OTHER, folios=(folio(),))))
    counters = ledger.snapshot().counters
    assert sum(counters["pinwatch_longterm_pin_failures_total"].values()) == 1
    assert sum(counters["pinwatch_vfio_map_failures_total"].values()) == 0


def test_losses_of_both_sides_add_up() -> None:
    ledger = Ledger()
    ledger.add_sample(sample())
    ledger.add_sample(sample())
    ledger.add_loss("undecodable")
    assert ledger.snapshot().losses == {"ring_full": 2, "undecodable": 1}


def test_a_snapshot_does_not_change() -> None:
    ledger = Ledger()
    empty = ledger.snapshot()
    ledger.name_task(TASK.key, VM)
    ledger.add_loss("undecodable")
    before = ledger.snapshot()
    counted = before.counters
    ledger.add_failure(failure())
    assert (empty.vms, empty.losses) == ((), {})
    assert before.counters == counted != ledger.snapshot().counters


def test_errno_names() -> None:
    assert errno_name(12) == "ENOMEM"
    assert errno_name(4095) == "unknown:4095"


def test_the_host_as_a_whole() -> None:
    ledger = Ledger()
    moved = Migrations(reason="compaction", succeeded=5, failed=2)
    ledger.add_sample(
        make.sample(migrations=(moved,), split_errors={"EAGAIN": 1}, cma_failures={"a": 3})
    )
    assert counter(ledger, "pinwatch_host_migrations_total", "compaction", "ok") == 5
    assert counter(ledger, "pinwatch_host_migrations_total", "compaction", "failed") == 2
    assert counter(ledger, "pinwatch_host_thp_split_failures_total", "EAGAIN") == 1
    assert counter(ledger, "pinwatch_cma_alloc_failures_total", "a") == 3
