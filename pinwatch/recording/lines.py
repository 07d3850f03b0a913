"""Items as text: one JSON object a line, readable years later (docs/recording.md).

The first line is the header; each other one is an item, in the order of arrival. Records of the
kernel side are raw, so that a better rule can read an old recording again.
"""

from __future__ import annotations

import base64
import ctypes as ct
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pinwatch import __version__
from pinwatch.abi import layout
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.pin import PinSource, Wait
from pinwatch.model.sample import (
    Durations,
    KernelSample,
    Migrations,
    OpenPin,
    TaskKey,
    TaskTotals,
)
from pinwatch.model.vm import Device, LibvirtDomain, SeriesLimits
from pinwatch.plain import from_plain, to_plain
from pinwatch.recording.items import (
    ClockSet,
    Counted,
    DevicesFound,
    HooksChanged,
    IoInFlight,
    Item,
    Looked,
    Lost,
    Named,
    Published,
    RawRecord,
    Rescanned,
    Surveyed,
    TaskEnded,
    TaskGone,
    VmFound,
    VmmsConfigured,
)

FORMAT = 5
# 2: no limits, losses, hooks; a snapshot for each sample. 3: ends only when all is counted.
# 4: one clock.
_READS = (2, 3, 4, FORMAT)
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
    """The file is no recording, of a format that this version does not read, or damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is needed to read the rest."""

    facts: KernelFacts
    wall_offset_ns: int  # wall clock minus CLOCK_MONOTONIC, until it is set (`ClockSet`)
    series: SeriesLimits = field(default_factory=SeriesLimits)
    redacted: bool = False
    format: int = FORMAT

    @property
    def marks_snapshots(self) -> bool:
        """It says when a snapshot was taken (`Published`)."""
        return self.format > 2


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


def header_line(header: Header) -> str:
    """The first line."""
    return _line(
        {
            "pinwatch_recording": header.format,
            "made_by": f"pinwatch {__version__}",
            "redacted": header.redacted,
            "wall_ns": header.wall_offset_ns,
            "series": to_plain(header.series),
            "facts": asdict(header.facts),
        }
    )


def item_line(item: Item) -> str:
    """An item as a line. The unused end of a command line is left out."""
    match item:
        case RawRecord(data):
            return _line({"record": base64.b64encode(data.rstrip(b"\0")).decode()})
        case VmFound():
            return _line(_found(item))
        case DevicesFound(task, devices):
            return _line({"devices_of": _key(task), "devices": [asdict(d) for d in devices]})
        case TaskEnded(task):
            return _line({"ended": _key(task)})
        case ClockSet(time_ns, wall_offset_ns):
            return _line({"clock_set": time_ns, "wall_ns": wall_offset_ns})
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
        case Lost(kind, amount):
            return _line({"lost": kind, "amount": amount})
        case HooksChanged():
            return _line({"hooks": to_plain(item.hooks)})
        case Published():
            return _line({"published": True})


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


def read(lines: Iterable[str]) -> tuple[Header, Iterator[Item]]:
    """Header and items. RecordingError when it is none of ours, and at a line that is damaged."""
    rows = iter(lines)
    try:
        row = _read(next(rows))
        if row["pinwatch_recording"] not in _READS:
            raise RecordingError(
                f"format {row['pinwatch_recording']}, made by {row.get('made_by', 'an unknown')}; "
                f"this is pinwatch {__version__}, which reads formats {_READS[0]} to {_READS[-1]}"
            )
        header = Header(
            facts=facts_from_json(row["facts"]),
            wall_offset_ns=int(row["wall_ns"]),
            series=from_plain(SeriesLimits, row.get("series", {})),
            redacted=bool(row.get("redacted", False)),
            format=row["pinwatch_recording"],
        )
    except RecordingError:
        raise
    except (StopIteration, *_MALFORMED) as error:
        raise RecordingError("not a pinwatch recording") from error
    return header, _items(rows)


# json and base64 have errors that are ValueErrors; brackets in brackets are a RecursionError.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _items(rows: Iterator[str]) -> Iterator[Item]:
    for number, row in enumerate(rows, start=2):
        try:
            item = _item(_read(row))
        except RecordingError:
            raise
        except _MALFORMED:
            raise RecordingError(f"line {number} is damaged or cut off") from None
        yield item


def _item(row: dict[str, Any]) -> Item:
    if "record" in row:
        return RawRecord(_padded(base64.b64decode(row["record"])))
    if "vm" in row:
        domain = LibvirtDomain(**row["domain"]) if "domain" in row else None
        return VmFound(TaskKey(*row["vm"]), tuple(row["cmdline"]), row.get("cgroup", ""), domain)
    if "devices_of" in row:
        devices = tuple(Device(**device) for device in row["devices"])
        return DevicesFound(TaskKey(*row["devices_of"]), devices)
    if "ended" in row:
        return TaskEnded(TaskKey(*row["ended"]))
    if "clock_set" in row:
        return ClockSet(int(row["clock_set"]), int(row["wall_ns"]))
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
    if "lost" in row:
        return Lost(row["lost"], row["amount"])
    if "hooks" in row:
        return from_plain(HooksChanged, {"hooks": row["hooks"]})
    if "published" in row:
        return Published()
    return Counted(_sample(row["sample"]), row["vmstat"])


def _read(line: str) -> dict[str, Any]:
    """Its JSON. What the kernel says is text that can be printed, but whoever sends a recording may
    have put anything there. Names of VMs may be anything; they are made fit when they are given."""
    row: dict[str, Any] = json.loads(line)
    is_tame = line.isascii() and "\\" not in line and "\x7f" not in line
    return row if is_tame or "vm" in row or "vmm_programs" in row else _tame(row)


def _tame(value: Any) -> Any:
    """The same, fit for a terminal."""
    if isinstance(value, str) and not value.isprintable():
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
    if isinstance(value, list):
        return [_tame(one) for one in value]
    if isinstance(value, dict):
        return {_tame(key): _tame(one) for key, one in value.items()}
    return value


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
