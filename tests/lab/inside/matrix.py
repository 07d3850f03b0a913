"""Every induced cause under one running daemon: what happened, and what pinwatch said of it.

`python -m tests.lab.inside.matrix [NAME...]` sends a line for each row of tests/lab/matrix.py that
this kernel can have. It judges nothing.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.lab import channel
from tests.lab.inside import host, vfio
from tests.lab.inside.cause import running_kernel
from tests.lab.inside.causes import CAUSES, run_apart

Said = list[dict[str, Any]]
RECORDING = "/tmp/recording.jsonl"


@contextmanager
def watching_stuck() -> Iterator[Said]:
    """The pins that pinwatch calls stuck while the block runs."""
    seen: Said = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            seen.extend(host.pins("stuck"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def observe(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of a row, with the pins that failed, were slow or stuck meanwhile."""
    before = {kind: len(host.pins(kind)) for kind in ("failures", "slow")}
    with watching_stuck() as stuck:
        result = run()
    time.sleep(1)
    after = {kind: host.pins(kind) for kind in ("failures", "slow")}
    new = {kind: pins[: len(pins) - before[kind]] for kind, pins in after.items()}
    return {"result": result, **new, "stuck": stuck[-3:]}


def main(names: list[str]) -> int:
    kernel = running_kernel()
    daemon = host.Daemon("--record", RECORDING)
    channel.send("ready", seconds=daemon.ready_s, memory=daemon.memory(), log=daemon.log())
    vfio.load_modules()
    vfio.bind_edu()
    for cause in CAUSES.values():
        if kernel in cause.kernels and (not names or cause.name in names):
            seen = observe(partial(run_apart, cause.name))
            channel.send("row", kind="cause", name=cause.name, **seen)
    metrics = host.settled_metrics()
    memory = daemon.memory()
    code = daemon.stop()
    channel.send("stopped", code=code, memory=memory, metrics=metrics, log=daemon.log())
    shutil.copy(RECORDING, channel.out_dir() / "recording.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
