"""What was seen of VMs' memory, on its way to the views."""

from __future__ import annotations

from dataclasses import replace

from pinwatch import recording
from pinwatch.expose.exposition import text
from pinwatch.expose.outlook import explain
from pinwatch.model.forecast import Risk, Verdict
from pinwatch.model.placement import Limits
from pinwatch.model.sample import TaskKey
from pinwatch.model.snapshot import Snapshot
from pinwatch.pipeline import Pipeline
from pinwatch.recording import Item, Surveyed, TaskGone, VmFound
from tests.unit.make import FACTS, free, looked, placement

ONE, OTHER = TaskKey(7, 10_000_000), TaskKey(8, 20_000_000)
FOUND = VmFound(ONE, ("/usr/bin/qemu-system-x86_64", "-name", "db-7"))
GIB = 1 << 30


def snapshot(*items: Item) -> Snapshot:
    pipeline = Pipeline(FACTS, 1_000_000_000)
    for item in items:
        pipeline.feed(item)
    return pipeline.snapshot()


def test_a_vm_that_was_looked_at_has_an_outlook() -> None:
    found = snapshot(FOUND, Surveyed(free(), 0.5), looked(ONE)).outlooks["db-7"]
    assert found.time_s == 10.0
    assert found.forecast.verdict is Verdict.FINE
    assert found.forecast.must_move.most == 128 << 20


def test_what_is_free_later_changes_it() -> None:
    full = replace(free().zones[0], free=0)
    later = Surveyed(replace(free(), zones=(full, free().zones[1])), 0.7)
    seen = snapshot(FOUND, Surveyed(free()), looked(ONE), later)
    assert seen.outlooks["db-7"].forecast.verdict is Verdict.WILL_FAIL
    assert seen.outlooks["db-7"].time_s == 10.0
    assert seen.looking_cpu_s == 0.7


def test_a_limit_that_comes_with_the_device_is_no_risk() -> None:
    """All VMs of libvirt have that without a device: it is said, and nobody is woken up."""
    raised = Limits(memlock_bytes=1 << 20, may_lock=False, managed_limit=True)
    seen = snapshot(FOUND, Surveyed(free()), replace(looked(ONE), limits=raised))
    found = seen.outlooks["db-7"]
    assert found.forecast.risks == (Risk.MEMLOCK_MANAGED,)
    assert found.forecast.verdict is Verdict.FINE
    said = text(seen, FACTS)
    assert 'pinwatch_vm_pin_at_risk{vm="db-7"} 0.0' in said
    assert "memlock_managed" not in said
    assert dict(explain(None, found.case, found.forecast).paragraphs)["note"].endswith(
        "[memlock_managed]"
    )


def test_a_process_that_is_gone_takes_its_outlook_with_it() -> None:
    assert not snapshot(FOUND, Surveyed(free()), looked(ONE), TaskGone(ONE)).outlooks


def test_a_process_that_is_no_vm_has_none() -> None:
    assert not snapshot(Surveyed(free()), looked(ONE)).outlooks
    assert not snapshot(VmFound(ONE, ("sh",)), Surveyed(free()), looked(ONE)).outlooks


def test_of_two_processes_of_a_vm_the_one_with_its_memory_counts() -> None:
    uuid = ("-uuid", "6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21")
    both = [replace(FOUND, task=task, cmdline=(*FOUND.cmdline, *uuid)) for task in (ONE, OTHER)]
    large, small = looked(ONE, placement(GIB)), looked(OTHER, placement(GIB // 4))
    for items in ((large, small), (small, large)):
        seen = snapshot(*both, Surveyed(free()), *items)
        assert seen.outlooks["db-7"].case.placement.guest_bytes == GIB
    shrunk = looked(ONE, placement(GIB // 8))  # the same process, told again
    seen = snapshot(*both, Surveyed(free()), large, shrunk)
    assert seen.outlooks["db-7"].case.placement.guest_bytes == GIB // 8


def test_a_recording_has_it() -> None:
    items: tuple[Item, ...] = (FOUND, Surveyed(free(), 0.25), looked(ONE))
    header = recording.Header(facts=FACTS, wall_offset_ns=1_000_000_000)
    lines = [recording.header_line(header), *map(recording.item_line, items)]
    _, again = recording.read(lines)
    assert tuple(again) == items


def test_the_metrics_say_it() -> None:
    tight = replace(free().zones[0], free=10_000)
    host = replace(free(), zones=(tight, free().zones[1]))
    lines = text(
        snapshot(FOUND, Surveyed(host, 0.25), looked(ONE, placement(128 << 20, 64 << 20))), FACTS
    ).splitlines()
    for line in (
        'pinwatch_vm_memory_bytes{cma="no",node="0",size="4k",vm="db-7",zone="Movable"} '
        "1.34217728e+08",
        'pinwatch_vm_memory_bytes{cma="no",node="0",size="4k",vm="db-7",zone="Normal"} '
        "6.7108864e+07",
        'pinwatch_vm_pin_at_risk{vm="db-7"} 1.0',
        'pinwatch_vm_pin_risk{risk="short_of_memory",verdict="will_fail",vm="db-7"} 1.0',
        'pinwatch_vm_pin_available_bytes{vm="db-7"} 3.2768e+07',
        'pinwatch_vm_placement_error_ratio{vm="db-7"} 0.01',
        'pinwatch_host_free_bytes{kind="unmovable_usable",node="0",zone="Normal"} 4.096e+07',
        'pinwatch_host_free_bytes{kind="movable",node="0",zone="Movable"} 1.073741824e+09',
        "pinwatch_placement_cpu_seconds_total 0.25",
    ):
        assert line in lines, line
