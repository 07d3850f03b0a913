"""The programs in the kernel: start the loader, attach its programs, read its maps.

Takes roots (proc, sysfs, the bpf/ sources); gives hook states, raw records and a KernelSample. A
hook that cannot be attached is off with its reason; only a missing core hook stops the daemon.
"""

from __future__ import annotations

import ctypes as ct
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pinwatch import decode
from pinwatch.abi import layout
from pinwatch.errors import CannotRunError
from pinwatch.host import compat, syscalls
from pinwatch.host.compat import Hook
from pinwatch.host.probe import possible_cpus
from pinwatch.host.sysfs import cma_areas
from pinwatch.host.tracefs import ReturnProbes
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.loss import LossKind
from pinwatch.model.sample import (
    Durations,
    KernelSample,
    Migrations,
    OpenPin,
    TaskKey,
    TaskTotals,
)
from pinwatch.recording import facts_from_json

LOAD_TIMEOUT_S = 600  # a guest under emulation needs 30 to 140 s

# The loader of this very package: `-m` would take the one of a `pinwatch` in the current directory,
# whoever put that there, and run it as root.
_HOME = Path(__file__).resolve().parents[2]
_LOADER = """\
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
import pinwatch
del sys.path[0]
runpy.run_module("pinwatch.host.loader", run_name="__main__")
"""

_S = TypeVar("_S", bound=ct.Structure)


@dataclass(slots=True, kw_only=True)
class LiveHook:
    """A hook, its loaded programs (none: its state says why), and the links that hold it."""

    hook: Hook
    symbols: tuple[str, ...]  # candidates: more than one only when they are in modules
    mode: Mode
    programs: tuple[int, ...]
    state: HookState
    links: list[int]


def run_loader(*, bpf_dir: Path, procfs: Path, sysfs: Path) -> tuple[dict[str, Any], list[int]]:
    """Run the loader to its end; its message and the descriptors, or CannotRunError."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-c", _LOADER, str(_HOME), str(theirs.fileno())]
    with (
        ours,
        subprocess.Popen(
            [*command, str(bpf_dir), str(procfs), str(sysfs)],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=None if "PINWATCH_DEBUG" in os.environ else subprocess.DEVNULL,
        ) as child,
    ):
        theirs.close()
        ours.settimeout(LOAD_TIMEOUT_S)
        try:
            message, fds = _receive(ours)
        except (TimeoutError, json.JSONDecodeError):
            child.kill()
            raise CannotRunError(
                "the BPF loader ended without an answer",
                hint="run with --debug to see what it wrote",
            ) from None
    if "error" in message:
        raise CannotRunError(message["error"], hint=message["hint"])
    return message, fds


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    text = b""
    fds: list[int] = []
    while True:
        portion, new, _, _ = socket.recv_fds(channel, 65536, 253)
        fds += new
        if not portion:
            line = text.partition(b"\n")[0]
            return json.loads(line), fds
        text += portion


class Probes:
    """Everything of ours that is in the kernel. Closing it detaches all."""

    def __init__(self, *, bpf_dir: Path, procfs: Path, sysfs: Path) -> None:
        self._sysfs = sysfs
        message, fds = run_loader(bpf_dir=bpf_dir, procfs=procfs, sysfs=sysfs)
        self.facts = facts_from_json(message["facts"])
        self._maps = {name: fds[index] for name, index in message["maps"].items()}
        self._cpus = possible_cpus(sysfs)
        by_name = {hook.name: hook for hook in compat.HOOKS}
        self._hooks = [_live_hook(by_name[row["hook"]], row, fds) for row in message["hooks"]]
        self._returns = ReturnProbes(sysfs)
        self.ring = syscalls.RingBuffer(self._maps["events"])
        if "lru_batches" in self._maps:
            for index, address in enumerate(message["lru_batches"]):
                syscalls.write_slot(self._maps["lru_batches"], index, address.to_bytes(8, "little"))

    def set_limits(self, *, slow_s: float, slow_loops: int) -> None:
        """From when on a pin that succeeds leaves a record all the same."""
        limits = layout.Limits(slow_ns=int(slow_s * 1e9), slow_loops=slow_loops)
        syscalls.write_slot(self._maps["limits"], 0, bytes(limits))

    def attach(self) -> None:
        """Attach every hook that can be; CannotRunError when a core one cannot."""
        for live in self._hooks:
            self._attach(live)
        for live in self._hooks:
            if live.hook.core and not live.state.attached:
                raise CannotRunError(
                    f"cannot attach {live.hook.name}: {live.state.reason}",
                    hint="see `pinwatch doctor` for what this kernel allows",
                )

    def attach_module(self, module: str) -> bool:
        """A module was loaded (again): attach its hooks. True when something changed."""
        waiting = [live for live in self._hooks if module in live.hook.modules]
        for live in waiting:
            _close(live.links)  # a probe in an unloaded module is dead
            self._returns.remove_unused()
            self._attach(live)
        return bool(waiting)

    def retry_modules(self) -> bool:
        """Attach what waits for a module, should its load have gone unnoticed."""
        changed = False
        for live in self._hooks:
            if live.hook.modules and not live.state.attached:
                self._attach(live)
                changed |= live.state.attached
        return changed

    def _attach(self, live: LiveHook) -> None:
        if not live.programs:
            return
        for symbol in live.symbols:
            try:
                live.links = self._links(live, symbol)
            except OSError as error:
                live.state = self._refused(live, symbol, error)
            else:
                live.state = _state(live.hook, symbol, live.mode, self._limits(live))
                return

    def _limits(self, live: LiveHook) -> str:
        """Why it may not see all."""
        is_return_probe = live.mode is Mode.KPROBE and any(_phases(live.hook)[1:])
        if not is_return_probe or not self._returns.refused:
            return ""
        at_once = max(10, 2 * self._cpus)
        return f"no more than {at_once} at once are seen to end ({self._returns.refused})"

    def _refused(self, live: LiveHook, symbol: str, error: OSError) -> HookState:
        modules = live.hook.modules
        if not modules or error.errno != errno.ENOENT:
            return _state(live.hook, symbol, Mode.OFF, f"{live.mode}: {error.strerror}")
        if all((self._sysfs / "module" / name).exists() for name in modules):
            reason = f"this kernel has none of: {', '.join(live.symbols)}"
            return _state(live.hook, "", Mode.OFF, reason)
        reason = f"module {' or '.join(modules)} is not loaded"
        return _state(live.hook, symbol, Mode.WAITING, reason)

    def _links(self, live: LiveHook, symbol: str) -> list[int]:
        links: list[int] = []
        try:
            for program, on_return in zip(live.programs, _phases(live.hook), strict=True):
                links.append(self._link(live.mode, symbol, program, on_return))
        except OSError:
            _close(links)
            raise
        return links

    def _link(self, mode: Mode, symbol: str, program: int, on_return: bool) -> int:
        if mode is Mode.KPROBE:
            with suppress(OSError):  # then as the kernel has it by itself
                if on_return:
                    return self._returns.attach(program, symbol)
            return syscalls.attach_kprobe(program, symbol, on_return=on_return, sysfs=self._sysfs)
        return syscalls.attach_tracing(program, symbol if mode is Mode.RAW_TRACEPOINT else "")

    @property
    def states(self) -> tuple[HookState, ...]:
        return tuple(live.state for live in self._hooks)

    def sample(self) -> KernelSample:
        """All counters as they stand now."""
        time_ns = time.monotonic_ns()
        migrations = self._migrations()
        witnesses = self._counters("witnesses", layout.VMSTAT_NAMES)
        witnesses["pgmigrate_success"] = sum(m.succeeded for m in migrations)
        witnesses["pgmigrate_fail"] = sum(m.failed for m in migrations)
        return KernelSample(
            time_ns=time_ns,
            totals=self._totals(),
            durations=self._durations(),
            witnesses=witnesses,
            losses={**self._counters("losses", layout.LOSS_NAMES), LossKind.MISSED: self._missed()},
            migrations=migrations,
            split_errors=self._counters("split_errors", layout.SPLIT_ERROR_NAMES),
            cma_failures=self._cma_failures(),
            open_pins=self._open_pins(),
        )

    def forget_task(self, key: TaskKey) -> None:
        """Free the counters of a process that is gone."""
        for source in layout.SOURCE_NAMES:
            raw = layout.TotalKey(task_start_ns=key.start_ns, tgid=key.tgid, source=source)
            syscalls.delete_key(self._maps["totals"], bytes(raw))

    def _missed(self) -> int:
        """How often the kernel did not run a program, because it was running on that CPU, or there
        was no slot for a return."""
        programs = (program for live in self._hooks for program in live.programs)
        return sum(map(syscalls.program_misses, programs)) + self._returns.missed()

    def _totals(self) -> tuple[TaskTotals, ...]:
        pairs = syscalls.read_hash(self._maps["totals"], layout.TotalKey, layout.Total)
        return tuple(_task_totals(key, value) for key, value in pairs)

    def _counters(self, name: str, names: Mapping[int, str]) -> dict[str, int]:
        return {name_: self._counter(name, index) for index, name_ in names.items()}

    def _counter(self, name: str, index: int) -> int:
        cpus = syscalls.read_per_cpu(self._maps[name], index, _Counter, self._cpus)
        return sum(int.from_bytes(raw, "little") for raw in cpus)

    def _migrations(self) -> tuple[Migrations, ...]:
        """By migrate_reason, those that this kernel names."""
        return tuple(
            Migrations(
                reason=name,
                succeeded=sum(one.succeeded for one in counts),
                failed=sum(one.failed for one in counts),
            )
            for value, name in self.facts.migrate_reasons.items()
            for counts in (self._per_cpu("migrations", value, layout.Migrations),)
        )

    def _per_cpu(self, name: str, index: int, value: type[_S]) -> list[_S]:
        raw = syscalls.read_per_cpu(self._maps[name], index, value, self._cpus)
        return [value.from_buffer_copy(one) for one in raw]

    def _cma_failures(self) -> dict[str, int]:
        pairs = syscalls.read_hash(self._maps["cma_failures"], layout.Area, _Counter)
        return dict.fromkeys(cma_areas(self._sysfs), 0) | {
            decode.text(layout.Area.from_buffer_copy(key).name): int.from_bytes(value, "little")
            for key, value in pairs
        }

    def _open_pins(self) -> tuple[OpenPin, ...]:
        pairs = syscalls.read_hash(self._maps["frames"], _Tid, layout.Frame)
        return tuple(decode.open_pin(value) for _, value in pairs)

    def _durations(self) -> tuple[Durations, ...]:
        return tuple(
            self._duration(source, result)
            for source in layout.SOURCE_NAMES
            for result in (layout.Result.OK, layout.Result.FAILED)
        )

    def _duration(self, source: int, result: layout.Result) -> Durations:
        index = source * layout.Result.COUNT + result
        cpus = self._per_cpu("durations", index, layout.Duration)
        return Durations(
            source=layout.SOURCE_NAMES[source],
            failed=result is layout.Result.FAILED,
            sum_ns=sum(cpu.sum_ns for cpu in cpus),
            slots=tuple(map(sum, zip(*(cpu.slots for cpu in cpus), strict=True))),
        )

    def close(self) -> None:
        """Detach everything and give all memory back."""
        self.ring.close()
        for live in self._hooks:
            _close(live.links)
            _close(list(live.programs))
        self._returns.remove_unused()
        _close(list(self._maps.values()))


class _Tid(ct.Structure):
    _fields_ = (("value", ct.c_uint32),)


class _Counter(ct.Structure):
    _fields_ = (("value", ct.c_uint64),)


def _task_totals(key: bytes, value: bytes) -> TaskTotals:
    who = layout.TotalKey.from_buffer_copy(key)
    total = layout.Total.from_buffer_copy(value)
    return TaskTotals(
        task=TaskKey(tgid=who.tgid, start_ns=who.task_start_ns),
        source=layout.SOURCE_NAMES[who.source],
        pins=total.pins,
        failures=total.failures,
        pages=total.pages,
        migrated=total.migrated,
        migrate_failed=total.migrate_failed,
    )


def _live_hook(hook: Hook, row: dict[str, Any], fds: list[int]) -> LiveHook:
    symbols = tuple(row["symbols"])
    return LiveHook(
        hook=hook,
        symbols=symbols,
        mode=Mode(row["mode"]),
        programs=tuple(fds[index] for index in row["programs"]),
        state=_state(hook, symbols[0] if symbols else "", Mode.OFF, row["reason"]),
        links=[],
    )


def _state(hook: Hook, symbol: str, mode: Mode, reason: str = "") -> HookState:
    return HookState(hook=hook.name, symbol=symbol, mode=mode, reason=reason, sees=hook.sees)


def _phases(hook: Hook) -> tuple[bool, ...]:
    """For each program of a hook, in order: does it run on return?"""
    exits = hook.exit or bool(hook.returns)
    return tuple(is_exit for is_exit, wanted in ((False, hook.entry), (True, exits)) if wanted)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()
