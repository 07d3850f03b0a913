"""`make demo`: boot a guest, make a VM's map fail, and show what pinwatch saw, as it happens."""

from __future__ import annotations

import argparse
import sys
import threading
import time

from tests.lab import guest, kernels
from tests.lab.errors import LabError
from tests.lab.layouts import LAYOUTS
from tests.lab.outcome import Event, Status

DEFAULT = "6.12"
HEARTBEAT_S = 10


class Screen:
    """Lines with the seconds since the start, and a sign of life when nothing is said for long."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        with self._lock:
            self._last = time.monotonic()
            print(f"[{self._last - self._started:4.0f} s] {text}".rstrip(), flush=True)

    def event(self, event: Event) -> None:
        if event.get("event") == "start":
            self.line(f"The guest runs Linux {event['release']}.")
        elif event.get("event") == "say":
            self.line(str(event["text"]))

    def heartbeat(self, done: threading.Event) -> None:
        while not done.wait(1):
            if time.monotonic() - self._last > HEARTBEAT_S:
                self.line("... still at it (software emulation is slow)")


def run(series: str) -> int:
    screen, done = Screen(), threading.Event()
    kernel = kernels.fetch(kernels.series(series))
    screen.line(f"Booting a guest with Linux {kernel.release}; that takes half a minute.")
    threading.Thread(target=screen.heartbeat, args=(done,), daemon=True).start()
    try:
        outcome = guest.boot(
            kernel,
            LAYOUTS["plain"],
            [sys.executable, "-m", "tests.lab.inside.demo"],
            timeout_s=600,
            environment={"COLUMNS": "92"},
            on_event=screen.event,
        )
    finally:
        done.set()
    if outcome.status is Status.FINISHED and outcome.code == 0:
        screen.line("Done. `make lab-shell` opens such a guest for you; README.md says what next.")
        return 0
    print(f"demo: {outcome}", file=sys.stderr)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.demo", description=__doc__)
    parser.add_argument("--kernel", default=DEFAULT, help=f"6.1, 6.12 or 7.2 (default {DEFAULT})")
    try:
        return run(parser.parse_args().kernel)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
