"""Return probes that many threads may be in at once, by way of tracefs.

A thread in a function with a return probe takes one of its slots, and returns unseen when there is
none. perf_event_open(2) alone gives max(10, 2 x CPUs) of them (register_kretprobe); a host where
twenty VMs start at once needs more, and a kprobe event may ask for that.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path

from pinwatch.host import syscalls

# Each takes 16 bytes a slot and CPU (objpool, v6.7): 2 MiB a probe with 256 CPUs, whose own number
# of slots is that as well.
SLOTS = 512
_GROUP = "pinwatch"


class ReturnProbes:
    """Those of this process. `refused` says why there can be none, "" when there can."""

    def __init__(self, sysfs: Path) -> None:
        self._root = sysfs / "kernel/tracing"
        self._slots = max(SLOTS, 2 * (os.cpu_count() or 1))
        self._numbers = count()
        self._missed: dict[str, int] = {}
        self.refused = ""
        try:
            self._sweep()
        except OSError as error:
            self._refuse(error)

    def attach(self, program: int, symbol: str) -> int:
        """A descriptor; the probe ends with it. OSError where there can be none."""
        if self.refused:
            raise OSError(errno.EOPNOTSUPP, self.refused)
        name = f"{symbol}{self._mark}{next(self._numbers)}"
        try:
            self._define(f"r{self._slots}:{_GROUP}/{name} {symbol}")
            event = (self._root / "events" / _GROUP / name / "id").read_text()
            return syscalls.attach_event(program, int(event))
        except OSError as error:
            self._refuse(error)
            raise

    def missed(self) -> int:
        """How many threads found no slot, of all probes so far."""
        with suppress(OSError):  # tracefs was unmounted
            for line in (self._root / "kprobe_profile").read_text().splitlines():
                if self._mark in line:
                    name, _, missed = line.split()
                    self._missed[name] = int(missed)
        return sum(self._missed.values())

    def remove_unused(self) -> None:
        """Definitions outlive their probes."""
        with suppress(OSError):
            self._sweep()

    def _sweep(self) -> None:
        """Ours, and what a killed daemon has left behind."""
        self._define("")
        defined = (self._root / "kprobe_events").read_text()
        for name in re.findall(rf"^r\d*:{_GROUP}/(\S+)", defined, re.MULTILINE):
            with suppress(OSError):  # EBUSY: in use, by another daemon or `doctor`
                self._define(f"-:{_GROUP}/{name}")

    def _define(self, line: str) -> None:
        # not open("a"): that seeks to the end, which this file refuses
        fd = os.open(self._root / "kprobe_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(fd, f"{line}\n".encode())
        finally:
            os.close(fd)

    def _refuse(self, error: OSError) -> None:
        self.refused = f"{self._root}: {error.strerror}"

    @property
    def _mark(self) -> str:
        """In the names of ours."""
        return f"_{os.getpid()}_"
