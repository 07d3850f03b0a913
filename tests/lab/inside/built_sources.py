"""Pins that only a built kernel has: `python -m tests.lab.inside.built_sources NAME ok|fails`.

Each maps 8 MiB of fresh memory out of ZONE_MOVABLE, once as a VMM would and once with one page of
it in an unread pipe, and says as one JSON line what the caller got and what the kernel counted
around that one call; and, when it worked, how many pins went when the memory was unmapped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.lab.inside import iommufd, memory, vhost_vdpa
from tests.lab.inside.memory import PAGE, Memory

SIZE = 8 << 20
HELD = 5 << 20
WITNESSES = ("pgmigrate_success", "pgmigrate_fail", "nr_foll_pin_acquired", "nr_foll_pin_released")

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Calls:
    """The one call that pins and the one that lets go; each gives 0 or a positive errno."""

    pin: Callable[[], int]
    unpin: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Source:
    """A user of long-term pins; `label` is what pinwatch calls it."""

    name: str
    label: str
    ok: Callable[[], Result]
    fails: Callable[[], Result]


def _iommufd_map(ram: Memory) -> Calls:
    """The device is there when memory is mapped: the map pins."""
    iommufd.load_modules()
    space = iommufd.AddressSpace()
    device = iommufd.Device(space)
    if error := device.attach(space):
        raise OSError(error, "attach to an empty address space")
    return Calls(partial(space.map, ram), partial(space.unmap, ram.size))


def _iommufd_attach(ram: Memory) -> Calls:
    """Memory is mapped when the device comes: the attach pins."""
    iommufd.load_modules()
    space = iommufd.AddressSpace()
    device = iommufd.Device(space)
    if error := space.map(ram):
        raise OSError(error, "map without a device")
    return Calls(partial(device.attach, space), partial(space.unmap, ram.size))


def _vhost_vdpa(ram: Memory) -> Calls:
    vhost_vdpa.load_modules()
    device = vhost_vdpa.VhostVdpa()
    return Calls(partial(device.map, ram), partial(device.unmap, ram.size))


def _observe(prepare: Callable[[Memory], Calls], *, held: bool) -> Result:
    ram = memory.memfd(SIZE)
    if held:
        memory.hold_in_pipe(ram, HELD)
    calls = prepare(ram)
    movable, before = _in_movable(ram), _counters()
    error = calls.pin()
    after = _counters()
    result = {
        "errno": error,
        "pages": SIZE // PAGE,
        "in_movable": {"before": movable, "after": _in_movable(ram)},
        "vmstat": _grown(before, after),
    }
    return result if error else {**result, "unpinned": _unpin(calls)}


def _unpin(calls: Calls) -> int:
    """How many more pins were released than taken while the memory was unmapped."""
    before = _counters()
    if error := calls.unpin():
        raise OSError(error, "unmap")
    grown = _grown(before, _counters())
    return grown["nr_foll_pin_released"] - grown["nr_foll_pin_acquired"]


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in WITNESSES}


def _in_movable(ram: Memory) -> int:
    zones = memory.zone_ranges("Movable")
    return sum(any(pfn in zone for zone in zones) for pfn in memory.pfns(ram))


def _counters() -> dict[str, int]:
    """/proc/vmstat, settled. Not host.vmstat: its imports take seconds under emulation."""
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    pairs = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in pairs}


def _source(name: str, label: str, prepare: Callable[[Memory], Calls]) -> Source:
    ok, fails = partial(_observe, prepare, held=False), partial(_observe, prepare, held=True)
    return Source(name=name, label=label, ok=ok, fails=fails)


SOURCES = {
    source.name: source
    for source in (
        _source("iommufd_map", "iommufd", _iommufd_map),
        _source("iommufd_attach", "iommufd", _iommufd_attach),
        _source("vhost_vdpa", "vhost_vdpa", _vhost_vdpa),
    )
}


def main(name: str, way: str) -> None:
    source = SOURCES[name]
    result = {"ok": source.ok, "fails": source.fails}[way]()
    print(json.dumps({"source": name, "label": source.label, "way": way, **result}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
