"""Who records what enters the pipeline of a running daemon: a queue of lines for each.

The daemon's thread puts lines in and never waits; a thread of the server takes them out.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator

from pinwatch.host import clock

MAX_BYTES = 32 << 20  # that a reader may be behind


class Tap:
    """One recording that is being made."""

    def __init__(self, seconds: float) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._put = self._taken = 0  # bytes; each is changed by one thread only
        self.until_s = clock.monotonic_s() + seconds
        self.ended = False

    def put(self, line: str) -> bool:
        """False: the reader is too far behind, and this line is lost to it."""
        if self._put - self._taken > MAX_BYTES:
            return False
        self._put += len(line)
        self._lines.put(line)
        return True

    def end(self) -> None:
        self.ended = True
        self._lines.put(None)

    def lines(self) -> Iterator[bytes]:
        """For the server's thread: until the end, or until it finds that the reader has gone."""
        try:
            while (line := self._lines.get()) is not None:
                self._taken += len(line)
                yield line.encode()
        finally:
            self.ended = True


class Taps:
    """All that are open."""

    def __init__(self) -> None:
        self._new: queue.SimpleQueue[Tap] = queue.SimpleQueue()
        self._begun: list[Tap] = []
        self.lost = 0  # lines, since the start

    def open(self, seconds: float) -> Iterator[bytes]:
        """For the server's thread. It begins with the next snapshot."""
        tap = Tap(seconds)
        self._new.put(tap)
        return tap.lines()

    def write(self, line: Callable[[], str]) -> None:
        """To everyone who records; `line` is asked once, and only if somebody does."""
        if self._begun:
            text = line()
            self.lost += sum(not tap.put(text) for tap in self._begun)

    def published(self, beginning: Callable[[], Iterable[str]]) -> None:
        """A snapshot was taken: who is new begins with this, whose time is up ends."""
        new = [self._new.get() for _ in range(self._new.qsize())]
        for line in beginning() if new else ():
            self.lost += sum(not tap.put(line) for tap in new)
        now = clock.monotonic_s()
        self._begun += new
        for tap in self._begun:
            if now >= tap.until_s and not tap.ended:
                tap.end()
        self._begun = [tap for tap in self._begun if not tap.ended]

    def close(self) -> None:
        for tap in (*self._begun, *(self._new.get() for _ in range(self._new.qsize()))):
            tap.end()
