"""All that a built kernel is built for, one after the other: `python -m tests.lab.inside.built`.

Sends a line for each source and way (tests/lab/inside/built_sources.py). Judged by
tests/lab/test_built.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from typing import Any

from tests.lab import channel
from tests.lab.inside.built_sources import SOURCES


def _run(name: str, way: str) -> dict[str, Any]:
    """In a process of its own: what it pinned and bound goes with it."""
    command = [sys.executable, "-m", "tests.lab.inside.built_sources", name, way]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} {way}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    for name in SOURCES:
        for way in ("ok", "fails"):
            try:
                result = _run(name, way)
            except Exception:
                result = {"broken": traceback.format_exc()[-3000:]}
            channel.send("scenario", name=f"{name} {way}", result=result)
    channel.send("stopped", code=0, memory={})
    return 0


if __name__ == "__main__":
    sys.exit(main())
