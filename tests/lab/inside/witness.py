"""What the kernel's own functions returned, counted by the kernel: the evidence beside an errno.

Return probes through tracefs with histogram triggers, so that nothing is lost and nothing must be
read in time.  Independent of pinwatch, which must come to the same result by its own means.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TRACING = Path("/sys/kernel/tracing")
_IS_POINTER = "b1@63/64"  # the top bit: a histogram of pointers would soon be full
# The first name that the kernel has.
_PROBES: dict[str, tuple[str, tuple[str, ...]]] = {
    "longterm": ("s64", ("__gup_longterm_locked",)),
    "check_vma": ("s32", ("check_vma_flags",)),
    "isolate": ("u8", ("folio_isolate_lru",)),  # 6.1: 0 or -EBUSY, which is 240; later: a truth
    "destination": (_IS_POINTER, ("alloc_migration_target",)),
    "move": ("s32", ("move_to_new_folio",)),
    "move_hugetlb": ("s32", ("migrate_huge_page_move_mapping",)),
    "split": (
        "s32",
        ("__folio_split", "split_huge_page_to_list_to_order", "split_huge_page_to_list"),
    ),
    "release": ("u8", ("filemap_release_folio",)),
    "migrate": ("s32", ("migrate_pages",)),
    "account": ("s32", ("mm_lock_acct", "vfio_lock_acct")),
    "iommu_map": ("s32", ("iommu_map",)),
    "account_io_uring": ("s32", ("__io_account_mem",)),
}

Counts = dict[str, dict[str, int]]


@contextmanager
def probes(*, wanted: bool) -> Iterator[list[str]]:
    """All probes set, if they are wanted; the names of those that this kernel has."""
    if not wanted:
        yield []
        return
    if not (_TRACING / "kprobe_events").exists():
        subprocess.run(["mount", "-t", "tracefs", "none", str(_TRACING)], check=True)
    names = [name for name, (kind, symbols) in _PROBES.items() if _set(name, kind, symbols)]
    try:
        yield names
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                (_event(name) / "trigger").write_text("!hist:keys=common_pid,ret")
                _define(f"-:lab/{name}")


def _set(name: str, kind: str, symbols: tuple[str, ...]) -> bool:
    for symbol in symbols:
        with contextlib.suppress(OSError):
            _define(f"r:lab/{name} {symbol} ret=$retval:{kind}")
            (_event(name) / "trigger").write_text("hist:keys=common_pid,ret")
            return True
    return False


def _define(line: str) -> None:
    # Not open("a"): Python seeks to the end, which this file refuses.
    fd = os.open(_TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


def _event(name: str) -> Path:
    return _TRACING / "events/lab" / name


def counts(names: list[str], pid: int) -> Counts:
    """By probe and returned value, how often in this process."""
    return {name: found for name in names if (found := _read(name, pid))}


def _read(name: str, pid: int) -> dict[str, int]:
    found: Counter[str] = Counter()
    kind = _PROBES[name][0]
    lines = (_event(name) / "hist").read_text()
    for whose, value, hits in re.findall(
        r"common_pid: +(\d+), ret: +(\S+) .*hitcount: +(\d+)", lines
    ):
        if int(whose) == pid:
            found[_readable(value, kind)] += int(hits)
    return dict(found)


def _readable(value: str, kind: str) -> str:
    number = int(value, 0)
    if kind == _IS_POINTER:
        return "some" if number else "NULL"
    if number >> 63:  # histograms print keys without their sign
        number -= 1 << 64
    if kind == "s64" and number > 0:
        return "pages"
    return errno.errorcode.get(-number, str(number)) if number < 0 else str(number)
