"""Known workload in, exactly that out: pinwatch against the workload's count and the kernel's.

The scenarios run inside the guest (tests/lab/inside/scenarios.py); here they are judged.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.conftest import RSS_KIB, LabRun, Observed, as_json, in_guest
from tests.lab.inside.scenarios import METRICS
from tests.lab.outcome import Status
from tests.replay.compare import differences

KERNELS = ("6.1", "6.12", "7.2")

plain = in_guest("plain", *KERNELS)
fragmented = in_guest("fragmented", *KERNELS)
cma = in_guest("cma", "7.2")

ENOMEM = 12
HOST = "~host"
FOLL_PINS = 'pinwatch_kernel_reconciliation_pages{counter="nr_foll_pin_acquired"}'
FAILURES = "pinwatch_vfio_map_failures_total"


def check_reconciled(seen: Observed, *, zero_pages: int = 0) -> None:
    """Our sums equal the kernel's own counters over the whole run so far, with the two rules of
    docs/metrics.md for pins: others pin as well, and the zero page is pinned but not counted."""
    assert len(seen.reconciliation) == 8
    assert seen.metrics.get(FOLL_PINS, 0) <= zero_pages
    wrong = {name: n for name, n in seen.reconciliation.items() if n and name != FOLL_PINS}
    assert not wrong, as_json(wrong)
    assert seen.total("pinwatch_pin_migrated_pages_total") <= seen.vmstat["pgmigrate_success"]


def only_failure(seen: Observed) -> dict[str, Any]:
    assert len(seen.failures) == 1, as_json(seen.failures)
    return seen.failures[0]


@pytest.mark.parametrize(
    "run",
    [(kernel, layout) for kernel in KERNELS for layout in ("plain", "fragmented")],
    ids="-".join,
    indirect=True,
)
def test_guest_ran_to_its_end(run: LabRun) -> None:
    assert run.outcome.status is Status.FINISHED, str(run.outcome)
    assert run.event("stopped")["code"] == 0
    assert run.recording.stat().st_size > 0


@plain
def test_the_recording_replays_to_what_was_scraped(run: LabRun) -> None:
    metrics = (run.outcome.directory / "share" / METRICS).read_text()
    assert not differences(str(run.recording), metrics)


@plain
def test_nothing_of_the_compiler_stays_in_memory(run: LabRun) -> None:
    memory = run.event("stopped")["memory"]
    assert memory["rss_kib"] < RSS_KIB, memory


@plain
def test_module_loaded_after_the_daemon_is_seen(run: LabRun) -> None:
    seen = run.scenario("module_later")
    assert set(seen.workload["hooks_before"].values()) == {0.0}
    assert seen.metric("pinwatch_longterm_pins_total", vm=HOST, source="vfio_type1") == 1
    assert (
        seen.metric(
            "pinwatch_hook_attached",
            hook="vfio_map",
            mode="kprobe",
            symbol="vfio_iommu_type1_ioctl",
        )
        == 1
    )


@plain
def test_plain_success_is_counted_exactly(run: LabRun) -> None:
    seen = run.scenario("plain_success")
    pages = seen.workload["pages"] * 3
    assert seen.workload["errors"] == [0, 0, 0]
    assert seen.metric("pinwatch_longterm_pins_total", vm=HOST, source="vfio_type1") == 3
    assert (
        seen.metric("pinwatch_longterm_pinned_pages_total", vm=HOST, source="vfio_type1") == pages
    )
    assert seen.total(FAILURES) == 0
    assert seen.failures == []
    migrated = seen.metric("pinwatch_pin_migrated_pages_total", vm=HOST)
    assert migrated == seen.vmstat["pgmigrate_success"] == pages
    # each page is pinned, found in Movable, dropped, moved and pinned again
    assert seen.workload["foll_pins"] == 2 * pages
    check_reconciled(seen)


@plain
def test_held_page_is_an_extra_plain_reference(run: LabRun) -> None:
    seen = run.scenario("held_page")
    assert seen.workload["errors"] == [ENOMEM]
    assert seen.metric(FAILURES, vm=HOST, errno="ENOMEM", reason="extra_ref_plain") == 1
    folio = only_failure(seen)["primary"]
    assert folio["facts"]["order"] == 0
    assert folio["facts"]["zone"] == "Movable"
    assert folio["facts"]["kind"] == "shmem"
    assert folio["references"]["plain"] == 1
    assert folio["references"]["pins"] == 0
    assert seen.vmstat["pgmigrate_fail"] == 1
    check_reconciled(seen)


@plain
def test_real_qemu_fails_and_is_explained_after_its_death(run: LabRun) -> None:
    seen = run.scenario("real_qemu")
    work = seen.workload
    assert work["exit_code"] == 1, work["stderr"]
    assert "Cannot allocate memory" in work["stderr"]
    assert work["metric_lines"] == [
        f'{FAILURES}{{errno="ENOMEM",reason="extra_ref_plain",vm="web-01"}} 1.0'
    ]
    (device,) = work["devices"]
    assert f'device="{work["bdf"]}",driver="vfio-pci",iommu_group="' in device
    assert 'vm="web-01"' in device
    failure = only_failure(seen)
    assert failure["vm"]["name"] == "web-01"
    assert [one["address"] for one in failure["devices"]] == [work["bdf"]]
    assert failure["vm"]["uuid"] == "6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21"
    for words in (
        "VM web-01: VFIO map of 128 MiB failed with ENOMEM after",
        "order-0 folio",
        "ZONE_MOVABLE",
        "shmem memory",
        "1 extra plain reference",
        "remedy",
    ):
        assert words in " ".join(work["why"].split()), work["why"]
    assert [one["id"] for one in work["events"]] == [failure["id"]], "the history has it"
    # QEMU also maps 256 KiB of firmware that nothing has written yet
    check_reconciled(seen, zero_pages=64)


@plain
def test_what_is_sent_to_a_colleague_tells_no_names(run: LabRun) -> None:
    """`pinwatch record --redact` after the failure of web-01, and of one before."""
    seen = run.scenario("for_a_colleague").workload
    assert seen["reasons"] == ["extra_ref_plain", "extra_ref_plain"]
    assert len(set(seen["names"])) == 2
    assert not seen["told"]


@plain
def test_vms_are_known_when_they_start_and_gone_when_they_end(run: LabRun) -> None:
    seen = run.scenario("lives")
    assert seen.workload["started"] is not None
    assert seen.workload["again"] is None, "the end of the first was not noticed"
    info = [name for name, n in seen.metrics.items() if "pinwatch_vm_info{" in name and n]
    assert len([name for name in info if 'vm="idle-01"' in name]) == 1
    assert len([name for name in info if 'vm="late-01"' in name]) == 1


@plain
def test_what_the_kernel_could_not_tell_is_looked_up(run: LabRun) -> None:
    seen = run.scenario("lives")
    assert seen.total("pinwatch_process_rescans_total") >= 1
    assert seen.workload["late"] is not None
    assert not run.lost(seen.metrics)


@plain
def test_hints_are_told_with_when_they_came(run: LabRun) -> None:
    seen = run.scenario("hints")
    assert seen.workload["said"] == [0, 22, 0, 0, 22, 0, 0, 0, 0, 0]
    assert seen.workload["mapped"] == 0
    name = "pinwatch_vm_hints_total{"
    told = {key.removeprefix(name): n for key, n in seen.metrics.items() if key.startswith(name)}
    assert told == {
        f'errno="{errno}",hint="{hint}",timing="{timing}",vm="hinting"}}': 1
        for hint, timing, errno in (
            ("madvise_hugepage", "before_populate", ""),
            ("madvise_unknown", "before_populate", "EINVAL"),
            ("map_populate", "before_populate", ""),
            ("madvise_hugepage", "after_populate", ""),
            ("madvise_nohugepage", "after_populate", ""),
            ("madvise_unknown", "after_populate", "EINVAL"),
            ("mlock", "before_populate", ""),
            ("mlock_onfault", "before_populate", ""),
            ("mbind", "after_populate", ""),
            ("madvise_hugepage", "after_pin", ""),
            ("thp_disable", "after_pin", ""),
        )
    }


def check_looked_at(run: LabRun) -> dict[str, Any]:
    """What the daemon says of a VM that does nothing is what its own pagemap says."""
    seen = run.scenario("looked_at").workload
    quiet, truth = seen["quiet"], seen["truth"]
    assert seen["looks"][1] > seen["looks"][0]
    size = "pinwatch_vm_memory_bytes"
    by_place = {name: n // 4096 for name, n in quiet.items() if name.startswith(size)}
    error = quiet['pinwatch_vm_placement_error_ratio{vm="quiet"}']
    assert 0 < error <= 0.05
    slack = error * truth["pages"]
    assert abs(sum(by_place.values()) - truth["pages"]) <= slack, by_place
    for part, label in (("movable", 'zone="Movable"'), ("cma", 'cma="yes"')):
        found = sum(n for name, n in by_place.items() if label in name)
        assert abs(found - truth[part]) <= slack, by_place
    assert quiet.get('pinwatch_vm_pin_at_risk{vm="quiet"}', 0) == 0, quiet
    at_most = min(truth["movable"] + truth["cma"] + slack, truth["pages"])  # what is exported
    must_move = quiet['pinwatch_vm_pin_must_move_bytes{vm="quiet"}'] // 4096
    assert abs(must_move - at_most) <= slack
    return seen


@plain
def test_memory_of_a_vm_is_where_it_says_itself(run: LabRun) -> None:
    seen = check_looked_at(run)
    assert seen["truth"]["movable"] == seen["truth"]["pages"]
    free = {name for name in seen["host"] if 'kind="movable"' in name}
    assert len(free) == 2, seen["host"]  # both nodes


@plain
def test_a_vm_that_will_fail_is_told_before_it_does(run: LabRun) -> None:
    (risk,) = run.scenario("will_fail").workload["risks"]
    assert risk == 'pinwatch_vm_pin_risk{risk="memlock",verdict="will_fail",vm="doomed"}'


@plain
def test_drop_caches_is_named_with_who_wrote_it(run: LabRun) -> None:
    """6.1 fails some of the maps, newer kernels none; each failure must be explained."""
    seen = run.scenario("drop_caches")
    failed = sum(error != 0 for error in seen.workload["errors"])
    maps = len(seen.workload["errors"])
    assert maps >= 30
    assert seen.workload["writes"] > 8
    assert seen.metric("pinwatch_longterm_pins_total", vm=HOST, source="vfio_type1") == maps
    assert seen.total(FAILURES) == failed == len(seen.failures)
    if run.series == "6.1":
        assert failed > 0
    for failure in seen.failures:
        # what it finds mapped it deactivates, by way of a batch
        known = ("extra_ref_plain", "extra_ref_gone", "lru_batch_ref")
        assert failure["reason"] in known, as_json(failure)
        holder = failure["holder"]
        assert holder["holder"] == "drop_caches", as_json(failure)
        assert holder["comm"] == "sh"
        assert holder["tgid"] > 1
        assert holder["value"] == 1
    check_reconciled(seen)


@plain
def test_each_of_many_maps_at_once_is_seen_to_end(run: LabRun) -> None:
    seen = run.scenario("crowd")
    assert seen.workload["errors"] == [ENOMEM, 0] * 20
    assert seen.metric("pinwatch_longterm_pins_total", vm=HOST, source="vfio_type1") == 40
    assert seen.total(FAILURES) == len(seen.failures) == 20
    assert seen.metric(FAILURES, vm=HOST, errno="ENOMEM", reason="extra_ref_plain") == 20
    assert not seen.total("pinwatch_longterm_pins_stuck")
    assert not run.lost(seen.metrics)
    check_reconciled(seen)


@plain
def test_memlock_limit_is_not_a_migration_failure(run: LabRun) -> None:
    seen = run.scenario("memlock")
    assert seen.workload["errors"] == [ENOMEM]
    assert seen.metric(FAILURES, vm=HOST, errno="ENOMEM", reason="rlimit_memlock") == 1
    assert seen.total("pinwatch_pin_migration_failed_folios_total") == 0
    assert only_failure(seen)["pin"]["memlock"]["limit_pages"] == 16 * 256
    check_reconciled(seen)


@plain
def test_no_destination_names_the_order(run: LabRun) -> None:
    seen = run.scenario("no_destination")
    assert seen.workload["errors"] == [ENOMEM]
    assert seen.metric(FAILURES, vm=HOST, errno="ENOMEM", reason="dst_alloc_failed") == 1
    failure = only_failure(seen)
    assert failure["pin"]["dst_order"] == 0
    folios = seen.metric(
        "pinwatch_pin_migration_failed_folios_total",
        vm=HOST, reason="dst_alloc_failed", zone="Movable", order="0",
    )  # fmt: skip
    assert folios == 1
    assert failure["primary"]["facts"]["node"] == 1
    assert failure["primary"]["facts"]["zone"] == "Movable"
    check_reconciled(seen)


@fragmented
def test_founding_report_is_a_refused_split(run: LabRun) -> None:
    seen = run.scenario("founding_report")
    assert seen.workload["errors"] == [ENOMEM]
    failure = seen.failures[0]
    assert failure["reason"] == "thp_split_refs", as_json(failure)
    assert seen.metric(FAILURES, vm=HOST, errno="ENOMEM", reason="thp_split_refs") == 1
    folio = failure["primary"]["facts"]
    assert (folio["order"], folio["zone"], folio["kind"]) == (9, "Movable", "shmem")
    assert failure["primary"]["references"]["plain"] == 1
    # 6.1.116 and later, 6.2 and later try ten times; of 3 asynchronous ones some lose the lock
    assert 7 <= folio["attempts"] <= 10
    assert failure["pin"]["split_failed"] == folio["attempts"]
    assert failure["pin"]["split_failed"] == seen.workload["split_failed"]
    assert failure["pin"]["thp_failed"] == seen.workload["thp_failed"]
    exported = seen.metric("pinwatch_thp_split_failures_total", vm=HOST, errno="EAGAIN")
    assert exported == seen.workload["split_failed"]
    check_reconciled(seen)


@cma
def test_memory_in_cma_is_told(run: LabRun) -> None:
    seen = check_looked_at(run)
    assert seen["truth"]["cma"] > seen["truth"]["pages"] // 4, "hardly any of it is in CMA"
    area = 'pinwatch_cma_area_pages{area="reserved"}'
    assert seen["host"][area] == seen["truth"]["area_pages"] == 1400 * 256


@cma
def test_cma_is_left_when_the_map_works(run: LabRun) -> None:
    seen = run.scenario("cma_success")
    assert seen.workload["errors"] == [0]
    assert seen.workload["in_cma"]["before"] > seen.workload["pages"] // 2
    assert seen.workload["in_cma"]["after"] == 0
    migrated = seen.metric("pinwatch_pin_migrated_pages_total", vm=HOST)
    assert migrated == seen.vmstat["pgmigrate_success"] >= seen.workload["in_cma"]["before"]
    check_reconciled(seen)


@cma
def test_cma_is_named_when_the_map_fails(run: LabRun) -> None:
    seen = run.scenario("cma_held")
    assert seen.workload["errors"] == [ENOMEM]
    failure = only_failure(seen)
    assert failure["reason"] == "extra_ref_plain"
    assert failure["primary"]["facts"]["migratetype"] == "CMA"
    assert "in CMA" in failure["explanation"]["paragraphs"]["page"]
    check_reconciled(seen)
