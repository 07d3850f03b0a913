"""What the kernel said, kept as text: one JSON object a line, readable years later.

The first line is the kernel's facts; each other one is a raw record or a sample, in the order of
arrival. Raw, so that a better rule can read an old recording again.
"""

from __future__ import annotations

import base64
import ctypes as ct
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pinwatch.abi import layout
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.pin import PinSource
from pinwatch.model.sample import Durations, KernelSample, TaskKey, TaskTotals

FORMAT = 1
_INT_KEYED = ("zones", "migratetypes", "a_ops")  # JSON makes keys strings
_SOURCES = {source.value: source for source in PinSource}
_RECORD_SIZES: dict[int, int] = {
    layout.Record.TASK: ct.sizeof(layout.TaskRecord),
    layout.Record.PIN_FAILED: ct.sizeof(layout.PinRecord),
}


class RecordingError(ValueError):
    """The file is no recording, or of a format that this version does not read."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """Bytes as they came from the ring buffer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class VmFound:
    """A process that ran already when the daemon started."""

    task: TaskKey
    cmdline: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters of the BPF side and of /proc/vmstat (since attach), read together."""

    sample: KernelSample
    vmstat: dict[str, int]


Item = RawRecord | VmFound | Counted


def facts_from_json(fields: dict[str, Any]) -> KernelFacts:
    """KernelFacts as `asdict` and JSON left them."""
    fields = dict(fields)
    for name in _INT_KEYED:
        fields[name] = {int(key): value for key, value in fields[name].items()}
    return KernelFacts(**fields)


def header_line(facts: KernelFacts, wall_offset_ns: int) -> str:
    """The first line: what is needed to read the rest."""
    return _line({"pinwatch_recording": FORMAT, "wall_ns": wall_offset_ns, "facts": asdict(facts)})


def item_line(item: Item) -> str:
    """An item as a line. The unused end of a command line is left out."""
    match item:
        case RawRecord(data):
            return _line({"record": base64.b64encode(data.rstrip(b"\0")).decode()})
        case VmFound(task, cmdline):
            return _line({"vm": [task.tgid, task.start_ns], "cmdline": cmdline})
        case Counted(sample, vmstat):
            return _line({"sample": asdict(sample), "vmstat": vmstat})


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
        return VmFound(TaskKey(*row["vm"]), tuple(row["cmdline"]))
    return Counted(_sample(row["sample"]), row["vmstat"])


def _padded(data: bytes) -> bytes:
    kind = int.from_bytes(data[:4], "little")
    size = _RECORD_SIZES.get(kind, ct.sizeof(layout.HolderRecord))
    return data.ljust(size, b"\0")


def _sample(row: dict[str, Any]) -> KernelSample:
    return KernelSample(
        totals=tuple(
            TaskTotals(**{**t, "task": TaskKey(**t["task"]), "source": _SOURCES[t["source"]]})
            for t in row["totals"]
        ),
        durations=tuple(
            Durations(**{**d, "slots": tuple(d["slots"]), "source": _SOURCES[d["source"]]})
            for d in row["durations"]
        ),
        witnesses=row["witnesses"],
        losses=row["losses"],
    )
