"""Where a cgroup is below /sys/fs/cgroup, also for a daemon in a container. Roots are arguments.

In a cgroup namespace of its own a reader is shown paths that begin where it is
(cgroup_namespaces(7)): `/../../kubepods-pod1.slice/...`, without what lies above both. What that is
cannot be asked; but how many levels it has says the path of the host's first process, which is at
the top or right below it.
"""

from __future__ import annotations

from glob import escape
from itertools import islice, takewhile
from pathlib import Path

from pinwatch.attribute import cgroups
from pinwatch.host import procfs

_INIT = 1


def directory(proc: Path, sysfs: Path, path: str) -> Path | None:
    """Of a cgroup as /proc/PID/cgroup shows it; None where that cannot be told, or not seen."""
    top = sysfs / "fs/cgroup"
    up = _levels_up(path)
    below = path.strip("/").split("/")[up:]
    if ".." in below:
        return None
    if not up:
        return top.joinpath(*below)
    hidden = _levels_up(cgroups.path_of(procfs.cgroup(proc, _INIT))) - up
    if hidden < 0 or not below:
        return None
    pattern = "/".join([*("*" for _ in range(hidden)), *map(escape, below)])
    found = list(islice(top.glob(pattern), 2))
    return found[0] if len(found) == 1 else None


def _levels_up(path: str) -> int:
    return len(list(takewhile("..".__eq__, path.strip("/").split("/"))))
