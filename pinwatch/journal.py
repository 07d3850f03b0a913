"""Lines for the log: to journald with fields, where standard error is the journal; else as text.

Not more of them than a reader can bear: what is held back is counted, and said.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pinwatch.expose.log import Line, Priority
from pinwatch.host import clock

Pin = TypeVar("Pin")

_STDERR = 2
SOCKET = Path("/run/systemd/journal/socket")
LINES_A_SECOND = 5  # about pins; a storm is counted, not spelled out


class Log:
    """Where lines go."""

    def __init__(self, socket_path: Path = SOCKET) -> None:
        self._path = str(socket_path)
        self._to_journal = is_journal()

    def say(self, line: Line) -> None:
        """Fields are told to journald only."""
        if self._to_journal and line.fields and self._send(line):
            return
        prefix = f"<{int(line.priority)}>" if self._to_journal else ""
        print(f"{prefix}pinwatch: {line.text}", file=sys.stderr, flush=True)

    def _send(self, line: Line) -> bool:
        own = {"MESSAGE": f"pinwatch: {line.text}", "PRIORITY": str(int(line.priority)),
               "SYSLOG_IDENTIFIER": "pinwatch"}  # fmt: skip
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(datagram(own | dict(line.fields)), self._path)
        except OSError:
            return False  # as text, then
        return True


def is_journal() -> bool:
    """Is standard error the journal? (systemd.exec(5), JOURNAL_STREAM)"""
    try:
        status = os.fstat(_STDERR)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def datagram(fields: Mapping[str, str]) -> bytes:
    """systemd's native journal protocol. Values have their length before them, so that a newline in
    one begins no field."""
    parts = []
    for name, value in fields.items():
        data = value.encode(errors="replace")
        parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
    return b"".join(parts)


class Pins:
    """Lines about pins, LINES_A_SECOND at most."""

    def __init__(self, log: Log, now_s: Callable[[], float] = clock.monotonic_s) -> None:
        self._log = log
        self._now_s = now_s
        self._second = 0
        self._said = 0
        self._unsaid = 0

    def say(self, line_of: Callable[[Pin], Line], pin: Pin) -> None:
        """It, or later how many were not said. A line that is not said is not made."""
        self.catch_up()
        if self._said < LINES_A_SECOND:
            self._said += 1
            self._log.say(line_of(pin))
        else:
            self._unsaid += 1

    def catch_up(self) -> None:
        """A new second: say how many of the last were held back."""
        second = int(self._now_s())
        if second == self._second:
            return
        if self._unsaid:
            text = f"{self._unsaid} more pins failed or were slow (see `pinwatch events`)"
            self._log.say(Line(text, Priority.WARNING))
        self._second, self._said, self._unsaid = second, 0, 0
