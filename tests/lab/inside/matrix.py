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
from tests.lab.inside import apart, causes, holders, host, sources, vfio
from tests.lab.inside.cause import running_kernel

Said = list[dict[str, Any]]
KINDS = ("failures", "slow")
MOST = 50  # pins of a row
RECORDING = "/tmp/recording.jsonl.gz"


@contextmanager
def watching_stuck() -> Iterator[Said]:
    """The pins that pinwatch calls stuck while the block runs."""
    seen: Said = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            seen.extend(host.pins("stuck", limit=0))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def observe(
    run: Callable[[], dict[str, Any]], metrics: host.Series
) -> tuple[dict[str, Any], host.Series]:
    """The result of a row, with the pins that failed, were slow or stuck meanwhile, and how the
    metrics changed; and the metrics after it."""
    newest = [pin["number"] for kind in KINDS for pin in host.pins(kind, limit=1)]
    before = max(newest, default=0)
    with watching_stuck() as stuck:
        result = run()
    after_metrics = host.settled_metrics()
    new = {
        kind: [pin for pin in host.pins(kind, limit=MOST) if pin["number"] > before]
        for kind in KINDS
    }
    change = host.difference(after_metrics, metrics)
    return {"result": result, **new, "stuck": stuck[-3:], "metrics": change}, after_metrics


def rows(kernel: str) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """What this kernel can have: kind, name, and how to make it happen."""
    for cause in causes.CAUSES.values():
        if kernel in cause.kernels:
            yield "cause", cause.name, _apart(causes, cause.name)
    for source in sources.SOURCES.values():
        if kernel in source.kernels:
            for case in source.cases:
                yield "source", f"{source.name}-{case}", _apart(sources, source.name, case)
    for name, holder in holders.HOLDERS.items():
        if kernel in holder.kernels:
            yield "holder", name, _apart(holders, name)


def _apart(module: Any, *arguments: str) -> Callable[[], dict[str, Any]]:
    return partial(apart.run, module.__name__, *arguments, timeout_s=module.TIMEOUT_S)


def main(names: list[str]) -> int:
    daemon = host.Daemon("--record", RECORDING)
    channel.send("ready", seconds=daemon.ready_s, memory=daemon.memory(), log=daemon.log())
    vfio.load_modules()
    vfio.bind_edu()
    for source in sources.SOURCES.values():
        if running_kernel() in source.kernels:
            source.prepare()
    time.sleep(1)  # the daemon attaches what was just loaded
    metrics = host.settled_metrics()
    for kind, name, run in rows(running_kernel()):
        if not names or name in names:
            seen, metrics = observe(run, metrics)
            channel.send("row", kind=kind, name=name, **seen)
    hooks = {name: n for name, n in host.metrics().items() if "hook_attached" in name}
    metrics = host.settled_metrics()
    memory = daemon.memory()
    code = daemon.stop()
    channel.send(
        "stopped", code=code, memory=memory, metrics=metrics, hooks=hooks, log=daemon.log()
    )
    shutil.copy(RECORDING, channel.out_dir() / "recording.jsonl.gz")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
