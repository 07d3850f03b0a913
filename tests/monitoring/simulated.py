"""A fleet that is not there: each host is a real pipeline whose snapshot is rendered as a daemon
renders it, with VMs that come, pin, fail and go.

Failures are records of the lab (tests/replay), told of other VMs. `python -m
tests.monitoring.simulated` serves all of it over HTTP (tests/monitoring/serving.py).
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from uuid import UUID

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pinwatch import recording
from pinwatch.abi import layout
from pinwatch.expose import exposition
from pinwatch.expose.catalogue import (
    BROKEN,
    HISTORY_BYTES,
    HISTORY_EVENTS,
    HISTORY_WRITABLE,
    REFUSED,
    MetricSpec,
)
from pinwatch.expose.metrics import counter_family, gauge_family
from pinwatch.model.failure import Failure, SlowPin
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.pin import PinSource
from pinwatch.model.placement import Backing, FreeMemory, Limits, PinRules, Placement, Portion
from pinwatch.model.sample import Durations, KernelSample, Migrations, TaskKey, TaskTotals
from pinwatch.model.vm import Device, LibvirtDomain, SeriesLimits
from pinwatch.pipeline import Outcome, Pipeline
from pinwatch.recording import (
    Counted,
    DevicesFound,
    HooksChanged,
    Looked,
    RawRecord,
    Surveyed,
    TaskGone,
    VmFound,
)
from tests.monitoring.history import RECORDINGS
from tests.unit import make

GIB = 1 << 30
PAGE = 4096
VM_BYTES = 16 * GIB
OF_A_HOST, OF_FAILURES = "6.12-plain", "7.2-matrix"  # recordings
RETENTION_S = 1800
LOOKED_AT_EVERY_S = 480  # each VM; docs/cost.md: 100 VMs take 16 minutes
PINS_EVERY_S = 300  # one VM of a host, as when a device is plugged in
COMES_AND_GOES_EVERY_S = 600  # one VM, on each fifth host
FAILS_AT_S = tuple(range(180, 420, 30))  # on each fifth host
FIRST_MAP_AT_S = 270  # that failure is the first map of a VM that has just come
SLOW_AT_S = 300  # a pin, on the same hosts
ANSWERS_LATE_S = 8  # what was true so long ago, on each hundredth host, which fails as well
DIES_AT_S = 120  # each hundredth host

_OWN = {
    "process_virtual_memory_bytes": 120 << 20,
    "process_open_fds": 61,
    "process_max_fds": 1024,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a fleet, and how many of its seconds pass in one."""

    hosts: int
    vms: int
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """What hosts take from recordings."""

    facts: KernelFacts
    hooks: HooksChanged
    sample: KernelSample
    vmstat: dict[str, int]
    failures: tuple[bytes, ...]  # records of pins
    slow: tuple[bytes, ...]


def _items(name: str) -> tuple[recording.Header, list[recording.Item]]:
    with gzip.open(RECORDINGS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        header, items = recording.read(lines)
        return header, list(items)


@cache
def recorded() -> Recorded:
    _, items = _items(OF_A_HOST)
    counted = [item for item in items if isinstance(item, Counted)][-1]
    header, failing = _items(OF_FAILURES)
    pipeline = Pipeline(header.facts, header.wall_offset_ns, header.series)
    came = [(item.data, pipeline.feed(item)) for item in failing if isinstance(item, RawRecord)]
    return Recorded(
        facts=header.facts,
        hooks=[item for item in items if isinstance(item, HooksChanged)][-1],
        sample=counted.sample,
        vmstat=counted.vmstat,
        failures=tuple(data for data, outcome in came if isinstance(outcome, Failure)),
        slow=tuple(data for data, outcome in came if isinstance(outcome, SlowPin)),
    )


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM of Nova's, by its number on the host."""

    host: int
    number: int

    @property
    def task(self) -> TaskKey:
        return TaskKey(10_000 + self.number, (self.number + 1) * 1_000_000_000)

    @property
    def name(self) -> str:
        return f"instance-{self.host:04x}{self.number:04x}"

    @property
    def uuid(self) -> str:
        spread = (self.host << 32 | self.number) * 0x9E3779B97F4A7C15F39CC0605CEDC835
        return str(UUID(int=spread % (1 << 128), version=4))

    def found(self) -> VmFound:
        cmdline = (
            "/usr/bin/qemu-system-x86_64", "-name", f"guest={self.name},debug-threads=on",
            "-object", '{"qom-type":"secret","id":"masterKey0"}', "-uuid", self.uuid,
        )  # fmt: skip
        domain = LibvirtDomain(
            name=self.name, uuid=self.uuid, tgid=self.task.tgid, title=f"web-{self.number}",
            project=f"tenant-{self.host % 7}", is_nova=True,
        )  # fmt: skip
        return VmFound(self.task, cmdline, domain=domain)

    def devices(self) -> DevicesFound:
        bus, function = divmod(self.number, 8)
        address = f"0000:{0x3B + bus % 16:02x}:{bus // 16:02x}.{function}"
        device = Device(address=address, driver="vfio-pci", iommu_group=str(self.number))
        return DevicesFound(self.task, (device,))

    def placement(self) -> Placement:
        """Huge and small pages in kernel zones and in ZONE_MOVABLE of one node."""
        page = replace(make.placement().portions[0].page, node=self.number % 2)
        portions = tuple(
            Portion(replace(page, zone=zone, backing=backing), size)
            for zone, backing, size in (
                ("Normal", Backing.THP, VM_BYTES // 2), ("Normal", Backing.BASE, VM_BYTES // 8),
                ("Movable", Backing.THP, VM_BYTES // 4), ("Movable", Backing.BASE, VM_BYTES // 8),
            )
        )  # fmt: skip
        memory = make.placement().mappings[0]
        memory = replace(memory, end=memory.start + VM_BYTES)
        return Placement(
            mappings=(memory,), portions=portions, error=0.004, samples=20_000,
        )  # fmt: skip


class Host:
    """One machine; time is the fleet's, in seconds since it was first looked at."""

    def __init__(self, number: int, shape: Shape, began_s: float) -> None:
        self.number = number
        self.name = f"compute-{number:04}"
        self.happened: Counter[tuple[str, ...]] = (
            Counter()
        )  # failures by vm, source, reason, holder
        self._began_s = began_s
        self._speed = shape.speed
        self._pipeline = Pipeline(
            recorded().facts, 0,
            SeriesLimits(retention_ns=round(RETENTION_S / shape.speed * 1e9)),
        )  # fmt: skip
        self._pipeline.feed(recorded().hooks)
        self._guests: list[Guest] = []
        self._made = 0
        self._pins: dict[TaskKey, TaskTotals] = {}
        self._failed = self._slow = 0
        self._looked_s = self._pinned_s = self._changed_s = 0.0
        self._next_look = 0
        self._feed_sample(began_s)
        self._survey(0.0)
        for _ in range(shape.vms):
            self._start()
        for guest in self._guests:
            self._look(guest, began_s)
        self._feed_sample(began_s)

    # ---- what kind of host ------------------------------------------------------------------

    @property
    def fails(self) -> bool:
        return self.number % 5 == 3

    @property
    def late_s(self) -> float:
        return (self.number % 100 == 3) * ANSWERS_LATE_S / self._speed

    @property
    def changes(self) -> bool:
        return self.number % 5 == 1

    @property
    def dies(self) -> bool:
        return self.number % 100 == 5

    @property
    def is_short(self) -> bool:
        """Of memory for pins."""
        return self.number % 25 == 7

    # ---- what it answers --------------------------------------------------------------------

    def answer(self, now_s: float, form: exposition.Format) -> bytes | None:
        """As of now; None when it is dead."""
        passed_s = (now_s - self._began_s) * self._speed
        if self.dies and passed_s > DIES_AT_S:
            return None
        self._advance(now_s, passed_s)
        snapshot, facts = self._pipeline.snapshot(), recorded().facts
        shown = exposition.expose(snapshot, facts, self._own(passed_s))
        return b"".join(shown.encode(form))

    def _own(self, passed_s: float) -> Iterator[Metric]:
        """What the daemon says of itself."""
        for spec in (REFUSED, BROKEN):
            yield counter_family(spec, {(): 0})
        kept: dict[MetricSpec, float] = {
            HISTORY_WRITABLE: 1,
            HISTORY_BYTES: 3 << 20,
            HISTORY_EVENTS: 900 + self._failed,
        }
        process: dict[str, float] = {
            **_OWN,
            "process_resident_memory_bytes": (41 << 20) + 4096 * (int(passed_s) % 97),
            "process_start_time_seconds": self._began_s - 86_400 - self.number,
        }
        for spec, value in kept.items():
            yield gauge_family(spec, {(): value})
        for name, value in process.items():
            yield GaugeMetricFamily(name, "Of the process.", value)
        yield CounterMetricFamily("process_cpu_seconds", "Of the process.", 250 + 0.003 * passed_s)
        python = GaugeMetricFamily("python_info", "Of it.", labels=("implementation", "version"))
        python.add_metric(("CPython", "3.11.2"), 1)
        yield python

    # ---- what happens -----------------------------------------------------------------------

    def _advance(self, now_s: float, passed_s: float) -> None:
        self._survey(passed_s)
        while self._guests and passed_s - self._looked_s > LOOKED_AT_EVERY_S / len(self._guests):
            self._looked_s += LOOKED_AT_EVERY_S / len(self._guests)
            self._next_look += 1
            self._look(self._guests[self._next_look % len(self._guests)], now_s)
        if passed_s - self._pinned_s > PINS_EVERY_S:
            self._pinned_s = passed_s
            self._pin(self._guests[self._next_look % len(self._guests)], failed=False)
        if self.changes and passed_s - self._changed_s > COMES_AND_GOES_EVERY_S:
            self._changed_s = passed_s
            self._pipeline.feed(TaskGone(self._guests.pop(0).task))
            self._look(self._start(), now_s)
        while self.fails and self._failed < len(FAILS_AT_S) and passed_s > FAILS_AT_S[self._failed]:
            self._fail(now_s)
        if self.fails and not self._slow and passed_s > SLOW_AT_S:
            self._slow_pin(now_s)
        self._feed_sample(now_s, passed_s)

    def _start(self) -> Guest:
        guest = Guest(self.number, self._made)
        self._made += 1
        self._guests.append(guest)
        self._pipeline.feed(guest.found())
        self._pipeline.feed(guest.devices())
        self._pin(guest, failed=False)
        return guest

    def _fail(self, now_s: float) -> None:
        """The next record of the lab, of one of the newest VMs or of one that starts with it."""
        first_map = FAILS_AT_S[self._failed] == FIRST_MAP_AT_S
        guest = self._start() if first_map else self._guests[-1 - self._failed // 2 % 4]
        at = self.number * len(FAILS_AT_S) + self._failed
        failure = self._replay(recorded().failures, at, guest, now_s)
        assert isinstance(failure, Failure)
        of = failure.vm.label, str(failure.pin.source), str(failure.reason)
        self.happened[(*of, str(failure.holder.holder))] += 1
        self._failed += 1
        self._pin(guest, failed=True)

    def _slow_pin(self, now_s: float) -> None:
        self._slow += 1
        found = self._replay(recorded().slow, self.number, self._guests[-1], now_s)
        assert isinstance(found, SlowPin)

    def _replay(
        self, records: tuple[bytes, ...], at: int, guest: Guest, now_s: float
    ) -> Outcome | None:
        """One of them, told of a guest as of now."""
        record = layout.PinRecord.from_buffer_copy(records[at % len(records)])
        record.head.tgid = record.head.tid = guest.task.tgid
        record.head.task_start_ns, record.head.time_ns = guest.task.start_ns, round(now_s * 1e9)
        record.cmdline.len = 0  # who it is is known
        return self._pipeline.feed(RawRecord(bytes(record)))

    def _pin(self, guest: Guest, *, failed: bool) -> None:
        old = self._pins.get(guest.task)
        self._pins[guest.task] = TaskTotals(
            task=guest.task, source=PinSource.VFIO_TYPE1, migrate_failed=0,
            pins=(old.pins if old else 5) + 1,
            failures=(old.failures if old else 0) + failed,
            pages=(old.pages if old else 0) + (0 if failed else VM_BYTES // PAGE),
            migrated=(old.migrated if old else 0) + 512,
        )  # fmt: skip

    # ---- what is read -----------------------------------------------------------------------

    def _look(self, guest: Guest, now_s: float) -> None:
        at_ns, place = round(now_s * 1e9), guest.placement()
        self._pipeline.feed(
            Looked(
                task=guest.task, time_ns=at_ns, placement=place, limits=Limits(), rules=PinRules()
            )
        )

    def _survey(self, passed_s: float) -> None:
        self._pipeline.feed(Surveyed(self._free(passed_s), 11 + 0.002 * passed_s))

    def _free(self, passed_s: float) -> FreeMemory:
        """Two nodes with kernel zones and ZONE_MOVABLE; what is free goes up and down."""
        size = 128 * GIB // PAGE
        free = (1 if self.is_short else 40) * GIB // PAGE + int(passed_s * 7919) % 65_536
        normal, movable = (
            replace(zone, spanned=size, present=size, managed=size) for zone in make.free().zones
        )
        by_order = (0,) * 9 + (free // 1024, free // 2048)
        zones = (
            replace(zone, node=node, free=free + node, by_order=by_order)
            for node in (0, 1) for zone in (normal, movable)
        )  # fmt: skip
        return FreeMemory(zones=tuple(zones))

    def _feed_sample(self, now_s: float, passed_s: float = 0.0) -> None:
        old = recorded().sample
        busy = tuple(
            Migrations(
                reason=of.reason, failed=of.failed,
                succeeded=of.succeeded + int(passed_s * 40) * (of.reason == "compaction"),
            )
            for of in old.migrations
        )  # fmt: skip
        sample = replace(
            old, time_ns=round(now_s * 1e9), totals=tuple(self._pins.values()), open_pins=(),
            migrations=busy, durations=tuple(map(self._duration, old.durations)),
        )  # fmt: skip
        self._pipeline.feed(Counted(sample, recorded().vmstat))

    def _duration(self, old: Durations) -> Durations:
        if old.source is not PinSource.VFIO_TYPE1:
            return old
        pins = sum(t.failures if old.failed else t.pins for t in self._pins.values())
        slots = list(old.slots)
        slots[27] += pins
        return replace(old, slots=tuple(slots), sum_ns=old.sum_ns + pins * 100_000_000)


class Fleet:
    """All hosts by name."""

    def __init__(self, shape: Shape, began_s: float) -> None:
        every = (Host(number, shape, began_s) for number in range(shape.hosts))
        self.hosts = {host.name: host for host in every}
