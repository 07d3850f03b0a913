"""How a guest's run ended, from what it left behind.

Takes the channel's lines, the console's text and whether the time ran out.  Gives a frozen Outcome.
Never takes silence for success: only the guest's own `end` line makes a run finished.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.lab.errors import LabError

Event = Mapping[str, Any]

_TAIL_LINES = 25
_PANIC = "Kernel panic - not syncing"


class Status(StrEnum):
    FINISHED = "finished"
    TIMEOUT = "ran out of time"
    PANIC = "kernel panic"
    LOST = "vanished without its closing line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of a guest.  `code` is the command's exit status, and None unless it finished."""

    status: Status
    code: int | None
    events: tuple[Event, ...]
    directory: Path
    seconds: float

    @property
    def console(self) -> Path:
        return self.directory / "console.txt"

    @property
    def output(self) -> Path:
        return self.directory / "output.txt"

    @property
    def share(self) -> Path:
        """What the job left in $PINWATCH_LAB_OUT."""
        return self.directory / "share"

    @property
    def ok(self) -> bool:
        return self.status is Status.FINISHED and self.code == 0

    def named(self, event: str) -> list[Event]:
        return [line for line in self.events if line["event"] == event]

    def require(self) -> "Outcome":
        """Itself if the command ended with 0; LabError with the last words otherwise."""
        if self.ok:
            return self
        what = f"guest: {self.status}" if self.code is None else f"command ended with {self.code}"
        words = [
            f"{path}:\n{tail(read(path))}" for path in (self.output, self.console) if read(path)
        ]
        raise LabError(f"{what} after {self.seconds:.0f} s", hint="\n".join(words))


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def tail(text: str, lines: int = _TAIL_LINES) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-lines:])


def parse_line(line: str) -> Event:
    """One line of the channel.  What is no event stays visible as one called `garbled`."""
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("event"), str):
        return value
    return {"event": "garbled", "line": line}


def exit_status(events: Sequence[Event]) -> int | None:
    """The status in the `end` line, if the guest got that far."""
    for event in events:
        status = event.get("status")
        if event["event"] == "end" and isinstance(status, int):
            return status
    return None


def emulator_broke(status: Status, console: str) -> bool:
    """QEMU's parallel emulation ran into the kernel's own text patching: an int3 that no probe set,
    in a function that just was being changed. Real hardware, and one CPU, cannot."""
    return status is Status.PANIC and "Oops: int3" in console


def decide(events: Sequence[Event], console: str, *, timed_out: bool) -> tuple[Status, int | None]:
    """A panic outweighs all, even one while powering off: the kernel says that something broke."""
    code = exit_status(events)
    if _PANIC in console:
        return Status.PANIC, None
    if code is not None:
        return Status.FINISHED, code
    return (Status.TIMEOUT if timed_out else Status.LOST), None
