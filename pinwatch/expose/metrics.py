"""A snapshot turned into prometheus_client's families, as catalogue.py has them.

Opens nothing and computes no rates. Families with series for each VM are left to
expose/exposition.py, which writes many lines fast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.core import Exemplar as ClientExemplar

from pinwatch import __version__
from pinwatch.expose.catalogue import (
    BUILD,
    CMA,
    DURATION,
    FREE,
    HOOK,
    HOST_COUNTERS,
    LOOKING,
    LOSSES,
    RECONCILIATION,
    SAMPLED,
    STUCK,
    MetricSpec,
)
from pinwatch.model.failure import StuckPin
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.loss import LossKind
from pinwatch.model.placement import PAGE_BYTES, FreeMemory
from pinwatch.model.reason import FailureReason
from pinwatch.model.snapshot import Exemplar, Labels, Snapshot

EVENT_ID = "event_id"  # the label of exemplars: what `pinwatch why --event` takes
FIRST_SLOT = 10  # 1 µs: nothing shorter is worth a bucket

_NO_LOSSES = dict.fromkeys(map(str, LossKind), 0)


def host_families(snapshot: Snapshot, facts: KernelFacts) -> Iterator[Metric]:
    """What has no series for each VM."""
    since_s = snapshot.started_s
    for spec in HOST_COUNTERS:
        yield counter_family(spec, snapshot.host_counters.get(spec.name, {}), since_s)
    yield gauge_family(FREE, free_bytes(snapshot.free))
    yield counter_family(LOOKING, {(): snapshot.looking_cpu_s}, since_s)
    areas = facts.cma_areas or {}
    yield gauge_family(
        CMA, {(name,): sum(end - start for start, end in of) for name, of in areas.items()}
    )
    yield _stuck(snapshot)
    yield _durations(snapshot)
    yield gauge_family(
        HOOK, {(h.hook, h.symbol, str(h.mode)): int(h.attached) for h in snapshot.hooks}
    )
    losses = _NO_LOSSES | snapshot.losses
    yield counter_family(LOSSES, {(kind,): n for kind, n in losses.items()}, since_s)
    yield gauge_family(RECONCILIATION, {(n,): d for n, d in snapshot.reconciliation.items()})
    yield gauge_family(SAMPLED, {(): snapshot.time_s})
    build = InfoMetricFamily(BUILD.name, BUILD.help)
    build.add_metric((), {"version": __version__, "kernel": facts.release})
    yield build


def counter_family(
    spec: MetricSpec, values: Mapping[Labels, float], since_s: float | None = None
) -> CounterMetricFamily:
    """A family of counters, by the values of all its labels; `since_s` is when they began at 0,
    which is said of those that have counted."""
    family = CounterMetricFamily(spec.name, spec.help, labels=spec.labels, unit=spec.open_unit)
    for labels, value in values.items():
        family.add_metric(labels, value, since_s if value else None)
    return family


def gauge_family(spec: MetricSpec, values: Mapping[Labels, float]) -> GaugeMetricFamily:
    """A family of gauges, in the same way."""
    family = GaugeMetricFamily(spec.name, spec.help, labels=spec.labels, unit=spec.open_unit)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def info_family(spec: MetricSpec) -> InfoMetricFamily:
    """A family of infos, without any."""
    return InfoMetricFamily(spec.name, spec.help, labels=spec.labels)


def exemplar(of: Exemplar) -> ClientExemplar:
    """As the library writes it."""
    return ClientExemplar({EVENT_ID: of.event_id}, of.value, of.time_s)


def free_bytes(host: FreeMemory | None) -> dict[Labels, float]:
    """Free bytes by node, zone and who may have them."""
    values: dict[Labels, float] = {}
    for zone in host.zones if host else ():
        kind = "unmovable_usable" if zone.pinnable else "movable"
        values[str(zone.node), zone.name, kind] = (zone.free - zone.free_cma) * PAGE_BYTES
        if zone.cma:
            values[str(zone.node), zone.name, "cma"] = zone.free_cma * PAGE_BYTES
    return values


def _stuck(snapshot: Snapshot) -> GaugeMetricFamily:
    states = Counter[Labels](
        (s.vm.label, str(s.pin.source), stuck_state(s)) for s in snapshot.stuck
    )
    return gauge_family(STUCK, states)


def stuck_state(stuck: StuckPin) -> str:
    """isolation_livelock, or what it waits for; `working` when it is just long."""
    if stuck.livelock:
        return FailureReason.ISOLATION_LIVELOCK
    return stuck.pin.wait or "working"


Bucket = tuple[str, float] | tuple[str, float, ClientExemplar]


def _durations(snapshot: Snapshot) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        DURATION.name, DURATION.help, labels=DURATION.labels, unit=DURATION.open_unit
    )
    for histogram in snapshot.durations:
        labels = (histogram.source, "failed" if histogram.failed else "ok")
        events = snapshot.duration_exemplars.get((histogram.source, histogram.failed), {})
        family.add_metric(labels, buckets(histogram.slots, events), histogram.sum_ns / 1e9)
        if any(histogram.slots):
            began = dict(zip(DURATION.labels, labels, strict=True))
            family.add_sample(f"{DURATION.name}_created", began, snapshot.started_s)
    return family


def buckets(slots: tuple[int, ...], events: Mapping[int, Exemplar] | None = None) -> list[Bucket]:
    """Cumulative buckets; slot n holds durations of at most 2^n ns, the last one all that are
    longer. Each may have an event of `events`, which are by slot too."""
    found: list[Bucket] = []
    count, last = 0, len(slots) - 1
    known = {min(max(slot, FIRST_SLOT), last): of for slot, of in sorted((events or {}).items())}
    for slot, amount in enumerate(slots):
        count += amount
        if slot < min(FIRST_SLOT, last):
            continue
        edge = repr(2**slot / 1e9) if slot < last else "+Inf"
        event = known.get(slot)
        found.append((edge, float(count), exemplar(event)) if event else (edge, float(count)))
    return found
