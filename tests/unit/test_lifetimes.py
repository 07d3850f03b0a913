"""Series over the lives of many VMs: nothing is lost, nothing is left behind."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pinwatch.aggregate.ledger import Ledger
from pinwatch.expose import exposition
from pinwatch.model.pin import PinSource
from pinwatch.model.sample import TaskKey, TaskTotals
from pinwatch.model.snapshot import Counters
from pinwatch.model.vm import HOST, UNATTRIBUTED, SeriesLimits, Vm
from tests.unit.make import FACTS, TASK, failure, pin, sample

SECOND = 1_000_000_000
LIMITS = SeriesLimits(max_vms=3, retention_ns=100 * SECOND)
OTHERS = {"~host", "~unattributed", "~other"}


def totals(task: TaskKey, pins: int) -> TaskTotals:
    return TaskTotals(
        task=task, source=PinSource.VFIO_TYPE1, pins=pins, failures=0, pages=8 * pins,
        migrated=2 * pins, migrate_failed=0,
    )  # fmt: skip


def sums(counters: Counters) -> Counter[str]:
    return Counter({metric: int(sum(values.values())) for metric, values in counters.items()})


class Lives(RuleBasedStateMachine):
    """VMs are born, pin, fail and die in any order, and time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(LIMITS)
        self.now_ns = 0
        self.pins: dict[TaskKey, int] = {}  # alive
        self.labels: dict[TaskKey, str] = {}  # of VMs
        self.ending: dict[TaskKey, str] = {}  # of those that have ended and may still count
        self.who: dict[TaskKey, tuple[str, str]] = {}  # name and uuid, or else the process
        self.alive_ns: dict[str, int] = {}  # when a label had a process last
        self.born = 0
        self.counted: Counter[str] = Counter()
        self.retired: Counter[str] = Counter()
        self.seen: dict[str, Counters] = {}

    def new_task(self) -> TaskKey:
        self.born += 1
        task = TaskKey(self.born, self.now_ns)
        self.pins[task] = 0
        return task

    def any_task(self, data: st.DataObject) -> TaskKey:
        return data.draw(st.sampled_from(sorted(self.pins)))

    @rule(
        name=st.sampled_from(["a", "b", "a~2"]),
        uuid=st.sampled_from(["", "11111111-1", "11111111-2", "22222222-1"]),
    )
    def vm_is_born(self, name: str, uuid: str) -> None:
        task = self.new_task()
        self.ledger.name_task(task, Vm(name=name, uuid=uuid))
        self.labels[task] = self.ledger.vm_of(task).name
        self.who[task] = (name, uuid) if uuid else (name, str(task))

    @rule(vm=st.sampled_from([HOST, UNATTRIBUTED, None]))
    def process_is_born(self, vm: Vm | None) -> None:
        task = self.new_task()
        if vm is not None:
            self.ledger.name_task(task, vm)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def process_dies(self, data: st.DataObject) -> None:
        task = self.any_task(data)
        self.ledger.forget_task(task)
        del self.pins[task]
        self.labels.pop(task, None)
        self.ending.pop(task, None)

    @precondition(lambda self: self.labels)
    @rule(data=st.data())
    def process_ends(self, data: st.DataObject) -> None:
        """It may count and fail after that, until its death is known."""
        task = data.draw(st.sampled_from(sorted(self.labels)))
        self.ledger.end_task(task)
        self.ending[task] = self.labels.pop(task)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def process_pins(self, data: st.DataObject) -> None:
        self.pins[self.any_task(data)] += 1
        self.counted["pinwatch_longterm_pins_total"] += 1
        self.counted["pinwatch_longterm_pinned_pages_total"] += 8
        self.counted["pinwatch_pin_migrated_pages_total"] += 2
        self.time_passes(0)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def process_fails(self, data: st.DataObject) -> None:
        task = self.any_task(data)
        self.ledger.add_failure(failure(pin(task=replace(TASK, key=task))))
        self.counted["pinwatch_vfio_map_failures_total"] += 1
        self.counted["pinwatch_longterm_pin_failures_total"] += 1
        self.counted["pinwatch_pin_migration_failed_folios_total"] += 1

    @rule(seconds=st.integers(0, 150))
    def time_passes(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND
        counts = tuple(totals(task, pins) for task, pins in self.pins.items())
        self.ledger.add_sample(sample(time_ns=self.now_ns, totals=counts))

    @invariant()
    def series_are_bounded(self) -> None:
        snapshot = self.ledger.snapshot()
        assert [vm.name for vm in snapshot.vms] == list(snapshot.vm_counters)
        assert len(snapshot.vm_counters.keys() - OTHERS) <= LIMITS.max_vms

    @invariant()
    def a_label_lasts_and_is_one_vms(self) -> None:
        vms = {task: self.ledger.vm_of(task) for task in self.labels}
        assert {task: vm.name for task, vm in vms.items()} == self.labels
        assert len({(self.who[task], label) for task, label in self.labels.items()}) == len(
            set(self.labels.values())
        )
        shown = self.ledger.snapshot().vm_counters
        assert all(vm.label in shown for vm in vms.values())

    @invariant()
    def the_dead_go_in_time(self) -> None:
        here = {*self.labels.values(), *self.ending.values()}
        self.alive_ns |= dict.fromkeys(here, self.now_ns)
        oldest = self.now_ns - LIMITS.retention_ns
        for label in self.ledger.snapshot().vm_counters.keys() - OTHERS:
            assert label in here or self.alive_ns[label] > oldest

    @invariant()
    def counters_fall_only_when_a_dead_vm_goes(self) -> None:
        now = self.ledger.snapshot().vm_counters
        for label, before in self.seen.items():
            if label not in now:
                assert label not in self.labels.values()
                self.retired += sums(before)
                continue
            for metric, values in before.items():
                assert all(now[label][metric][key] >= value for key, value in values.items())
        self.seen = dict(now)

    @invariant()
    def nothing_is_lost(self) -> None:
        shown = sum(map(sums, self.ledger.snapshot().vm_counters.values()), Counter())
        assert +(shown + self.retired) == +self.counted

    @invariant()
    def nothing_is_kept_of_the_dead(self) -> None:
        assert set(self.ledger.tasks) <= set(self.pins)


Lives.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestLives = Lives.TestCase


def live_and_die(ledger: Ledger, numbers: range) -> None:
    """Each pins and dies within a second; some fail, and some are told by their samples alone."""
    failed = failure(pin(split_failed=1))
    for number in numbers:
        task = TaskKey(number, number * SECOND)
        if number % 10:
            uuid = f"{number:08x}-0d4e-4c1b-9a57-1f0e6f0a9b21"
            ledger.name_task(task, Vm(name=f"vm-{number % 2000}", uuid=uuid))
        if number % 2:
            its_pin = replace(failed.pin, task=replace(TASK, key=task))
            ledger.add_failure(replace(failed, pin=its_pin))
        ledger.add_sample(sample(time_ns=number * SECOND, totals=(totals(task, 5),)))
        ledger.forget_task(task)


def test_ten_thousand_lives_leave_nothing_behind() -> None:
    ledger = Ledger(SeriesLimits(max_vms=80, retention_ns=100 * SECOND))
    tracemalloc.start()
    try:
        sizes, texts = [], []
        for numbers in (range(2_000), range(2_000, 12_000)):
            live_and_die(ledger, numbers)
            ledger.add_sample(sample(time_ns=(numbers.stop + 100) * SECOND))
            texts.append(exposition.text(ledger.snapshot(), FACTS))
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert not ledger.tasks
    assert set(ledger.snapshot().vm_counters) == {"~unattributed", "~other"}
    assert texts[0].count("\n") == texts[1].count("\n")
    assert sizes[1] - sizes[0] < 200_000  # 20 bytes for each that lived
