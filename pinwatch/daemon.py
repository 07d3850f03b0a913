"""The daemon: connect the kernel to the pipeline and the pipeline to the views, until told to stop.

One thread takes records and samples and publishes a frozen snapshot; HTTP threads read the newest.
"""

from __future__ import annotations

import select
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from pinwatch import attribute, decode, history, serve
from pinwatch.errors import CannotRunError, PinwatchError
from pinwatch.expose import log
from pinwatch.expose.catalogue import (
    BROKEN,
    HISTORY_BYTES,
    HISTORY_EVENTS,
    HISTORY_WRITABLE,
    REFUSED,
)
from pinwatch.expose.log import Line
from pinwatch.expose.metrics import counter_family, gauge_family
from pinwatch.history import History
from pinwatch.host import clock, heap, kallsyms, procfs, sysfs
from pinwatch.host.bpf import Probes
from pinwatch.host.frames import cma_ranges
from pinwatch.host.lives import Lives
from pinwatch.host.looks import Looks, Subject
from pinwatch.host.notify import notify
from pinwatch.journal import Log, Pins
from pinwatch.model.event import ModuleLoaded
from pinwatch.model.failure import Failure, SlowPin
from pinwatch.model.kernel import HookState, Mode
from pinwatch.model.loss import LossKind
from pinwatch.model.sample import TaskKey, TaskTotals
from pinwatch.model.snapshot import Snapshot
from pinwatch.model.vm import SeriesLimits
from pinwatch.pipeline import Outcome, Pipeline
from pinwatch.recorder import Recorder
from pinwatch.recording import (
    ClockSet,
    Counted,
    Header,
    HooksChanged,
    IoInFlight,
    Item,
    Lost,
    Named,
    Published,
    RawRecord,
    TaskGone,
    VmmsConfigured,
)
from pinwatch.settings import Settings

if TYPE_CHECKING:
    from pinwatch.web import Web


HOUSEKEEPING_S = 10.0
CLOCK_SET_NS = 100_000_000  # that the wall clock differs by from what it was to be
MOMENT_S = 60.0  # between states of the host that the history keeps
AT_ONCE_S = 0.2  # what changed is published so soon, but not for each record of a storm
BUSY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Where the kernel's file systems, libvirt's files and our BPF sources are."""

    root: Path = Path("/")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    bpf: Path

    @staticmethod
    def default() -> Roots:
        """bpf/ lies inside an installed package, beside it in a checkout."""
        package = Path(__file__).resolve().parent
        inside = package / "bpf"
        return Roots(bpf=inside if inside.is_dir() else package.parent / "bpf")


class Daemon:
    """Holds the probes, the pipeline and the newest snapshot."""

    def __init__(self, settings: Settings, roots: Roots) -> None:
        self._settings = settings
        self._roots = roots
        self._stop = False
        self._ready = False
        self._hooks: tuple[HookState, ...] = ()
        self._history_lost = 0
        self._next_moment = 0.0
        self._log = Log()
        self._journal = Pins(self._log)
        self._namer = kallsyms.Namer(roots.proc)
        self._io_in_flight: tuple[str, ...] = ()
        self._stuck: frozenset[tuple[TaskKey, int, bool]] = frozenset()
        self._serving = False
        self._given_up = 0
        self._programs = attribute.Programs.of(
            settings.vmm_programs.split(), settings.vm_name_pattern
        )
        self._totals: tuple[TaskTotals, ...] = ()
        self._web = _web(settings.web_config_file, self._tell)
        self._tcp = serve.bind_tcp(
            settings.listen,
            max_requests=int(settings.web_max_requests),
            contexts=self._web.contexts if self._web else None,
        )
        self._unix = serve.bind_unix(settings.socket)
        try:
            self._probes = Probes(bpf_dir=roots.bpf, procfs=roots.proc, sysfs=roots.sys)
            self._lives = Lives(
                root=roots.root,
                proc=roots.proc,
                sys=roots.sys,
                programs=self._programs,
                on_module=self._probes.retry_modules,
            )
            self._looks = Looks(
                proc=roots.proc,
                sysfs=roots.sys,
                percent=settings.placement_cpu_percent,
                cma=cma_ranges(self._probes.facts),
            )
            header = Header(
                facts=self._probes.facts,
                wall_offset_ns=clock.wall_offset_ns(),
                series=_series(settings),
            )
            self._wall_offset_ns = header.wall_offset_ns
            self._pipeline = Pipeline(header.facts, header.wall_offset_ns, header.series)
            self._history = _history(settings, self._tell)
            self._recorder = Recorder(header, settings.record, self._tell)
        except PinwatchError:
            self._stop_serving()
            raise

    # ---- start ------------------------------------------------------------------------------

    def run(self) -> None:
        """Attach, serve, and take what comes until SIGTERM or SIGINT."""
        heap.keep_small()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            self._start()
            self._loop()
        finally:
            self._close()

    def _start(self) -> None:
        self._vmstat_at_attach = procfs.vmstat(self._roots.proc)
        self._probes.set_limits(
            slow_s=self._settings.slow_pin_seconds, slow_loops=int(self._settings.slow_pin_loops)
        )
        self._probes.attach()
        if self._programs != attribute.Programs():
            names = tuple(self._settings.vmm_programs.split())
            self._feed(VmmsConfigured(names, self._settings.vm_name_pattern))
        self._feed_all(self._lives.running())
        self._sample()
        self._looks.start()
        if self._history is not None:
            self._history.start()
        self._serve()
        self._say_ready()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stop = True

    def _serve(self) -> None:
        app = serve.App(
            latest=lambda: self._snapshot,
            facts=self._probes.facts,
            ready=lambda: self._ready,
            own=self._own_metrics,
            record=self._recorder.taps.open,
        )
        serve.start(self._tcp, self._web.guard(app) if self._web else app)
        serve.start(self._unix, app)
        self._serving = True

    def _say_ready(self) -> None:
        """Ready means that probes are attached and /metrics answers: it is asked, not assumed."""
        if not serve.answers(self._settings.socket, "/metrics"):
            raise CannotRunError("/metrics does not answer", hint="report this as a bug")
        where = f"{self._tcp.scheme}://{serve.local_address(self._tcp)}/metrics"
        self._ready = True
        states = self._states
        attached = sum(state.attached for state in states)
        waiting = [state for state in states if state.mode is Mode.WAITING]
        off = [state for state in states if state.mode is Mode.OFF]
        self._tell(f"ready: {attached} hooks attached, metrics on {where}")
        if waiting:
            reasons = "; ".join(dict.fromkeys(state.reason for state in waiting))
            self._tell(f"{len(waiting)} hooks attach later: {reasons}")
        limited = [state for state in states if state.attached and state.reason]
        if limited:
            reasons = "; ".join(dict.fromkeys(state.reason for state in limited))
            self._tell(f"{len(limited)} hooks have limits: {reasons}")
        for state in off:
            self._tell(f"not seen: {state.sees} (hook {state.hook}: {state.reason})")
        notify(f"READY=1\nSTATUS={attached} hooks attached, {len(waiting)} wait, {len(off)} off")

    @property
    def _states(self) -> tuple[HookState, ...]:
        return (*self._probes.states, *self._lives.states, *self._looks.states)

    # ---- loop -------------------------------------------------------------------------------

    def _loop(self) -> None:
        poller = select.poll()
        for fileno in (self._probes.ring.fileno(), *self._lives.filenos):
            poller.register(fileno, select.POLLIN)
        next_sample = next_housekeeping = clock.monotonic_s()
        while not self._stop:
            now = clock.monotonic_s()
            poller.poll(max(0.0, min(next_sample, next_housekeeping) - now) * 1000)
            began = clock.thread_cpu_s()
            if self._drain():
                next_sample = min(next_sample, now + AT_ONCE_S)
            notify("WATCHDOG=1")
            now = clock.monotonic_s()
            if now >= next_housekeeping:
                self._housekeeping()
                next_housekeeping = now + HOUSEKEEPING_S
            if now >= next_sample:
                self._sample()
                next_sample = now + self._settings.sample_interval
            _rest(clock.thread_cpu_s() - began)

    def _drain(self) -> bool:
        """Take what the ring buffer holds; True when a view should know at once. Lives are heard in
        between: whoever made one of these records has been told of by then."""
        changed = self._name_callers()
        records = self._probes.ring.take()
        self._feed_all(self._lives.hear())
        if records and (devices := sysfs.io_in_flight(self._roots.sys)) != self._io_in_flight:
            self._io_in_flight = devices
            self._feed(IoInFlight(devices))
        for data in records:
            self._find_more(data)
            found = self._feed(RawRecord(data))
            if isinstance(found, ModuleLoaded):
                changed |= self._probes.attach_module(found.name)
            elif isinstance(found, Failure):
                changed = True
                self._namer.ask(found.pin.stack)
                self._journal.say(log.failed, found)
                self._keep(found)
            elif isinstance(found, SlowPin):
                changed = True
                self._namer.ask(found.pin.stack)
                self._journal.say(log.slow, found)
                self._keep(found)
        return changed

    def _name_callers(self) -> bool:
        """Names of the kernel functions that pinned, which come after the records."""
        if names := self._namer.take():
            self._feed(Named(names))
        return bool(names)

    def _find_more(self, data: bytes) -> None:
        """Before the record, so that this is named by all that names it: once for each process."""
        try:
            introduced = decode.introduction(data)
        except decode.DecodeError:  # the pipeline counts it
            return
        if introduced is None:
            return
        task, cmdline = introduced
        if not self._pipeline.knows(task):
            self._find(task, cmdline)
        elif self._pipeline.is_vm(task):
            self._feed_all(self._lives.devices(task, cmdline))

    def _find(self, task: TaskKey, cmdline: tuple[str, ...] | None = None) -> None:
        self._feed_all(self._lives.about(task, cmdline))

    def _feed_all(self, items: Iterable[Item]) -> None:
        """Items that are made by reading; what could not be read is counted."""
        errors = self._lives.errors
        for item in items:
            self._feed(item)
        if self._lives.errors > errors:
            self._feed(Lost(LossKind.VM_EVIDENCE, self._lives.errors - errors))

    def _feed(self, item: Item) -> Outcome | None:
        self._recorder.take(item)
        return self._pipeline.feed(item)

    def _sample(self) -> None:
        """Read all counters; the kernel's own before and after ours, so that they compare. Then the
        records: a process that is counted was announced before."""
        self._look_at_clock()
        before = procfs.vmstat(self._roots.proc)
        sample = self._probes.sample()
        after = procfs.vmstat(self._roots.proc)
        self._drain()
        for pin in sample.open_pins:
            self._name_open(pin.task)
        since = {
            name: _nearest(ours, before[name] - at_attach, after[name] - at_attach)
            for name, ours in sample.witnesses.items()
            if (at_attach := self._vmstat_at_attach.get(name)) is not None
        }
        self._feed(Counted(sample, since))
        self._part_from_ended()
        self._look_around()
        self._totals = sample.totals
        self._publish()
        self._raise_stuck()
        self._journal.catch_up()

    def _look_at_clock(self) -> None:
        """What came from the kernel by now was before."""
        offset_ns = clock.wall_offset_ns()
        moved_ns = offset_ns - self._wall_offset_ns
        if abs(moved_ns) < CLOCK_SET_NS:
            return
        self._drain()
        self._wall_offset_ns = offset_ns
        self._feed(ClockSet(clock.monotonic_ns(), offset_ns))
        self._tell(f"the clock of this host was set, by {moved_ns / 1e9:+,.1f} s")

    def _publish(self) -> None:
        if (states := self._states) != self._hooks:
            self._hooks = states
            self._feed(HooksChanged(states))
        if lost := self._recorder.new_losses():
            self._feed(Lost(LossKind.RECORDING, lost))
        if self._history is not None and (lost := self._history.lost - self._history_lost):
            self._history_lost += lost
            self._feed(Lost(LossKind.HISTORY, lost))
        self._feed(Published())
        self._snapshot: Snapshot = self._pipeline.snapshot()
        self._recorder.published()
        if (now := clock.monotonic_s()) >= self._next_moment:
            self._next_moment = now + MOMENT_S
            self._keep(self._snapshot)

    def _part_from_ended(self) -> None:
        """All that they counted has just been taken."""
        for task in self._lives.gone(self._pipeline.tasks):
            self._feed(TaskGone(task))
            self._probes.forget_task(task)

    def _look_around(self) -> None:
        """What was found of VMs' memory, and whose to look at."""
        for item in self._looks.take():
            self._feed(item)
        if lost := self._looks.given_up - self._given_up:
            self._given_up += lost
            self._feed(Lost(LossKind.PLACEMENT, lost))
        self._looks.watch(
            [Subject(task, vm.platform.raises_memlock) for task, vm in self._pipeline.vms]
        )

    def _name_open(self, task: TaskKey) -> None:
        """Whose first pin has not returned has not introduced itself."""
        if not self._pipeline.knows(task):
            self._find(task)

    def _raise_stuck(self) -> None:
        """Say once of each pin that it is stuck, while it is."""
        now = {(s.pin.task, s.pin.start_ns, s.livelock): s for s in self._snapshot.stuck}
        for key in now.keys() - self._stuck:
            self._journal.say(log.stuck, now[key])
        self._stuck = frozenset(now)

    def _own_metrics(self) -> Iterator[Metric]:
        """What no snapshot has."""
        servers = (self._tcp, self._unix)
        since_s = self._snapshot.started_s
        yield counter_family(REFUSED, {(): sum(server.refused for server in servers)}, since_s)
        yield counter_family(BROKEN, {(): sum(server.broken for server in servers)}, since_s)
        if self._history is not None:
            state = self._history.state
            yield gauge_family(HISTORY_WRITABLE, {(): int(state.writable)})
            yield gauge_family(HISTORY_BYTES, {(): state.size_bytes})
            yield gauge_family(HISTORY_EVENTS, {(): state.events})

    def _tell(self, text: str) -> None:
        """A line that is about the daemon itself."""
        self._log.say(Line(text))

    def _keep(self, entry: history.Entry) -> None:
        if self._history is not None:
            self._history.add(entry)

    def _housekeeping(self) -> None:
        self._probes.retry_modules()
        pins = Counter[TaskKey]()
        for total in self._totals:
            if self._pipeline.is_vm(total.task):
                pins[total.task] += total.pins
        self._feed_all(self._lives.more(pins))

    def _close(self) -> None:
        notify("STOPPING=1")
        self._stop_serving()
        if self._recorder.is_to_file:
            self._sample()
        self._recorder.close()
        if self._history is not None:
            self._history.close()
        self._looks.close()
        self._probes.close()
        self._lives.close()

    def _stop_serving(self) -> None:
        for server in (self._tcp, self._unix):
            if self._serving:
                server.shutdown()
            server.server_close()
        Path(self._settings.socket).unlink(missing_ok=True)


def _history(settings: Settings, log: Callable[[str], None]) -> History | None:
    if not settings.state_dir:
        return None
    limits = history.Limits(
        size_bytes=int(settings.history_mb * (1 << 20)),
        age_s=settings.history_days * history.DAY_S,
    )
    return History(settings.state_dir, limits, log)


def _web(path: str, tell: Callable[[str], None]) -> Web | None:
    """Only who configures it has TLS and bcrypt in memory."""
    if not path:
        return None
    from pinwatch.web import Web

    return Web(path, tell)


def _series(settings: Settings) -> SeriesLimits:
    return SeriesLimits(
        max_vms=int(settings.max_vms), retention_ns=int(settings.vm_retention * 1_000_000_000)
    )


def _nearest(ours: int, before: int, after: int) -> int:
    """What the kernel's counter was when ours was read, as far as one can know."""
    return min(max(ours, before), after)


def _rest(spent_s: float) -> None:
    """A storm of failures gets half of one CPU: what the ring cannot hold meanwhile it counts."""
    if spent_s > BUSY_S:
        clock.sleep(spent_s)
