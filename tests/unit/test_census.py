"""Births, deaths and labels of VMs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pinwatch.aggregate.census import Census
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import HOST, UNATTRIBUTED, Device, Platform, SeriesLimits, Vm

A = Vm(name="web-01", uuid="6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21")
B = Vm(name="web-01", uuid="7b20cafe-0d4e-4c1b-9a57-1f0e6f0a9b21")
PLAIN = Vm(name="web-01")
KEEP_NS = 100


def key(tgid: int) -> TaskKey:
    return TaskKey(tgid, tgid * 1_000_000_000)


def census(*vms: Vm, max_vms: int = 10) -> Census:
    """Each VM with a process, numbered from 1."""
    made = Census(SeriesLimits(max_vms=max_vms, retention_ns=KEEP_NS))
    for number, vm in enumerate(vms, start=1):
        made.settle(key(number), vm)
    return made


def labels(of: Census) -> list[str]:
    return [of.vm_of(task).name for task in sorted(of.tasks)]


@pytest.mark.parametrize(
    ("vms", "expected"),
    [
        ((A, B), ["web-01", "web-01~7b20cafe"]),
        ((A, A), ["web-01", "web-01"]),  # on its way to another QEMU of this host
        ((A, B, B), ["web-01", "web-01~7b20cafe", "web-01~7b20cafe"]),
        ((PLAIN, B), ["web-01", "web-01~7b20cafe"]),
        ((A, PLAIN), ["web-01", "web-01~2"]),
        ((PLAIN, PLAIN, PLAIN), ["web-01", "web-01~2", "web-01~3"]),
        ((Vm(name="web-01~2"), PLAIN, PLAIN), ["web-01~2", "web-01", "web-01~3"]),
        (
            (A, B, Vm(name="web-01", uuid="7b20cafe-another")),
            ["web-01", "web-01~7b20cafe", "web-01~7b20cafe-another"],
        ),
    ],
)
def test_vms_that_live_at_once_are_told_apart(vms: tuple[Vm, ...], expected: list[str]) -> None:
    assert labels(census(*vms)) == expected


def test_numbers_are_used_again() -> None:
    of = census(PLAIN, PLAIN, PLAIN)
    of.leave(key(2), now_ns=0)
    of.settle(key(4), PLAIN)
    assert of.vm_of(key(4)).name == "web-01~2"
    assert len(of.shown) == 3


def test_a_label_lasts_as_long_as_its_vm() -> None:
    of = census(A, B)
    of.leave(key(1), now_ns=0)
    of.settle(key(2), B)
    assert of.vm_of(key(2)).name == "web-01~7b20cafe"
    of.settle(key(3), B)
    assert of.vm_of(key(3)).name == "web-01~7b20cafe"


@pytest.mark.parametrize("again", [A, B, PLAIN])
def test_the_next_vm_of_a_name_goes_on_with_its_series(again: Vm) -> None:
    of = census(A)
    series = of.series_of(key(1))
    of.leave(key(1), now_ns=0)
    of.settle(key(2), again)
    assert of.vm_of(key(2)) == again
    assert of.series_of(key(2)) is series
    of.retire(now_ns=KEEP_NS)
    assert of.series_of(key(2)) is series


def test_who_takes_over_a_label_is_known_by_it() -> None:
    of = census(A, B)
    of.leave(key(2), now_ns=0)
    literally = Vm(name="web-01~7b20cafe", uuid="c")
    for number in (3, 4):
        of.settle(key(number), literally)
        assert of.vm_of(key(number)) == literally


def test_a_process_found_in_proc_and_told_by_the_kernel_is_one() -> None:
    of = census(A)
    exact = TaskKey(1, 1_004_000_000)
    of.settle(exact, PLAIN)  # the record's command line was cut
    assert of.vm_of(exact) == A


def test_a_vm_that_starts_again_before_its_end_is_counted_keeps_its_label() -> None:
    of = census(PLAIN)
    series, exact = of.series_of(key(1)), TaskKey(1, 1_004_000_000)
    of.end(key(1))
    of.settle(key(2), PLAIN)
    assert of.vm_of(key(2)).name == "web-01"
    assert of.series_of(key(2)) is series
    of.settle(exact, PLAIN)  # its first record was on its way
    of.settle(key(3), PLAIN)
    assert [of.vm_of(task).name for task in (exact, key(3))] == ["web-01", "web-01~2"]
    for task in (key(1), exact):
        assert of.series_of(task) is series, "what it counts to the end is that VM's"
        of.leave(task, now_ns=0)
    of.retire(now_ns=KEEP_NS)
    assert of.series_of(key(2)) is series


@pytest.mark.parametrize("told", [PLAIN, UNATTRIBUTED])
def test_a_record_of_one_that_has_ended_is_its_vms(told: Vm) -> None:
    of = census(PLAIN)
    of.end(key(1))
    of.settle(key(2), PLAIN)
    exact = TaskKey(1, 1_004_000_000)
    of.settle(exact, told)
    assert of.vm_of(exact).name == "web-01"


def test_a_record_of_one_that_has_ended_does_not_hold_its_label() -> None:
    of = census(PLAIN)
    of.end(key(1))
    of.settle(TaskKey(1, 1_004_000_000), PLAIN)
    of.settle(key(2), PLAIN)
    assert of.vm_of(key(2)).name == "web-01"


def test_a_record_that_knows_a_better_name_is_believed() -> None:
    of = census(Vm(name="qemu-1"))
    of.settle(TaskKey(1, 1_004_000_000), A)
    assert of.vm_of(TaskKey(1, 1_004_000_000)) == A


def test_series_stay_for_the_retention_and_go() -> None:
    of = census(A)
    of.leave(key(1), now_ns=50)
    of.retire(now_ns=50 + KEEP_NS - 1)
    assert [resident.vm for resident in of.shown] == [A]
    of.retire(now_ns=50 + KEEP_NS)
    assert of.shown == ()
    of.settle(key(2), A)
    assert of.series_of(key(2)).frozen()["pinwatch_pin_migrated_pages_total"] == {(): 0}


def test_a_vm_with_a_process_left_is_alive() -> None:
    of = census(A, A)
    of.leave(key(1), now_ns=0)
    of.retire(now_ns=KEEP_NS)
    assert of.vm_of(key(2)) == A


def test_those_above_max_vms_share_series_for_life() -> None:
    of = census(A, Vm(name="b"), Vm(name="c"), max_vms=1)
    assert [of.vm_of(key(n)).label for n in (1, 2, 3)] == ["web-01", "~other", "~other"]
    assert of.vm_of(key(2)).name == "b"
    assert of.series_of(key(2)) is of.series_of(key(3))
    assert of.folded == 2
    of.leave(key(1), now_ns=0)
    of.retire(now_ns=KEEP_NS)
    of.settle(key(4), Vm(name="d"))
    assert [of.vm_of(key(n)).label for n in (2, 3, 4)] == ["~other", "~other", "d"]
    of.leave(key(2), now_ns=0)
    assert [resident.vm.name for resident in of.shown] == ["~other", "d"]


def test_a_folded_vm_that_comes_back_may_find_a_place() -> None:
    b = Vm(name="b")
    of = census(A, b, max_vms=1)
    of.leave(key(1), now_ns=0)
    of.leave(key(2), now_ns=KEEP_NS - 1)
    of.retire(now_ns=KEEP_NS)
    of.settle(key(3), b)
    assert of.vm_of(key(3)) == b


def test_a_folded_vm_still_has_a_name_of_its_own() -> None:
    of = census(A, B, max_vms=1)
    assert of.vm_of(key(2)).name == "web-01~7b20cafe"


def test_the_host_and_the_unnamed_need_no_place() -> None:
    of = census(HOST, UNATTRIBUTED, A, max_vms=1)
    assert labels(of) == ["~host", "~unattributed", "web-01"]
    for number in (1, 2, 3):
        of.leave(key(number), now_ns=0)
    of.retire(now_ns=KEEP_NS)
    assert [resident.vm for resident in of.shown] == [HOST, UNATTRIBUTED]


def test_a_process_may_become_a_vm_but_a_vm_stays_one() -> None:
    of = census(UNATTRIBUTED)
    for vm, expected in ((HOST, HOST), (UNATTRIBUTED, HOST), (A, A), (HOST, A), (B, A)):
        of.settle(key(1), vm)
        assert of.vm_of(key(1)) == expected


def test_what_is_found_later_is_added_and_what_is_lost_later_stays() -> None:
    more = replace(A, alias="Web", project="shop", platform=Platform.OPENSTACK)
    of = census(A)
    of.settle(key(1), more)
    assert of.vm_of(key(1)) == more
    of.settle(key(2), A)  # of a process that is gone only the command line is left
    assert of.vm_of(key(2)) == more
    of.settle(key(1), replace(more, name="another", alias="Another"))
    assert of.vm_of(key(1)) == more


def test_what_is_added_keeps_the_label() -> None:
    of = census(A, B)
    of.settle(key(2), replace(B, alias="Web"))
    assert of.vm_of(key(2)) == replace(B, name="web-01~7b20cafe", alias="Web")


def test_devices_belong_to_vms_only() -> None:
    nic = Device(address="0000:01:00.0", driver="vfio-pci", iommu_group="7")
    of = census(A, HOST)
    for number in (1, 2, 3):
        of.give_devices(key(number), (nic,))
    assert [of.devices_of(key(number)) for number in (1, 2, 3)] == [(nic,), (), ()]
    assert [of.is_vm(key(number)) for number in (1, 2, 3)] == [True, False, False]
