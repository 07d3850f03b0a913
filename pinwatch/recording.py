"""What the kernel said, kept as text: one JSON object a line, readable years later.

The first line is the kernel's facts; each other one is a raw record or a sample, in the order of
arrival. Raw, so that a better rule can read an old recording again.
"""

from __future__ import annotations

import base64
import ctypes as ct
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pinwatch.abi import layout
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.pin import PinSource, Wait
from pinwatch.model.placement import FreeMemory, Limits, PinRules, Placement
from pinwatch.model.sample import (
    Durations,
    KernelSample,
    Migrations,
    OpenPin,
    TaskKey,
    TaskTotals,
)
from pinwatch.model.vm import Device, LibvirtDomain
from pinwatch.plain import from_plain, to_plain

FORMAT = 2
# What JSON leaves as strings and lists.
_INT_KEYED = ("zones", "migratetypes", "a_ops", "migrate_reasons")
_TUPLES = ("refusing_ops", "lru_batches")
_RECORD_SIZES: dict[int, int] = {
    layout.Record.TASK: ct.sizeof(layout.TaskRecord),
    layout.Record.MODULE: ct.sizeof(layout.ModuleRecord),
    layout.Record.PIN_FAILED: ct.sizeof(layout.PinRecord),
    layout.Record.PIN_SLOW: ct.sizeof(layout.PinRecord),
    layout.Record.HINT: ct.sizeof(layout.HintRecord),
}


class RecordingError(ValueError):
    """The file is no recording, or of a format that this version does not read."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """Bytes as they came from the ring buffer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class VmFound:
    """A process that ran already when the daemon started, or what was found beside a record."""

    task: TaskKey
    cmdline: tuple[str, ...]
    cgroup: str = ""
    domain: LibvirtDomain | None = None


@dataclass(frozen=True, slots=True)
class DevicesFound:
    """The VFIO devices that a process has now."""

    task: TaskKey
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class TaskGone:
    """A process has ended, and everything that it counted has been taken."""

    task: TaskKey


@dataclass(frozen=True, slots=True)
class Rescanned:
    """More processes started and ended than the kernel could tell: all were looked up again."""


@dataclass(frozen=True, slots=True)
class VmmsConfigured:
    """The settings that say which programs run VMs, and how to find a name."""

    programs: tuple[str, ...]
    name_pattern: str


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters of the BPF side and of /proc/vmstat (since attach), read together."""

    sample: KernelSample
    vmstat: dict[str, int]


@dataclass(frozen=True, slots=True)
class Named:
    """Kernel addresses, with the names of their functions (/proc/kallsyms)."""

    symbols: dict[int, str]


@dataclass(frozen=True, slots=True)
class IoInFlight:
    """Block devices that had requests in flight when the records that follow arrived."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The host's free memory now, and the CPU time that looking at VMs has taken so far."""

    free: FreeMemory
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Where the memory of a VM's process lies, and what may stop it from pinning."""

    task: TaskKey
    time_ns: int  # CLOCK_MONOTONIC
    placement: Placement
    limits: Limits
    rules: PinRules


Item = (
    RawRecord
    | VmFound
    | DevicesFound
    | TaskGone
    | Rescanned
    | VmmsConfigured
    | Counted
    | Named
    | IoInFlight
    | Surveyed
    | Looked
)


def facts_from_json(fields: dict[str, Any]) -> KernelFacts:
    """KernelFacts as `asdict` and JSON left them."""
    fields = dict(fields)
    for name in _INT_KEYED:
        fields[name] = {int(key): value for key, value in fields[name].items()}
    for name in _TUPLES:
        fields[name] = tuple(fields[name])
    if areas := fields.get("cma_areas"):
        fields["cma_areas"] = {name: tuple(map(tuple, of)) for name, of in areas.items()}
    return KernelFacts(**fields)


def header_line(facts: KernelFacts, wall_offset_ns: int) -> str:
    """The first line: what is needed to read the rest."""
    return _line({"pinwatch_recording": FORMAT, "wall_ns": wall_offset_ns, "facts": asdict(facts)})


def item_line(item: Item) -> str:
    """An item as a line. The unused end of a command line is left out."""
    match item:
        case RawRecord(data):
            return _line({"record": base64.b64encode(data.rstrip(b"\0")).decode()})
        case VmFound():
            return _line(_found(item))
        case DevicesFound(task, devices):
            return _line({"devices_of": _key(task), "devices": [asdict(d) for d in devices]})
        case TaskGone(task):
            return _line({"gone": _key(task)})
        case Rescanned():
            return _line({"rescanned": True})
        case VmmsConfigured(programs, name_pattern):
            return _line({"vmm_programs": programs, "vm_name_pattern": name_pattern})
        case Counted(sample, vmstat):
            return _line({"sample": asdict(sample), "vmstat": vmstat})
        case Named(symbols):
            return _line({"symbols": symbols})
        case IoInFlight(busy):
            return _line({"io_in_flight": busy})
        case Surveyed():
            return _line({"surveyed": to_plain(item)})
        case Looked():
            return _line({"looked": to_plain(item)})


def _found(item: VmFound) -> dict[str, Any]:
    """What was not found is left out."""
    row: dict[str, Any] = {"vm": _key(item.task), "cmdline": item.cmdline}
    if item.cgroup:
        row["cgroup"] = item.cgroup
    if item.domain is not None:
        row["domain"] = asdict(item.domain)
    return row


def _key(task: TaskKey) -> list[int]:
    return [task.tgid, task.start_ns]


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def read(lines: Iterable[str]) -> tuple[KernelFacts, int, Iterator[Item]]:
    """Facts, wall clock offset, and the items. RecordingError when it is none of ours."""
    rows = iter(lines)
    try:
        header = json.loads(next(rows))
        if header["pinwatch_recording"] != FORMAT:
            raise RecordingError(f"recording format {header['pinwatch_recording']}")
        facts = facts_from_json(header["facts"])
        wall_ns = int(header["wall_ns"])
    except (StopIteration, json.JSONDecodeError, KeyError, TypeError) as error:
        raise RecordingError("not a pinwatch recording") from error
    return facts, wall_ns, (_item(json.loads(row)) for row in rows)


def _item(row: dict[str, Any]) -> Item:
    if "record" in row:
        return RawRecord(_padded(base64.b64decode(row["record"])))
    if "vm" in row:
        domain = LibvirtDomain(**row["domain"]) if "domain" in row else None
        return VmFound(TaskKey(*row["vm"]), tuple(row["cmdline"]), row.get("cgroup", ""), domain)
    if "devices_of" in row:
        devices = tuple(Device(**device) for device in row["devices"])
        return DevicesFound(TaskKey(*row["devices_of"]), devices)
    if "gone" in row:
        return TaskGone(TaskKey(*row["gone"]))
    if "rescanned" in row:
        return Rescanned()
    if "vmm_programs" in row:
        return _configured(tuple(row["vmm_programs"]), row["vm_name_pattern"])
    if "symbols" in row:
        return Named({int(address): name for address, name in row["symbols"].items()})
    if "io_in_flight" in row:
        return IoInFlight(tuple(row["io_in_flight"]))
    if "surveyed" in row:
        return from_plain(Surveyed, row["surveyed"])
    if "looked" in row:
        return from_plain(Looked, row["looked"])
    return Counted(_sample(row["sample"]), row["vmstat"])


def _configured(programs: tuple[str, ...], name_pattern: str) -> VmmsConfigured:
    """The pattern is a program of its own, so it is tried before it is believed."""
    try:
        usable = not name_pattern or re.compile(name_pattern).groups > 0
    except re.error:
        usable = False
    if not usable:
        raise RecordingError(f"vm_name_pattern {name_pattern!r} is no pattern with a group")
    return VmmsConfigured(programs, name_pattern)


def _padded(data: bytes) -> bytes:
    kind = int.from_bytes(data[:4], "little")
    return data.ljust(_RECORD_SIZES.get(kind, 0), b"\0")


def _sample(row: dict[str, Any]) -> KernelSample:
    return KernelSample(
        time_ns=row["time_ns"],
        totals=tuple(TaskTotals(**_typed(t)) for t in row["totals"]),
        durations=tuple(Durations(**_typed(d)) for d in row["durations"]),
        witnesses=row["witnesses"],
        losses=row["losses"],
        migrations=tuple(Migrations(**m) for m in row["migrations"]),
        split_errors=row["split_errors"],
        cma_failures=row["cma_failures"],
        open_pins=tuple(OpenPin(**_typed(p)) for p in row["open_pins"]),
    )


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a sample's part, with the types that JSON does not have."""
    types: dict[str, Callable[[Any], Any]] = {
        "task": lambda task: TaskKey(**task),
        "source": PinSource._value2member_map_.__getitem__,
        "slots": tuple,
        "wait": lambda wait: wait and Wait._value2member_map_[wait],
    }
    return {name: types[name](value) if name in types else value for name, value in row.items()}
