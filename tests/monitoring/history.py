"""Two hours of a fleet, as Prometheus would have scraped them.

Hosts are recordings of the lab, replayed with their end at `now`; one host of which everything is
bad that no recording has; one that has died; and what the same Prometheus scrapes beside pinwatch.
Gives samples as OpenMetrics text for promtool.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client.core import Metric

from pinwatch import recording
from pinwatch.expose import exposition
from pinwatch.expose.catalogue import (
    BROKEN,
    HISTORY_BYTES,
    HISTORY_EVENTS,
    HISTORY_WRITABLE,
    REFUSED,
)
from pinwatch.expose.metrics import counter_family, gauge_family
from pinwatch.model.failure import StuckPin
from pinwatch.model.hint import Hint, Timing
from pinwatch.model.kernel import HookState, KernelFacts, Mode
from pinwatch.model.placement import Cma
from pinwatch.model.snapshot import Labels, Snapshot
from pinwatch.model.vm import HOST, Device
from pinwatch.pipeline import Pipeline
from tests.unit import make

RECORDINGS = Path(__file__).resolve().parents[1] / "replay"
REPLAYED = {"lab-6.1": "6.1-matrix", "lab-6.12": "6.12-fragmented", "lab-7.2": "7.2-matrix"}
BAD_HOST, DEAD_HOST = "bad-host", "dead-host"
# Exporters that are not ours, and whether they answer; one has the name of a host of ours.
FOREIGN = {"node-1:9100": True, "node-2:9100": False, BAD_HOST: True}
FOREIGN_JOB, FOREIGN_LABELS = "node", {"source": "eu", "vm": "x"}
SCRAPE_S = 30
TAIL_S = 180  # the end of a recording goes on for so long
BAD_FOR_S = 7200
DAY_S = 86400
BAD_FACTS = replace(make.FACTS, cma_areas={"reserved": ((1 << 17, (1 << 17) + (1 << 16)),)})
BAD_SINCE_S = 600  # so long before the end do the failures of the bad host begin


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a host answered at a time; None: nothing."""

    instance: str
    time: float
    started: float  # the daemon
    text: str | None
    job: str = "pinwatch"
    labels: Mapping[str, str] = field(default_factory=dict)  # that its targets have besides


def last_snapshot(name: str) -> Snapshot:
    """At the end of a recording."""
    *_, (_, snapshot, _) = _snapshots(name)
    return snapshot


def _snapshots(name: str) -> Iterator[tuple[float, Snapshot, KernelFacts]]:
    """At each scrape, with the seconds until the end."""
    with gzip.open(RECORDINGS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        header, items = recording.read(lines)
        every = list(items)
    end = max(i.sample.time_ns for i in every if isinstance(i, recording.Counted)) / 1e9
    facts = header.facts
    pipeline = Pipeline(facts, header.wall_offset_ns, header.series)
    due = 0.0
    for item in every:
        pipeline.feed(item)
        if isinstance(item, recording.Counted) and (at := item.sample.time_ns / 1e9) >= due:
            due = at + SCRAPE_S
            yield end - at, pipeline.snapshot(), facts
    yield 0.0, pipeline.snapshot(), facts


def scrapes(now: float) -> Iterator[Scrape]:
    """All targets, each in the order of time."""
    for instance, name in REPLAYED.items():
        yield from _replayed(instance, name, now - TAIL_S)
    yield from _bad(now)
    for age in range(BAD_FOR_S, -1, -SCRAPE_S):
        yield Scrape(DEAD_HOST, now - age, now - 9000, None)
    yield from foreign(now)


def foreign(now: float) -> Iterator[Scrape]:
    """What a node_exporter answers."""
    for instance, answers in FOREIGN.items():
        text = "node_load1 0.5" if answers else None
        for age in range(BAD_FOR_S, -1, -SCRAPE_S):
            yield Scrape(instance, now - age, now - 9000, text, FOREIGN_JOB, FOREIGN_LABELS)


def _replayed(instance: str, name: str, end: float) -> Iterator[Scrape]:
    started = None
    for left, snapshot, facts in _snapshots(name):
        at = end - left
        started = started or at - 2
        yield Scrape(instance, at, started, _text(replace(snapshot, time_s=at), facts))
    for later in range(SCRAPE_S, TAIL_S + 1, SCRAPE_S):
        yield Scrape(
            instance, end + later, started or 0.0, _text(replace(snapshot, time_s=end), facts)
        )


def _text(
    snapshot: Snapshot, facts: KernelFacts, *, writable: bool = True, refused: int = 0
) -> str:
    own: list[Metric] = [counter_family(spec, {(): refused}) for spec in (REFUSED, BROKEN)]
    kept = {HISTORY_WRITABLE: int(writable), HISTORY_BYTES: 3 << 20, HISTORY_EVENTS: 900}
    own += [gauge_family(spec, {(): value}) for spec, value in kept.items()]
    parts = exposition.expose(snapshot, facts, own)
    return b"".join(parts.encode(exposition.TEXT)).decode()


def _bad(now: float) -> Iterator[Scrape]:
    yield Scrape(BAD_HOST, now - DAY_S, now - DAY_S, None)  # it is no new one
    for age in range(BAD_FOR_S, -1, -SCRAPE_S):
        steps = max(0, BAD_SINCE_S - age) // SCRAPE_S
        text = _text(bad(now, steps), BAD_FACTS, writable=False, refused=steps)
        yield Scrape(BAD_HOST, now - age, now - 9000, text)


def bad(now: float, steps: int) -> Snapshot:
    """A host of which everything is bad, so many scrapes after that began."""
    holds = make.free()
    cma = replace(holds.zones[0], cma=1 << 16, free_cma=1 << 15)
    cma = replace(cma, free=(1 << 15) + 1024, file=1 << 17)
    host = make.free(zones=(cma, holds.zones[1]))
    in_cma = make.placement(movable=8 << 30, kernel=64 << 20)
    page = replace(in_cma.portions[1].page, cma=Cma.YES)
    in_cma = replace(
        in_cma, portions=(*in_cma.portions, replace(in_cma.portions[1], page=page)), error=0.004
    )
    outlook = replace(make.outlook(in_cma, host), time_s=now - 60)
    must_reclaim = replace(make.outlook(make.placement(), host), time_s=now - 30)
    vm_counters: dict[str, Mapping[Labels, float]] = {
        "pinwatch_longterm_pins_total": {("vfio_type1",): 4.0 + steps},
        "pinwatch_longterm_pinned_pages_total": {("vfio_type1",): 4096.0 * (4 + steps)},
        "pinwatch_pin_migrated_pages_total": {(): 512.0 * steps},
        "pinwatch_vm_hints_total": {
            (str(Hint.HUGEPAGE), str(Timing.AFTER_POPULATE), ""): 2.0,
            (str(Hint.MLOCK), str(Timing.BEFORE_POPULATE), "ENOMEM"): 1.0,
        },
        "pinwatch_vfio_map_failures_total": {("ENOMEM", "thp_split_refs"): float(steps // 4)},
    }
    if steps:
        vm_counters |= {
            "pinwatch_longterm_pin_failures_total": {
                ("iommufd", "thp_split_refs", "drop_caches"): float(steps)
            },
            "pinwatch_longterm_slow_pins_total": {
                ("vfio_type1", "writeback"): float(steps),
                ("vfio_type1", "work"): 1.0,
            },
            "pinwatch_pin_migration_failed_folios_total": {
                ("thp_split_refs", "Movable", "9"): float(steps)
            },
            "pinwatch_thp_split_failures_total": {("EAGAIN",): 10.0 * steps},
        }
    stuck = StuckPin(vm=make.VM, pin=make.open_pin(), age_s=5.0, livelock=True)
    return Snapshot(
        time_s=now - 300,
        vms=(make.VM, replace(make.VM, name="db-01"), HOST),
        hints={},
        devices={"web-01": (Device(address="0000:3b:00.0", driver="vfio-pci", iommu_group="41"),)},
        host_counters={
            "pinwatch_vms_folded_total": {(): float(steps // 4)},
            "pinwatch_process_rescans_total": {(): float(steps // 4)},
            "pinwatch_host_migrations_total": {
                ("compaction", "ok"): 100.0 * steps, ("compaction", "failed"): 20.0 * steps,
                ("longterm_pin", "failed"): 1.0 * steps,
            },
            "pinwatch_host_thp_split_failures_total": {("EAGAIN",): 10.0 * steps},
            "pinwatch_cma_alloc_failures_total": {("reserved",): float(steps)},
        },
        vm_counters={
            "web-01": vm_counters,
            "db-01": {"pinwatch_longterm_pins_total": {("vfio_type1",): 0.0}},
        },
        durations=(),
        losses={"ring_full": steps, "history": steps, "read_fault": 0},
        reconciliation={"pgmigrate_fail": -steps, "nr_foll_pin_acquired": -64},
        hooks=(
            HookState(hook="vfio_map", symbol="vfio_iommu_type1_ioctl", mode=Mode.FENTRY),
            HookState(hook="split", symbol="__folio_split", mode=Mode.OFF),
            HookState(hook="folio_undo", symbol="", mode=Mode.OFF),
            HookState(hook="iommufd_map", symbol="iommufd_ioas_map", mode=Mode.WAITING),
        ),
        failures=(),
        slow_pins=(),
        stuck=(stuck,) if steps else (),
        free=host,
        outlooks={"web-01": outlook, "db-01": must_reclaim},
        looking_cpu_s=0.02 * steps,
    )  # fmt: skip


def openmetrics(scraped: Iterable[Scrape]) -> Iterator[str]:
    """Samples with the labels and the time that Prometheus would give them."""
    for scrape in scraped:
        for sample in _samples(scrape):
            name, _, value = sample.rpartition(" ")
            target = {"job": scrape.job, "instance": scrape.instance, **scrape.labels}
            labels = ",".join(f'{label}="{value}"' for label, value in target.items())
            head, brace, rest = name.partition("{")
            whole = f"{head}{{{labels},{rest}" if brace else f"{head}{{{labels}}}"
            yield f"{whole} {value} {scrape.time:.3f}\n"
    yield "# EOF\n"


def _samples(scrape: Scrape) -> Iterator[str]:
    yield f"up {int(scrape.text is not None)}"
    yield "scrape_duration_seconds 0.012"
    if scrape.text is None:
        return
    lines = [line for line in scrape.text.splitlines() if not line.startswith("#")]
    yield from lines
    yield f"scrape_samples_scraped {len(lines)}"
    # prometheus_client's own, of the daemon's process
    yield f"process_start_time_seconds {scrape.started:.3f}"
    yield f"process_cpu_seconds_total {3 + 0.01 * (scrape.time - scrape.started):.3f}"
    yield f"process_resident_memory_bytes {38 << 20}"
    yield "process_open_fds 61"
