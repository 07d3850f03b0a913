"""All that a built kernel is built for, one after the other: `python -m tests.lab.inside.built`.

Sends two lines for each source and way (tests/lab/inside/built_sources.py): what the kernel did,
and a row of the matrix, with what pinwatch said. Judged by tests/lab/test_built.py.
"""

from __future__ import annotations

import sys
from functools import partial

from tests.lab import channel
from tests.lab.inside import apart, built_sources, host
from tests.lab.inside.matrix import observe

_TIMEOUT_S = 120


def main() -> int:
    daemon = host.Daemon()
    channel.send("ready", seconds=daemon.ready_s, log=daemon.log())
    metrics = host.settled_metrics()
    for name in built_sources.SOURCES:
        for way in ("ok", "fails"):
            run = partial(apart.run, built_sources.__name__, name, way, timeout_s=_TIMEOUT_S)
            row, metrics = observe(run, metrics)
            channel.send("scenario", name=f"{name} {way}", result=row["result"])
            channel.send("row", kind="source", name=f"{name}-{way}", **row)
    code = daemon.stop()
    channel.send("stopped", code=code, memory={}, log=daemon.log())
    return 0


if __name__ == "__main__":
    sys.exit(main())
