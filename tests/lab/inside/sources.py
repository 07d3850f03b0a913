"""What pins memory besides VFIO: a real user of each kernel interface, and two cases for each.

`python -m tests.lab.inside.sources NAME CASE` runs one case and prints one JSON line; `--all` runs
every case that this kernel has, each in a process of its own (what hangs is killed and said), and
sends the host an event for each.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tests.lab import channel
from tests.lab.inside import apart, memory, rdma, vduse, video
from tests.lab.inside.iouring import Ring
from tests.lab.inside.memory import PAGE, Memory
from tests.lab.inside.udmabuf import DmaBuf
from tests.lab.inside.xdp import Umem

MIB = 1 << 20
_SIZE = 8 * MIB
TIMEOUT_S = 60
_COUNTERS = ("pgmigrate_success", "pgmigrate_fail", "nr_foll_pin_acquired", "nr_foll_pin_released")

Evidence = dict[str, Any]
Case = Callable[[], Evidence]


class Pinner(Protocol):
    """A user of an interface: it pins until it is closed."""

    def pin(self, memory: Memory, /) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An interface that pins for long; `label` is what pinwatch calls it. `fails` gives ENOMEM
    for each of them, on each kernel."""

    name: str
    label: str
    kernels: frozenset[str]
    why_not: str
    prepare: Callable[[], None]
    ok: Case
    fails: Case
    more: Mapping[str, Case] = field(default_factory=dict)

    @property
    def cases(self) -> dict[str, Case]:
        return {"ok": self.ok, "fails": self.fails, **self.more}


def series() -> str:
    """The running kernel as the lab names it: 6.12.107+deb13-amd64 is 6.12."""
    return ".".join(os.uname().release.split(".")[:2])


def _ok(pinner: Callable[[], Pinner]) -> Evidence:
    """Pin memory of which each page may move."""
    return _measure(pinner(), memory.memfd(_SIZE))


def _fails(pinner: Callable[[], Pinner]) -> Evidence:
    """The same, while an unread pipe holds a page in the middle."""
    user, ram = pinner(), memory.memfd(_SIZE)
    memory.hold_in_pipe(ram, _SIZE // 2)
    return _measure(user, ram)


def _short_pin() -> Evidence:
    """A pin that stops half-way: the first half has left ZONE_MOVABLE in an earlier registration,
    so the fast walk pins it, and the held page in the second half fails what is left. From 6.12 on
    io_uring gets the count of the first half and says EFAULT; 6.1 pins all at once."""
    ring, ram = Ring(), memory.memfd(_SIZE)
    if error := ring.register([(ram.address, _SIZE // 2)]):
        raise OSError(error, "the first half")
    ring.unregister()
    memory.hold_in_pipe(ram, _SIZE // 2 + 100 * PAGE)
    return _measure(ring, ram)


def _measure(user: Pinner, ram: Memory) -> Evidence:
    """Pin, and what the kernel counted meanwhile: vmstat is of all processes, and file systems of
    the lab pin pages as well, so `migrated` and `foll_pins` are at least what this pin did."""
    movable_before, before = _movable(ram), _counters()
    error = user.pin(ram)
    after, movable_after = _counters(), _movable(ram)
    user.close()
    change = {name: after[name] - before[name] for name in _COUNTERS}
    return {
        "errno": error,
        "pages": ram.size // PAGE,
        "movable": {"before": movable_before, "after": movable_after},
        "migrated": change["pgmigrate_success"],
        "failed": change["pgmigrate_fail"],
        "foll_pins": change["nr_foll_pin_acquired"],
        "foll_unpins": change["nr_foll_pin_released"],
    }


def _movable(ram: Memory) -> int:
    """How many of the pages lie in ZONE_MOVABLE."""
    zones = memory.zone_ranges("Movable")
    return sum(any(pfn in zone for zone in zones) for pfn in memory.pfns(ram))


def _counters() -> dict[str, int]:
    """The vmstat counters, with what each CPU still keeps to itself."""
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in lines if name in _COUNTERS}


def _nothing() -> None:
    """For what every kernel of the lab has built in."""


def _source(
    name: str,
    pinner: Callable[[], Pinner],
    *,
    label: str = "",
    since: str = "6.1",
    why_not: str = "",
    prepare: Callable[[], None] = _nothing,
    more: Mapping[str, Case] | None = None,
) -> Source:
    all_series = ("6.1", "6.12", "7.2")
    return Source(
        name=name,
        label=label or name,
        kernels=frozenset(all_series[all_series.index(since) :]),
        why_not=why_not,
        prepare=prepare,
        ok=partial(_ok, pinner),
        fails=partial(_fails, pinner),
        more=more or {},
    )


SOURCES = {
    source.name: source
    for source in (
        _source("io_uring", Ring, more={"short_pin": _short_pin}),
        _source("af_xdp", Umem),
        _source("udmabuf", DmaBuf, since="6.12", why_not="Debian's 6.1 is built without udmabuf"),
        _source("rdma", rdma.Region, prepare=rdma.load_modules),
        _source("v4l2", video.Camera, label="other", prepare=video.load_modules),
        _source(
            "vduse",
            vduse.Device,
            since="6.12",
            why_not="Debian's 6.1 is built without vDPA",
            prepare=vduse.load_modules,
        ),
    )
}


def run_all() -> None:
    """Every source and case; the host hears of each, also of those that this kernel lacks."""
    for source in SOURCES.values():
        if series() not in source.kernels:
            channel.send("source", source=source.name, skipped=source.why_not)
            continue
        for case in source.cases:
            evidence = apart.run(__spec__.name, source.name, case, timeout_s=TIMEOUT_S)
            channel.send("source", source=source.name, case=case, **evidence)


def _main(arguments: list[str]) -> None:
    if arguments == ["--all"]:
        run_all()
        return
    name, case = arguments
    source = SOURCES[name]
    source.prepare()
    print(json.dumps(source.cases[case]()), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
