"""Run one case in a process group of its own: what hangs or crashes is evidence as well."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(module: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """The JSON line that `python -m MODULE ARGUMENTS` prints last, or `broken`: why none."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return {"broken": f"not done in {timeout_s:.0f} s; {_stacks(process.pid)}"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode or not out.strip():
        return {"broken": err[-2000:]}
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def _stacks(pid: int) -> str:
    """Where a process and its children are in the kernel."""
    with contextlib.suppress(OSError):
        process = Path(f"/proc/{pid}")
        command = (process / "cmdline").read_text().replace("\0", " ")
        children = (process / f"task/{pid}/children").read_text().split()
        below = "".join(_stacks(int(child)) for child in children)
        return f"{pid} {command}\n{(process / 'stack').read_text()}{below}"
    return "gone"
