"""A snapshot as the text that Prometheus reads.

prometheus_client writes everything but the samples that exist for each VM: at 1 000 VMs those are
70 000 lines, for which it needs more than half a second. They are written here, as it would write
them (tests/unit/test_exposition.py compares). What only OpenMetrics has, when a counter began and
which event it counted last, stands only beside samples that have counted: idle VMs cost the same in
both formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pinwatch.expose import gauges
from pinwatch.expose.catalogue import (
    VM_COUNTERS,
    VM_DEVICE,
    VM_GAUGES,
    VM_INFO,
    MetricSpec,
)
from pinwatch.expose.metrics import (
    EVENT_ID,
    counter_family,
    gauge_family,
    host_families,
    info_family,
)
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.snapshot import Labels, Mark, Snapshot
from pinwatch.model.vm import Vm

_VM = "\0"  # stands for the VM in lines that VMs share; attribute/names.py spells NUL out
_END = b"# EOF\n"
_NO_MARKS: Mapping[Labels, Mark] = {}

_spelled: Callable[[float], str] = floatToGoString
_number = lru_cache(maxsize=1024)(_spelled)


@dataclass(frozen=True, slots=True)
class Format:
    """A format of expositions."""

    content_type: str
    encoder: Callable[[Collector], bytes]
    is_marked: bool  # it has creation times and exemplars


# What every Prometheus reads.
TEXT = Format("text/plain; version=0.0.4; charset=utf-8", generate_latest, False)
OPENMETRICS = Format(CONTENT_TYPE_LATEST, generate_openmetrics, True)


class Row(NamedTuple):
    """Samples of a VM: other label values -> value."""

    vm: str
    values: Mapping[Labels, float]
    marks: Mapping[Labels, Mark] = _NO_MARKS


@dataclass(frozen=True, slots=True)
class _Families(Collector):
    """What an encoder takes for a registry."""

    metrics: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        return self.metrics


@dataclass(frozen=True, slots=True)
class _OfVms:
    """A family of which each VM has samples: its head, which has none, and they."""

    head: Metric
    name: str
    labels: Labels
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Exposition:
    """A snapshot's families, to be written in any format."""

    of_vms: tuple[_OfVms, ...]
    rest: tuple[Metric, ...]

    def encode(self, form: Format) -> list[bytes]:
        """The parts of the text."""
        parts: list[bytes] = []
        for of in self.of_vms:
            parts.append(form.encoder(_Families((of.head,))).removesuffix(_END))
            parts.append(lines(of.name, of.labels, of.rows, marked=form.is_marked))
        rest = self.rest if form.is_marked else tuple(map(_unmarked, self.rest))
        return [*parts, form.encoder(_Families(rest))]


def expose(snapshot: Snapshot, facts: KernelFacts, also: Iterable[Metric] = ()) -> Exposition:
    """All metrics of a snapshot, and others that belong into the same exposition."""
    return Exposition(tuple(_of_vms(snapshot)), (*host_families(snapshot, facts), *also))


def text(snapshot: Snapshot, facts: KernelFacts) -> str:
    """The exposition for people."""
    return b"".join(expose(snapshot, facts).encode(TEXT)).decode()


def _unmarked(family: Metric) -> Metric:
    """The library writes creation times in the text format too, as gauges that nobody asked for."""
    kept = Metric(family.name, family.documentation, family.type)
    kept.samples = [s for s in family.samples if not s.name.endswith("_created")]
    return kept


def _of_vms(snapshot: Snapshot) -> Iterator[_OfVms]:
    for spec in VM_COUNTERS:
        yield _family(counter_family(spec, {}), spec, list(_counted(snapshot, spec.name)))
    info = [Row(vm.name, {_identity(vm): 1}) for vm in snapshot.vms if vm.is_one]
    yield _family(info_family(VM_INFO), VM_INFO, info)
    given = [
        Row(vm, {(d.address, d.driver, d.iommu_group): 1 for d in devices})
        for vm, devices in snapshot.devices.items()
    ]
    yield _family(info_family(VM_DEVICE), VM_DEVICE, given)
    yield from _outlooks(snapshot)


def _family(head: Metric, spec: MetricSpec, rows: Sequence[Row]) -> _OfVms:
    return _OfVms(head, spec.exposed_name, spec.labels, rows)


def _counted(snapshot: Snapshot, name: str) -> Iterator[Row]:
    for vm, counters in snapshot.vm_counters.items():
        if name in counters:
            marks = snapshot.vm_marks.get(vm, {}).get(name, _NO_MARKS)
            yield Row(vm, counters[name], marks)


def _outlooks(snapshot: Snapshot) -> Iterator[_OfVms]:
    rows: dict[str, list[Row]] = {spec.name: [] for spec in VM_GAUGES}
    for vm, outlook in snapshot.outlooks.items():
        for spec, values in gauges.of_vm(outlook):
            rows[spec.name].append(Row(vm, values))
    for spec in VM_GAUGES:
        yield _family(gauge_family(spec, {}), spec, rows[spec.name])


def _identity(vm: Vm) -> Labels:
    return (vm.uuid, vm.platform, vm.vmm, vm.basis, vm.alias, vm.project, vm.pod)


def lines(name: str, labels: Labels, rows: Sequence[Row], *, marked: bool = False) -> bytes:
    """A line for each sample of each VM, and with `marked` what OpenMetrics says of it. VMs that
    stand at the same mapping, as all idle ones do at their zeros, share the work."""
    start = lru_cache(maxsize=4096)(partial(_start_of_line, name, labels))
    created = lru_cache(maxsize=4096)(
        partial(_start_of_line, f"{name.removesuffix('_total')}_created", labels)
    )
    shared: dict[int, str] = {}  # by the identity of a mapping that `rows` keeps alive
    blocks = []
    for vm, values, marks in rows:
        if marked and marks:
            block = "".join(
                [_marked(start(r), n, created(r), marks.get(r)) for r, n in values.items()]
            )
        elif id(values) in shared:
            block = shared[id(values)]
        else:
            block = "".join([f"{start(r)}{_number(n)}\n" for r, n in values.items()])
            shared[id(values)] = block
        blocks.append(block.replace(_VM, escape(vm)))
    return "".join(blocks).encode()


def _marked(start: str, value: float, created: str, mark: Mark | None) -> str:
    """A sample with its exemplar, and when it began."""
    if mark is None:
        return f"{start}{_number(value)}\n"
    beside = ""
    if (of := mark.exemplar) is not None:
        beside = f' # {{{EVENT_ID}="{of.event_id}"}} {_number(of.value)} {of.time_s}'
    return f"{start}{_number(value)}{beside}\n{created}{_spelled(mark.created_s)}\n"


def _start_of_line(name: str, labels: Labels, rest: Labels) -> str:
    """A sample up to its value, with label names sorted as prometheus_client sorts them."""
    values = zip(labels, (_VM, *map(escape, rest)), strict=True)
    pairs = ",".join(f'{label}="{value}"' for label, value in sorted(values))
    return f"{name}{{{pairs}}} "


@lru_cache(maxsize=4096)
def escape(value: str) -> str:
    """A label value as both formats have it."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
