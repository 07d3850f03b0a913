"""The order of the stages: decode, attribute, classify, aggregate.

Takes items from any source, a live kernel or a recording, and gives snapshots; so live and replay
are the same code. No files, no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from pinwatch import attribute, forecast
from pinwatch.aggregate.ledger import Ledger
from pinwatch.classify import holders, rules, slow
from pinwatch.decode import DecodeError, decode
from pinwatch.model.event import ModuleLoaded, PinEnded, TaskSeen
from pinwatch.model.failure import Failure, SlowPin, StuckPin, event_id
from pinwatch.model.forecast import Case, Outlook
from pinwatch.model.hint import HintGiven
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.loss import LossKind
from pinwatch.model.placement import FreeMemory
from pinwatch.model.sample import KernelSample, TaskKey
from pinwatch.model.snapshot import Snapshot
from pinwatch.model.vm import HOST, UNATTRIBUTED, Evidence, SeriesLimits, Vm
from pinwatch.recording import (
    ClockSet,
    Counted,
    DevicesFound,
    HooksChanged,
    IoInFlight,
    Item,
    Looked,
    Lost,
    Named,
    RawRecord,
    Rescanned,
    Surveyed,
    TaskEnded,
    TaskGone,
    VmFound,
    VmmsConfigured,
)

Outcome = ModuleLoaded | Failure | SlowPin

_NAMED = 64  # pins that may be told later than one of another CPU that ended with them


class Pipeline:
    """Everything between the kernel and the views."""

    def __init__(
        self, facts: KernelFacts, wall_offset_ns: int, limits: SeriesLimits | None = None
    ) -> None:
        self._facts = facts
        self._wall_offset_ns = wall_offset_ns
        self._ledger = Ledger(limits, wall_offset_ns)
        self._symbols: dict[int, str] = {}
        self._io_in_flight: tuple[str, ...] = ()
        self._programs = attribute.Programs()
        self._beside: dict[TaskKey, Evidence] = {}  # what a record does not carry
        self._free: FreeMemory | None = None
        self._named: deque[int] = deque(maxlen=_NAMED)

    def feed(self, item: Item) -> Outcome | None:
        """Take one item. What the caller may want to act on or show at once is given back."""
        match item:
            case RawRecord(data):
                return self._record(data)
            case Named(symbols):
                self._symbols.update(symbols)
                self._ledger.name_callers(self._caller)
            case IoInFlight(devices):
                self._io_in_flight = devices
            case DevicesFound(task, found):
                self._ledger.give_devices(task, found)
            case ClockSet(_, wall_offset_ns):
                self._wall_offset_ns = wall_offset_ns
                self._ledger.set_clock(wall_offset_ns)
            case TaskEnded(task):
                self._ledger.end_task(task)
            case TaskGone(task):
                self._beside.pop(task, None)
                self._ledger.forget_task(task)
            case Rescanned():
                self._ledger.add_rescan()
            case Surveyed():
                self._surveyed(item)
            case Looked():
                self._looked(item)
            case Lost(kind, amount):
                self._ledger.add_loss(kind, amount)
            case HooksChanged(hooks):
                self._ledger.set_hooks(hooks)
            case VmmsConfigured(programs, name_pattern):
                self._programs = attribute.Programs.of(programs, name_pattern)
            case VmFound(task, cmdline, cgroup, domain):
                self._found(
                    task,
                    Evidence(tgid=task.tgid, cmdline=cmdline, cgroup=cgroup, domain=domain),
                )
            case Counted(sample, vmstat):
                self._ledger.add_sample(sample)
                self._ledger.set_stuck(self._stuck(sample))
                self._ledger.set_reconciliation(
                    {
                        name: n - vmstat[name]
                        for name, n in sample.witnesses.items()
                        if name in vmstat
                    }
                )
        return None

    def _surveyed(self, item: Surveyed) -> None:
        """What VMs would find changes with what is free."""
        self._free = item.free
        self._ledger.set_free(item.free, item.cpu_s)
        for task, old in self._ledger.outlooks:
            case = replace(old.case, free=item.free)
            self._ledger.set_outlook(
                task, replace(old, case=case, forecast=forecast.forecast(case))
            )

    def _looked(self, item: Looked) -> None:
        """A look means nothing without the host's free side, which is read before."""
        if self._free is None:
            return
        case = Case(placement=item.placement, free=self._free, limits=item.limits, rules=item.rules)
        self._ledger.set_outlook(
            item.task,
            Outlook(
                time_s=(item.time_ns + self._wall_offset_ns) / 1e9,
                case=case,
                forecast=forecast.forecast(case),
            ),
        )

    def _record(self, data: bytes) -> Outcome | None:
        try:
            event = decode(data, self._facts)
        except DecodeError:
            self._ledger.add_loss(LossKind.UNDECODABLE)
            return None
        match event:
            case TaskSeen():
                self._introduced(event.task.key, event.cmdline)
            case ModuleLoaded():
                return event
            case HintGiven():
                self._hinted(event)
            case PinEnded() if event.errno:
                return self._failed(event)
            case PinEnded():
                return self._slow(event)
        return None

    def _hinted(self, hint: HintGiven) -> None:
        """A VM is known by then as /proc knows it; what others say of their memory is nothing to
        us."""
        for task in (hint.task, hint.task.in_ticks):
            if self._ledger.is_vm(task):
                self._ledger.add_hint(task, hint)
                return

    def _found(self, task: TaskKey, evidence: Evidence) -> None:
        self._beside[task] = replace(evidence, cmdline=())
        self._name(task, evidence)

    def _introduced(self, task: TaskKey, cmdline: tuple[str, ...]) -> None:
        """A record says who it is; more may have been found beside it."""
        if cmdline or not self._ledger.knows(task):
            beside = self._beside.get(task, Evidence(tgid=task.tgid))
            self._name(task, replace(beside, cmdline=cmdline))

    def _name(self, task: TaskKey, evidence: Evidence) -> None:
        unnamed = HOST if evidence.cmdline else UNATTRIBUTED
        self._ledger.name_task(task, attribute.resolve(evidence, self._programs) or unnamed)

    def _who(self, pin: PinEnded) -> Vm:
        self._introduced(pin.task.key, pin.cmdline)
        return self._ledger.vm_of(pin.task.key)

    def _caller(self, pin: PinEnded) -> tuple[str, ...]:
        return tuple(self._symbols.get(address, f"{address:#x}") for address in pin.stack)

    def _stuck(self, sample: KernelSample) -> tuple[StuckPin, ...]:
        """Open pins that are older than any should be, or start again and again."""
        ages = ((pin, (sample.time_ns - pin.start_ns) / 1e9) for pin in sample.open_pins)
        return tuple(
            StuckPin(
                vm=self._ledger.vm_of(pin.task),
                pin=pin,
                age_s=age_s,
                livelock=rules.is_livelock(pin),
            )
            for pin, age_s in ages
            if age_s > slow.STUCK_S
        )

    def _wall_s(self, pin: PinEnded) -> float:
        return (pin.time_ns + self._wall_offset_ns) / 1e9

    def _event_id(self, pin: PinEnded) -> str:
        """Pins of two CPUs may end in one nanosecond; each is an event of its own."""
        wall_ns = pin.time_ns + self._wall_offset_ns
        while wall_ns in self._named:
            wall_ns += 1
        self._named.append(wall_ns)
        return event_id(wall_ns)

    def _failed(self, pin: PinEnded) -> Failure:
        reason, folios = rules.classify(pin)
        holder, also = holders.match(pin, reason, folios, self._io_in_flight)
        failure = Failure(
            id=self._event_id(pin),
            number=self._ledger.next_number(),
            time_s=self._wall_s(pin),
            vm=self._who(pin),
            pin=pin,
            reason=reason,
            holder=holder,
            also=also,
            primary=rules.primary(folios),
            folios=folios,
            caller=self._caller(pin),
            devices=self._ledger.devices_of(pin.task.key),
            hints=self._ledger.hints_of(pin.task.key),
        )
        self._ledger.add_failure(failure)
        return failure

    def _slow(self, pin: PinEnded) -> SlowPin:
        found = SlowPin(
            id=self._event_id(pin),
            number=self._ledger.next_number(),
            time_s=self._wall_s(pin),
            vm=self._who(pin),
            pin=pin,
            cause=slow.cause(pin),
            also=tuple(holders.overlaps(pin, ())),
            caller=self._caller(pin),
        )
        self._ledger.add_slow(found)
        return found

    @property
    def tasks(self) -> tuple[TaskKey, ...]:
        """Processes whose counters are kept in the kernel."""
        return self._ledger.tasks

    @property
    def vms(self) -> tuple[tuple[TaskKey, Vm], ...]:
        """Processes of VMs that are alive."""
        return self._ledger.vms

    def knows(self, key: TaskKey) -> bool:
        """The process has a name."""
        return self._ledger.knows(key)

    def is_vm(self, key: TaskKey) -> bool:
        return self._ledger.is_vm(key)

    def snapshot(self) -> Snapshot:
        return self._ledger.snapshot()
