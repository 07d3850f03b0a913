"""The daemon: connect the kernel to the pipeline and the pipeline to the views, until told to stop.

One thread takes records and samples and publishes a frozen snapshot; HTTP threads read the newest.
"""

from __future__ import annotations

import select
import signal
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pinwatch import recording, serve
from pinwatch.errors import CannotRunError, PinwatchError
from pinwatch.expose import words
from pinwatch.host import clock, procfs
from pinwatch.host.bpf import Probes
from pinwatch.host.notify import notify
from pinwatch.model.event import ModuleLoaded
from pinwatch.model.failure import Failure
from pinwatch.model.snapshot import Snapshot
from pinwatch.pipeline import Pipeline
from pinwatch.recording import Counted, Item, RawRecord, VmFound
from pinwatch.settings import Settings

HOUSEKEEPING_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Where the kernel's file systems and our BPF sources are."""

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
        self._record: TextIO | None = None
        self._last_line = ""
        self._serving = False
        self._tcp = serve.bind_tcp(settings.listen)
        self._unix = serve.bind_unix(settings.socket)
        try:
            self._probes = Probes(bpf_dir=roots.bpf, procfs=roots.proc, sysfs=roots.sys)
            wall_offset_ns = clock.wall_offset_ns()
            self._pipeline = Pipeline(self._probes.facts, wall_offset_ns)
            if settings.record:
                self._open_recording(settings.record, wall_offset_ns)
        except PinwatchError:
            self._stop_serving()
            raise

    def _open_recording(self, path: str, wall_offset_ns: int) -> None:
        try:
            self._record = open(path, "w", buffering=1)  # noqa: SIM115 - open as long as we run
        except OSError as error:
            raise CannotRunError(
                f"cannot write {path}: {error.strerror}", hint="choose another file with --record"
            ) from None
        self._record.write(recording.header_line(self._probes.facts, wall_offset_ns))

    # ---- start ------------------------------------------------------------------------------

    def run(self) -> None:
        """Attach, serve, and take what comes until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            self._start()
            self._loop()
        finally:
            self._close()

    def _start(self) -> None:
        self._vmstat_at_attach = procfs.vmstat(self._roots.proc)
        self._probes.attach()
        for key, cmdline in procfs.vmms(self._roots.proc):
            self._feed(VmFound(key, cmdline))
        self._sample()
        self._serve()
        self._say_ready()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stop = True

    def _serve(self) -> None:
        app = serve.App(
            latest=lambda: self._snapshot,
            facts=self._probes.facts,
            ready=lambda: self._ready,
        )
        for server in (self._tcp, self._unix):
            serve.start(server, app)
        self._serving = True

    def _say_ready(self) -> None:
        """Ready means that probes are attached and /metrics answers: it is asked, not assumed."""
        where = serve.local_address(self._tcp)
        with urllib.request.urlopen(f"http://{where}/metrics", timeout=30) as answer:
            answer.read()
        self._ready = True
        attached = sum(state.attached for state in self._probes.states)
        off = [state for state in self._probes.states if not state.attached]
        _log(f"ready: {attached} hooks attached, metrics on http://{where}/metrics")
        for state in off:
            _log(f"not seen: {state.sees} (hook {state.hook}: {state.reason})")
        notify(f"READY=1\nSTATUS={attached} hooks attached, {len(off)} off")

    # ---- loop -------------------------------------------------------------------------------

    def _loop(self) -> None:
        poller = select.poll()
        poller.register(self._probes.ring.fileno(), select.POLLIN)
        next_sample = next_housekeeping = clock.monotonic_s()
        while not self._stop:
            now = clock.monotonic_s()
            poller.poll(max(0.0, min(next_sample, next_housekeeping) - now) * 1000)
            changed = self._drain()
            notify("WATCHDOG=1")
            now = clock.monotonic_s()
            if now >= next_housekeeping:
                self._housekeeping()
                next_housekeeping = now + HOUSEKEEPING_S
            if changed or now >= next_sample:
                self._sample()
                next_sample = now + self._settings.sample_interval

    def _drain(self) -> bool:
        """Take what the ring buffer holds; True when a view should know at once."""
        changed = False
        for data in self._probes.ring.take():
            found = self._feed(RawRecord(data))
            if isinstance(found, ModuleLoaded):
                changed |= self._probes.attach_module(found.name)
            elif isinstance(found, Failure):
                changed = True
                _log(f"{words.headline(found)}: {found.reason}, holder {found.holder.holder}")
        return changed

    def _feed(self, item: Item) -> ModuleLoaded | Failure | None:
        if self._record is not None:
            line = recording.item_line(item)
            if line != self._last_line:  # most samples say what the one before said
                self._record.write(line)
            self._last_line = line
        return self._pipeline.feed(item)

    def _sample(self) -> None:
        """Read all counters; the kernel's own right after ours, so that they compare."""
        sample = self._probes.sample()
        now = procfs.vmstat(self._roots.proc)
        since = {
            name: now[name] - self._vmstat_at_attach[name]
            for name in sample.witnesses
            if name in now
        }
        self._feed(Counted(sample, since))
        self._pipeline.set_hooks(self._probes.states)
        self._snapshot: Snapshot = self._pipeline.snapshot()

    def _housekeeping(self) -> None:
        self._probes.retry_modules()
        for key in self._pipeline.tasks:
            if not procfs.is_alive(self._roots.proc, key):
                self._sample()  # what it counted since the last one
                self._pipeline.forget_task(key)
                self._probes.forget_task(key)

    def _close(self) -> None:
        notify("STOPPING=1")
        self._stop_serving()
        if self._record is not None:
            self._sample()
            self._record.close()
        self._probes.close()

    def _stop_serving(self) -> None:
        for server in (self._tcp, self._unix):
            if self._serving:
                server.shutdown()
            server.server_close()
        Path(self._settings.socket).unlink(missing_ok=True)


def _log(text: str) -> None:
    """A line for the journal; it adds the time."""
    print(f"pinwatch: {text}", file=sys.stderr, flush=True)
