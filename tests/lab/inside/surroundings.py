"""What a cause puts around the pinning process, and takes away again: children, cgroups, pools."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.inside import syscalls

_CGROUPS = Path("/sys/fs/cgroup")
_PATIENCE_S = 15


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[int]:
    """A child that does `work` until the block ends; its pid.  Forked: it maps what we map."""
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.die_with_parent()
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def wait_until(ready: Callable[[], bool], what: str, *, patience_s: float = _PATIENCE_S) -> float:
    """How long it took; RuntimeError after that."""
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began > patience_s:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def cgroup(**limits: str) -> Iterator[Path]:
    """This process in a cgroup of its own; `cpuset_mems="1"` writes cpuset.mems."""
    if not (_CGROUPS / "cgroup.controllers").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", str(_CGROUPS)], check=True)
    group = _CGROUPS / f"cause-{os.getpid()}"
    settings = {name.replace("_", ".", 1): value for name, value in limits.items()}
    for controller in {name.partition(".")[0] for name in settings}:
        (_CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}")
    group.mkdir()
    try:
        for name, value in settings.items():
            (group / name).write_text(value)
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield group
    finally:
        (_CGROUPS / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def memory_events(group: Path) -> dict[str, int]:
    """How often the cgroup was at its limit, and whether anybody was killed for it."""
    lines = (group / "memory.events").read_text().splitlines()
    counts = {name: int(value) for name, value in map(str.split, lines)}
    return {name: counts[name] for name in ("oom", "oom_kill")}


@contextmanager
def setting(path: str | Path, value: str) -> Iterator[None]:
    """A file of /proc or /sys with another value until the block ends; of a file that lists its
    values, the one in brackets holds."""
    file = Path(path)
    text = file.read_text().strip()
    before = text.partition("[")[2].partition("]")[0] or text
    file.write_text(value)
    try:
        yield
    finally:
        file.write_text(before)


@contextmanager
def hugepages(node: int, count: int) -> Iterator[None]:
    """2 MiB pages in one node's pool.  They are movable, so they come from ZONE_MOVABLE first."""
    pool = Path(f"/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages")
    with setting(pool, str(count)):
        got = int(pool.read_text())
        if got != count:
            raise RuntimeError(f"only {got} of {count} huge pages on node {node}")
        yield
