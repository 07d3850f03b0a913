"""docs/reference.md: every metric and label of the catalogue (`make documents` writes it)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pinwatch.abi import layout
from pinwatch.expose.catalogue import CATALOGUE, LOSSES, WITH_EXEMPLARS, MetricSpec
from pinwatch.expose.metrics import EVENT_ID
from pinwatch.model.failure import SlowCause
from pinwatch.model.forecast import Verdict
from pinwatch.model.hint import Hint, Timing
from pinwatch.model.loss import LossKind
from pinwatch.model.pin import PinSource, Wait
from pinwatch.model.placement import Backing
from pinwatch.model.vm import Basis, Platform

REFERENCE = Path(__file__).resolve().parents[1] / "docs/reference.md"


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """A label: what it says, and its values with their meaning where the set of them is closed."""

    meaning: str
    values: Mapping[str, str] = field(default_factory=dict)


def _words(values: Iterable[Any]) -> dict[str, str]:
    return {str(value): value.words for value in values}


LABELS = {
    "vm": LabelSpec(
        "The VM ([metrics.md](metrics.md)); at most `max_vms` of them, and `~host`, "
        "`~unattributed`, `~other`."
    ),
    "source": LabelSpec("Who asked for the pin.", _words(PinSource)),
    "reason": LabelSpec("Why it failed: [reasons.md](reasons.md) has all of them."),
    "holder": LabelSpec("Who was in the way: [reasons.md](reasons.md) has all of them."),
    "errno": LabelSpec("The error that the caller got, by its name; empty when it got none."),
    "zone": LabelSpec("The kernel's name of a memory zone: `Normal`, `Movable`, ..."),
    "order": LabelSpec("Size of a folio as a power of two of base pages: 0 to 18, or `unknown`."),
    "hint": LabelSpec("What the VMM said, by call and value.", _words(Hint)),
    "timing": LabelSpec("Where a hint came in the life of the VM's memory.", _words(Timing)),
    "cause": LabelSpec("Where most of a slow pin's time went: it waited ...", _words(SlowCause)),
    "migrate_reason": LabelSpec("The kernel's `enum migrate_reason`, by the names in its tracing."),
    "result": LabelSpec("`ok` or `failed`."),
    "area": LabelSpec("The kernel's name of a CMA area."),
    "state": LabelSpec(
        "What a pin does that has not returned.",
        {
            "isolation_livelock": "it starts again and again, because a page cannot be isolated",
            **{str(wait): f"it waits {wait.words}" for wait in Wait},
            "working": "it is just long",
        },
    ),
    "uuid": LabelSpec("The VM's, as libvirt or the command line has it."),
    "platform": LabelSpec("What manages the VM.", _words(Platform)),
    "vmm": LabelSpec("The program that runs the VM."),
    "basis": LabelSpec("What the name was taken from.", _words(Basis)),
    "alias": LabelSpec("The VM's other name ([vms.md](vms.md))."),
    "project": LabelSpec("OpenStack's project, KubeVirt's namespace."),
    "pod": LabelSpec("The uid of the pod that the VM runs in."),
    "device": LabelSpec("A device's name in sysfs: a PCI address, an mdev's uuid."),
    "driver": LabelSpec("The driver that has the device."),
    "iommu_group": LabelSpec("The number of the device's IOMMU group."),
    "node": LabelSpec("The number of a NUMA node, or `unknown`."),
    "cma": LabelSpec(
        "Does the memory lie in a CMA area?",
        {"yes": "", "no": "", "unknown": "its zone has CMA, and nothing says where"},
    ),
    "size": LabelSpec("Size of the pages.", _words(Backing)),
    "risk": LabelSpec("What stands against a pin: [forecast.md](forecast.md) has all of them."),
    "verdict": LabelSpec(
        "What to expect of a pin.", _words(v for v in Verdict if v is not Verdict.FINE)
    ),
    "kind": LabelSpec(
        "Of free memory: who may have it.",
        {
            "unmovable_usable": "anybody, long-term pins included",
            "movable": "ZONE_MOVABLE: only what can move",
            "cma": "CMA areas: only what can move",
        },
    ),
    "hook": LabelSpec("A place that is watched; `pinwatch doctor` says what is seen there."),
    "symbol": LabelSpec("The kernel function or tracepoint of a hook; empty when it has none."),
    "mode": LabelSpec(
        "How a hook is attached: `raw_tracepoint`, `fentry`, `kprobe`, `netlink`, `procfs`; "
        "`waiting` for a module to be loaded, `off` when it cannot be."
    ),
    "counter": LabelSpec(
        "The name of the counter in `/proc/vmstat`: `pgmigrate_success`, `pgmigrate_fail`, "
        + ", ".join(f"`{name}`" for name in layout.VMSTAT_NAMES.values())
        + "."
    ),
    "version": LabelSpec("Of pinwatch."),
    "kernel": LabelSpec("The running kernel's release."),
}
# Where one name means something else.
OTHERS = {(LOSSES.name, "kind"): LabelSpec("What was lost.", _words(LossKind))}

_ABOUT = f"""# Metrics, one by one

`make documents` writes this page from the catalogue (`pinwatch/expose/catalogue.py`), and a test
compares them. [metrics.md](metrics.md) says which VM has which series and for how long, and when a
number may differ from the kernel's.

In OpenMetrics, which Prometheus asks for by itself, a counter that has counted has a `_created`
beside it: of a series that begins at 0 with the VM, when the VM was first seen; else when it
counted first. Where the table says *exemplar*, a sample carries the id of the newest event that it
counted, as `{EVENT_ID}`: `pinwatch why --event ID` on that host tells all of it.
"""


def reference_document() -> str:
    """docs/reference.md."""
    parts = [_ABOUT, *_table(), *_labels(), _PROCESS]
    return "\n".join(parts)


def _table() -> Iterator[str]:
    yield "| metric | kind | labels | what | unit | source |\n|---|---|---|---|---|---|"
    yield from map(_row, CATALOGUE)
    yield ""


def _row(spec: MetricSpec) -> str:
    labels = ", ".join(f"[{name}](#{_anchor(spec, name)})" for name in spec.labels)
    kind = str(spec.kind) + (", exemplar" if spec in WITH_EXEMPLARS else "")
    cells = (f"`{spec.exposed_name}`", kind, labels, spec.meaning, spec.unit, spec.source)
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _anchor(spec: MetricSpec, label: str) -> str:
    return f"{label}-of-{spec.name}" if (spec.name, label) in OTHERS else label


def _labels() -> Iterator[str]:
    yield "## Labels\n"
    yield "`job` and `instance` are Prometheus's own. A process id is never a label.\n"
    for name, label in LABELS.items():
        yield from _label(name, label)
    for (metric, name), label in OTHERS.items():
        yield from _label(f"{name} of {metric}", label)


def _label(title: str, label: LabelSpec) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"{label.meaning}\n"
    if any(label.values.values()):
        yield "| value | meaning |\n|---|---|"
        for value, words in label.values.items():
            yield f"| {f'`{value}`' if value else '(empty)'} | {_cell(words)} |"
        yield ""
    elif label.values:
        yield ", ".join(f"`{value}`" for value in label.values) + ".\n"


_PROCESS = """## Of the daemon's process

prometheus_client's own: `process_cpu_seconds_total`, `process_resident_memory_bytes`,
`process_virtual_memory_bytes`, `process_start_time_seconds`, `process_open_fds`, `process_max_fds`,
and `python_info`.
"""
