"""What a recording that begins now must begin with, so that it can be read without what came
before: who is alive, and the pins that failed or were slow a while ago.

Takes every item as it enters the pipeline, keeps the few that still say something, and gives them
in an order that a pipeline understands. Memory is bounded by the processes that are alive.
"""

from __future__ import annotations

import ctypes as ct
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pinwatch.abi import layout
from pinwatch.model.sample import TaskKey
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
    Surveyed,
    TaskEnded,
    TaskGone,
    VmFound,
    VmmsConfigured,
)

KEPT_PINS = 200
KEPT_HINTS = 32  # of a process
KEPT_CLOCKS = 100  # times that it was set
_HEAD_SIZE = ct.sizeof(layout.Head)


@dataclass(slots=True)
class _Process:
    """The newest of each kind about a process that is alive."""

    found: VmFound | None = None
    devices: DevicesFound | None = None
    ended: TaskEnded | None = None
    looked: Looked | None = None
    hints: deque[tuple[int, RawRecord]] = field(default_factory=lambda: deque(maxlen=KEPT_HINTS))

    @property
    def identity(self) -> Iterator[Item]:
        yield from (item for item in (self.found, self.devices, self.ended) if item is not None)


@dataclass(frozen=True, slots=True)
class _Pin:
    """A pin's record, and what was known of its process then."""

    time_ns: int
    task: TaskKey
    identity: tuple[Item, ...]
    io: IoInFlight
    record: RawRecord


class Flight:
    """Notes items as they come."""

    def __init__(self) -> None:
        self._newest: dict[type[Item], Item] = {}
        self._io = IoInFlight(())
        self._symbols: dict[int, str] = {}
        self._lost: Counter[str] = Counter()
        self._processes: dict[TaskKey, _Process] = {}
        self._pins: deque[_Pin] = deque(maxlen=KEPT_PINS)
        self._clocks: deque[ClockSet] = deque(maxlen=KEPT_CLOCKS)

    def note(self, item: Item) -> None:
        """Remember what of it still says something later."""
        match item:
            case VmmsConfigured() | HooksChanged() | Surveyed() | Counted():
                self._newest[type(item)] = item
            case Named(symbols):
                self._symbols.update(symbols)
            case Lost(kind, amount):
                self._lost[kind] += amount
            case ClockSet():
                self._clocks.append(item)
            case IoInFlight():
                self._io = item
            case VmFound(task):
                self._of(task).found = item
            case DevicesFound(task):
                self._of(task).devices = item
            case Looked():
                self._of(item.task).looked = item
            case TaskEnded(task):
                self._of(task).ended = item
            case TaskGone(task):
                self._processes.pop(task, None)
            case RawRecord(data):
                self._record(item, data)

    def _of(self, task: TaskKey) -> _Process:
        return self._processes.setdefault(task, _Process())

    def _record(self, item: RawRecord, data: bytes) -> None:
        if len(data) < _HEAD_SIZE:
            return
        head = layout.Head.from_buffer_copy(data)
        task = TaskKey(head.tgid, head.task_start_ns)
        if item.is_pin:
            identity = tuple(self._of(task).identity)
            self._pins.append(_Pin(head.time_ns, task, identity, self._io, item))
        elif head.kind == layout.Record.HINT:
            for key in (task, task.in_ticks):
                if key in self._processes:
                    self._processes[key].hints.append((head.time_ns, item))
                    break

    def items(self) -> Iterator[Item]:
        """The beginning of a recording."""
        if VmmsConfigured in self._newest:
            yield self._newest[VmmsConfigured]
        yield from (Lost(kind, amount) for kind, amount in self._lost.items())
        if self._symbols:
            yield Named(dict(self._symbols))
        for process in self._processes.values():
            yield from process.identity
        yield from self._past()
        yield self._io
        if Surveyed in self._newest:
            yield self._newest[Surveyed]
            yield from (p.looked for p in self._processes.values() if p.looked is not None)
        yield from (self._newest[kind] for kind in (Counted, HooksChanged) if kind in self._newest)
        yield Published()

    def _past(self) -> Iterator[Item]:
        """Hints and pins by their time, with the clock of then; a process that is gone appears for
        its pins."""
        hints = (hint for process in self._processes.values() for hint in process.hints)
        past: list[tuple[int, RawRecord | ClockSet | _Pin]] = [
            *hints,
            *((clock.time_ns, clock) for clock in self._clocks),
            *((pin.time_ns, pin) for pin in self._pins),
        ]
        gone: dict[TaskKey, None] = {}
        for _, what in sorted(past, key=lambda at: at[0]):
            if isinstance(what, RawRecord | ClockSet):
                yield what
                continue
            if what.task not in self._processes:
                yield from what.identity
                gone[what.task] = None
            yield what.io
            yield what.record
        yield from map(TaskGone, gone)
