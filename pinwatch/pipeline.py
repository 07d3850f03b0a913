"""The order of the stages: decode, attribute, classify, aggregate.

Takes items from any source, a live kernel or a recording, and gives snapshots; so live and replay
are the same code. No files, no clock.
"""

from __future__ import annotations

from pinwatch.aggregate.ledger import Ledger
from pinwatch.attribute import qemu
from pinwatch.classify import holders, rules
from pinwatch.decode import DecodeError, decode
from pinwatch.model.event import HolderSeen, ModuleLoaded, PinFailed, TaskSeen
from pinwatch.model.failure import Failure
from pinwatch.model.kernel import HookState, KernelFacts
from pinwatch.model.sample import TaskKey
from pinwatch.model.snapshot import Snapshot
from pinwatch.model.vm import HOST, UNATTRIBUTED
from pinwatch.recording import Counted, Item, RawRecord, VmFound


class Pipeline:
    """Everything between the kernel and the views."""

    def __init__(self, facts: KernelFacts, wall_offset_ns: int) -> None:
        self._facts = facts
        self._wall_offset_ns = wall_offset_ns
        self._ledger = Ledger()

    def feed(self, item: Item) -> ModuleLoaded | Failure | None:
        """Take one item. What the caller may want to act on or show at once is given back."""
        match item:
            case RawRecord(data):
                return self._record(data)
            case VmFound(task, cmdline):
                self._name(task, cmdline)
            case Counted(sample, vmstat):
                self._ledger.add_sample(sample)
                self._ledger.set_reconciliation(
                    {
                        name: n - vmstat[name]
                        for name, n in sample.witnesses.items()
                        if name in vmstat
                    }
                )
        return None

    def _record(self, data: bytes) -> ModuleLoaded | Failure | None:
        try:
            event = decode(data, self._facts)
        except DecodeError:
            self._ledger.add_loss("undecodable")
            return None
        match event:
            case TaskSeen():
                self._name(event.task.key, event.cmdline)
            case HolderSeen():
                self._ledger.add_window(event)
            case ModuleLoaded():
                return event
            case PinFailed():
                return self._failed(event)
        return None

    def _name(self, task: TaskKey, cmdline: tuple[str, ...]) -> None:
        unnamed = HOST if cmdline else UNATTRIBUTED
        self._ledger.name_task(task, qemu.resolve(cmdline) or unnamed)

    def _failed(self, pin: PinFailed) -> Failure:
        if pin.cmdline or not self._ledger.knows(pin.task.key):
            self._name(pin.task.key, pin.cmdline)
        reason, folios = rules.classify(pin)
        failure = Failure(
            number=self._ledger.next_number(),
            time_s=(pin.time_ns + self._wall_offset_ns) / 1e9,
            vm=self._ledger.vm_of(pin.task.key),
            pin=pin,
            reason=reason,
            holder=holders.match(pin, reason, folios, self._ledger.windows),
            primary=rules.primary(folios),
            folios=folios,
        )
        self._ledger.add_failure(failure)
        return failure

    @property
    def tasks(self) -> tuple[TaskKey, ...]:
        """Processes whose counters are kept in the kernel."""
        return self._ledger.tasks

    def forget_task(self, key: TaskKey) -> None:
        self._ledger.forget_task(key)

    def add_loss(self, kind: str, amount: int = 1) -> None:
        self._ledger.add_loss(kind, amount)

    def set_hooks(self, hooks: tuple[HookState, ...]) -> None:
        self._ledger.set_hooks(hooks)

    def snapshot(self) -> Snapshot:
        return self._ledger.snapshot()
