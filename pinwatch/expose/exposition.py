"""A snapshot as the text that Prometheus reads.

prometheus_client writes everything but the samples that exist for each VM: at 1 000 VMs those are
70 000 lines, for which it needs more than half a second. They are written here, as it would write
them (tests/unit/test_exposition.py compares), and are the same in both formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from prometheus_client import generate_latest
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pinwatch.expose import gauges
from pinwatch.expose.metrics import (
    VM_COUNTERS,
    VM_DEVICE,
    VM_GAUGES,
    VM_INFO,
    counter_family,
    gauge_family,
    host_families,
)
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.snapshot import Labels, Snapshot
from pinwatch.model.vm import Vm

_VM = "\0"  # stands for the VM in lines that VMs share; attribute/names.py spells NUL out
_OPENMETRICS_END = b"# EOF\n"

_number = lru_cache(maxsize=1024)(floatToGoString)

Row = tuple[str, Mapping[Labels, float]]  # value of label `vm`; other label values -> value


Encoder = Callable[[Collector], bytes]
TEXT: Encoder = generate_latest
OPENMETRICS: Encoder = generate_openmetrics


@dataclass(frozen=True, slots=True)
class _Families(Collector):
    """What an encoder takes for a registry."""

    metrics: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        return self.metrics


@dataclass(frozen=True, slots=True)
class Exposition:
    """A snapshot's families: for each that has samples of VMs, its head and their lines; and the
    rest."""

    of_vms: tuple[tuple[Metric, bytes], ...]
    rest: tuple[Metric, ...]

    def encode(self, encoder: Encoder) -> list[bytes]:
        """The parts of the text. Those of VMs are shared between formats, not copied."""
        parts: list[bytes] = []
        for head, lines in self.of_vms:
            parts += (encoder(_Families((head,))).removesuffix(_OPENMETRICS_END), lines)
        return [*parts, encoder(_Families(self.rest))]


def expose(snapshot: Snapshot, facts: KernelFacts, also: Iterable[Metric] = ()) -> Exposition:
    """All metrics of a snapshot, and others that belong into the same exposition."""
    return Exposition(tuple(_of_vms(snapshot)), (*host_families(snapshot, facts), *also))


def text(snapshot: Snapshot, facts: KernelFacts) -> str:
    """The exposition for people."""
    return b"".join(expose(snapshot, facts).encode(TEXT)).decode()


def _of_vms(snapshot: Snapshot) -> Iterator[tuple[Metric, bytes]]:
    for spec in VM_COUNTERS:
        rows = [(vm, of[spec.name]) for vm, of in snapshot.vm_counters.items() if spec.name in of]
        yield counter_family(spec, {}), lines(spec.name, spec.labels, rows)
    info: list[Row] = [(vm.name, {_identity(vm): 1}) for vm in snapshot.vms if vm.is_one]
    head = InfoMetricFamily(VM_INFO.name, VM_INFO.help, labels=VM_INFO.labels)
    yield head, lines(f"{VM_INFO.name}_info", VM_INFO.labels, info)
    given: list[Row] = [
        (vm, {(d.address, d.driver, d.iommu_group): 1 for d in devices})
        for vm, devices in snapshot.devices.items()
    ]
    head = InfoMetricFamily(VM_DEVICE.name, VM_DEVICE.help, labels=VM_DEVICE.labels)
    yield head, lines(f"{VM_DEVICE.name}_info", VM_DEVICE.labels, given)
    yield from _outlooks(snapshot)


def _outlooks(snapshot: Snapshot) -> Iterator[tuple[Metric, bytes]]:
    rows: dict[str, list[Row]] = {spec.name: [] for spec in VM_GAUGES}
    for vm, outlook in snapshot.outlooks.items():
        for spec, values in gauges.of_vm(outlook):
            rows[spec.name].append((vm, values))
    for spec in VM_GAUGES:
        yield gauge_family(spec, {}), lines(spec.name, spec.labels, rows[spec.name])


def _identity(vm: Vm) -> Labels:
    return (vm.uuid, vm.platform, vm.vmm, vm.basis, vm.alias, vm.project, vm.pod)


def lines(name: str, labels: Labels, rows: Sequence[Row]) -> bytes:
    """A line for each sample of each VM. VMs that stand at the same mapping, as all idle ones do at
    their zeros, share the work."""
    start = lru_cache(maxsize=4096)(partial(_start_of_line, name, labels))
    shared: dict[int, str] = {}  # by the identity of a mapping that `rows` keeps alive
    blocks = []
    for vm, values in rows:
        if id(values) not in shared:
            shared[id(values)] = "".join([f"{start(r)}{_number(n)}\n" for r, n in values.items()])
        blocks.append(shared[id(values)].replace(_VM, escape(vm)))
    return "".join(blocks).encode()


def _start_of_line(name: str, labels: Labels, rest: Labels) -> str:
    """A sample up to its value, with label names sorted as prometheus_client sorts them."""
    values = zip(labels, (_VM, *map(escape, rest)), strict=True)
    pairs = ",".join(f'{label}="{value}"' for label, value in sorted(values))
    return f"{name}{{{pairs}}} "


@lru_cache(maxsize=4096)
def escape(value: str) -> str:
    """A label value as both formats have it."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
