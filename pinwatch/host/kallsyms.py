"""Names of kernel addresses, from /proc/kallsyms.

Read when a record has a stack to be named, and not kept: the file is some 10 MB.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

_DIGITS = 16
_KIND = _DIGITS + 1  # `ffffffff81000000 T _stext`, and `\t[module]` behind it
_NAME = _KIND + 2


def resolve(procfs: Path, addresses: Iterable[int]) -> dict[int, str]:
    """The function that each address lies in, an address itself where the kernel hides them
    (kptr_restrict)."""
    wanted = sorted(addresses)
    try:
        with (procfs / "kallsyms").open(encoding="ascii", errors="replace") as lines:
            found = _nearest([f"{address:0{_DIGITS}x}" for address in wanted], lines)
    except OSError:
        found = [""] * len(wanted)
    return {address: name or f"{address:#x}" for address, name in zip(wanted, found, strict=True)}


def _nearest(wanted: list[str], lines: Iterable[str]) -> list[str]:
    """The last function that starts at or before each. Addresses are compared as the text that they
    are, all of one length: there are 200 000 lines."""
    best = [("0" * _DIGITS, "")] * len(wanted)
    for line in lines:
        at = bisect_left(wanted, line[:_DIGITS])
        if at < len(wanted) and line[:_DIGITS] > best[at][0] and line[_KIND] in "tTwW":
            best[at] = (line[:_DIGITS], line[_NAME:])
    return [" ".join(name.split()) for _, name in accumulate(best, max)]


class Namer:
    """Names addresses in a thread of its own, so that records need not wait for their names."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._asked: set[int] = set()
        self._wanted: set[int] = set()
        self._named: SimpleQueue[dict[int, str]] = SimpleQueue()
        self._thread: Thread | None = None

    def ask(self, addresses: Iterable[int]) -> None:
        """Have what was never asked for named."""
        new = set(addresses) - self._asked
        self._asked |= new
        self._wanted |= new

    def take(self) -> dict[int, str]:
        """What was named since the last call. To be called again and again: it starts the work."""
        if self._wanted and (self._thread is None or not self._thread.is_alive()):
            thread = Thread(target=self._name, args=(self._wanted,), daemon=True)
            with suppress(RuntimeError):  # no thread is to be had: later, then
                thread.start()
                self._thread, self._wanted = thread, set()
        return {} if self._named.empty() else self._named.get()

    def _name(self, wanted: set[int]) -> None:
        self._named.put(resolve(self._procfs, wanted))
