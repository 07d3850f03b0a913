"""The terminal under `pinwatch top`: keys in, changed lines out, and all as before at the end."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType

from rich.console import Console
from rich.text import Text

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[?1049l"
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_KEYS = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\r": "enter",
    b"\n": "enter", b"\x1b": "escape", b"\x7f": "backspace", b"\x08": "backspace",
}  # fmt: skip


class Ended(Exception):
    """A signal wants the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def styled(line: Text, width: int) -> str:
    """With the codes for its styles; without colours where NO_COLOR is set."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=max(width, 1), highlight=False)
    console.print(line, end="", soft_wrap=True)
    return out.getvalue()


class Terminal:
    """The alternate screen of stdout, keys of stdin. Ended is raised in `keys` by a signal that
    ends; Ctrl-Z leaves the screen while it lasts."""

    def __init__(self) -> None:
        self._shown: list[Text] = []
        self._size = (0, 0)

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(sys.stdin)
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        self._ended = 0
        handled = (*_ENDS, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
        self._handlers = {number: signal.signal(number, self._signal) for number in handled}
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake)
        os.close(self._woken)

    def _enter(self) -> None:
        tty.setcbreak(sys.stdin)
        self._shown = []
        self._write(_ENTER)

    def _leave(self) -> None:
        try:
            self._write(_LEAVE)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
        except (OSError, termios.error):
            pass  # the terminal is gone

    def _signal(self, number: int, _frame: FrameType | None) -> None:
        if number in _ENDS:
            self._ended = number
        elif number == signal.SIGTSTP:
            self._leave()
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGCONT:
            self._enter()
        self.wake()

    def wake(self) -> None:
        """From another thread: `keys` returns."""
        with suppress(OSError):  # it is full, which wakes as well; or the screen is closed
            os.write(self._woken, b"x")

    def keys(self, timeout_s: float | None) -> list[str]:
        """Those that were pressed; none when woken."""
        ready, _, _ = select.select([sys.stdin, self._wake], [], [], timeout_s)
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._ended:
            raise Ended(self._ended)
        if sys.stdin not in ready:
            return []
        read = os.read(sys.stdin.fileno(), 1024)
        if not read:
            raise Ended(signal.SIGHUP)
        return split(read)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        size = os.get_terminal_size(sys.stdout.fileno())
        return size.columns, size.lines

    def show(self, lines: Sequence[Text]) -> None:
        """Only the lines that differ from what is there are sent."""
        out = ""
        if self.size != self._size or len(lines) != len(self._shown):
            self._size, self._shown, out = self.size, [], "\x1b[2J"
        for at, line in enumerate(lines):
            if at >= len(self._shown) or line != self._shown[at] or _spans(line, self._shown[at]):
                out += f"\x1b[{at + 1};1H{styled(line, self._size[0])}\x1b[K"
        self._shown = list(lines)
        if out:
            self._write(out)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _spans(one: Text, other: Text) -> bool:
    return one.spans != other.spans or one.style != other.style


def split(read: bytes) -> list[str]:
    """Bytes of a terminal as keys; sequences that mean nothing here are passed over."""
    keys = []
    while read:
        known = next((code for code in _KEYS if read.startswith(code) and code != b"\x1b"), None)
        known = read if read == b"\x1b" else known
        if known is not None:
            keys.append(_KEYS[known])
            read = read[len(known) :]
        elif read.startswith(b"\x1b"):
            break
        else:
            text = read.decode(errors="ignore")
            plain = text.split("\x1b")[0]
            take = next((n for n, c in enumerate(plain) if c in "\r\n\x7f\x08"), len(plain))
            keys += list(plain[:take])
            rest = read[len(plain[:take].encode()) :]
            read = rest if len(rest) < len(read) else b""
    return keys
