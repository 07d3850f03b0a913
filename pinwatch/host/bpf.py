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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pinwatch.abi import layout
from pinwatch.errors import CannotRunError
from pinwatch.host import compat, syscalls
from pinwatch.host.compat import Hook
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.sample import Durations, KernelSample, TaskKey, TaskTotals
from pinwatch.recording import facts_from_json

LOAD_TIMEOUT_S = 300  # a guest under emulation needs 30 to 60 s


@dataclass(slots=True, kw_only=True)
class LiveHook:
    """A hook, its loaded programs (none: its state says why), and the links that hold it."""

    hook: Hook
    symbol: str
    mode: Mode
    programs: tuple[int, ...]
    state: HookState
    links: list[int]


def run_loader(*, bpf_dir: Path, procfs: Path, sysfs: Path) -> tuple[dict[str, Any], list[int]]:
    """Run the loader to its end; its message and the descriptors, or CannotRunError."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "pinwatch.host.loader", str(theirs.fileno())]
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
        self._cpus = syscalls.possible_cpus(sysfs)
        by_name = {hook.name: hook for hook in compat.HOOKS}
        self._hooks = [_live_hook(by_name[row["hook"]], row, fds) for row in message["hooks"]]
        self.ring = syscalls.RingBuffer(self._maps["events"])

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
        waiting = [live for live in self._hooks if live.hook.module == module]
        for live in waiting:
            _close(live.links)  # a probe in an unloaded module is dead
            self._attach(live)
        return bool(waiting)

    def retry_modules(self) -> bool:
        """Attach what waits for a module, should its load have gone unnoticed."""
        changed = False
        for live in self._hooks:
            if live.hook.module and not live.state.attached:
                self._attach(live)
                changed |= live.state.attached
        return changed

    def _attach(self, live: LiveHook) -> None:
        if not live.programs:
            return
        try:
            live.links = self._links(live)
        except OSError as error:
            reason = _attach_reason(live.hook, live.mode, error)
            live.state = _state(live.hook, live.symbol, Mode.OFF, reason)
        else:
            live.state = _state(live.hook, live.symbol, live.mode)

    def _links(self, live: LiveHook) -> list[int]:
        links: list[int] = []
        try:
            for program, on_return in zip(live.programs, _phases(live.hook), strict=True):
                links.append(self._link(live, program, on_return))
        except OSError:
            _close(links)
            raise
        return links

    def _link(self, live: LiveHook, program: int, on_return: bool) -> int:
        if live.mode is Mode.KPROBE:
            return syscalls.attach_kprobe(
                program, live.symbol, on_return=on_return, sysfs=self._sysfs
            )
        return syscalls.attach_tracing(
            program, live.symbol if live.mode is Mode.RAW_TRACEPOINT else ""
        )

    @property
    def states(self) -> tuple[HookState, ...]:
        return tuple(live.state for live in self._hooks)

    def sample(self) -> KernelSample:
        """All counters as they stand now."""
        return KernelSample(
            totals=self._totals(),
            durations=self._durations(),
            witnesses=self._counters("witnesses", layout.VMSTAT_NAMES),
            losses=self._counters("losses", layout.LOSS_NAMES),
        )

    def forget_task(self, key: TaskKey) -> None:
        """Free the counters of a process that is gone."""
        for source in layout.SOURCE_NAMES:
            raw = layout.TotalKey(task_start_ns=key.start_ns, tgid=key.tgid, source=source)
            syscalls.delete_key(self._maps["totals"], bytes(raw))

    def _totals(self) -> tuple[TaskTotals, ...]:
        pairs = syscalls.read_hash(self._maps["totals"], layout.TotalKey, layout.Total)
        return tuple(_task_totals(key, value) for key, value in pairs)

    def _counters(self, name: str, names: Mapping[int, str]) -> dict[str, int]:
        return {name_: self._counter(name, index) for index, name_ in names.items()}

    def _counter(self, name: str, index: int) -> int:
        cpus = syscalls.read_per_cpu(self._maps[name], index, _Counter, self._cpus)
        return sum(int.from_bytes(raw, "little") for raw in cpus)

    def _durations(self) -> tuple[Durations, ...]:
        return tuple(
            self._duration(source, result)
            for source in layout.SOURCE_NAMES
            for result in (layout.Result.OK, layout.Result.FAILED)
        )

    def _duration(self, source: layout.Source, result: layout.Result) -> Durations:
        index = source * layout.Result.COUNT + result
        raw = syscalls.read_per_cpu(self._maps["durations"], index, layout.Duration, self._cpus)
        cpus = [layout.Duration.from_buffer_copy(one) for one in raw]
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
        _close(list(self._maps.values()))


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
    return LiveHook(
        hook=hook,
        symbol=row["symbol"],
        mode=Mode(row["mode"]),
        programs=tuple(fds[index] for index in row["programs"]),
        state=_state(hook, row["symbol"], Mode.OFF, row["reason"]),
        links=[],
    )


def _state(hook: Hook, symbol: str, mode: Mode, reason: str = "") -> HookState:
    return HookState(hook=hook.name, symbol=symbol, mode=mode, reason=reason, sees=hook.sees)


def _phases(hook: Hook) -> tuple[bool, ...]:
    """For each program of a hook, in order: does it run on return?"""
    return tuple(is_exit for is_exit, wanted in ((False, hook.entry), (True, hook.exit)) if wanted)


def _attach_reason(hook: Hook, mode: Mode, error: OSError) -> str:
    if hook.module and error.errno == errno.ENOENT:
        return f"module {hook.module} is not loaded"
    return f"{mode}: {error.strerror}"


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()
