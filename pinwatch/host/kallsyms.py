"""Names of kernel addresses, from /proc/kallsyms.

Read when a record has a stack to be named, and not kept: the file is some 10 MB.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def resolve(procfs: Path, addresses: Iterable[int]) -> dict[int, str]:
    """The function that each address lies in. Addresses stay unnamed where the kernel hides them
    (kptr_restrict), and numbers are shown instead."""
    wanted = sorted(addresses)
    starts = dict.fromkeys(wanted, 0)
    names: dict[int, str] = {}
    try:
        with (procfs / "kallsyms").open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                text, kind, name, *module = line.split()
                if kind not in "tTwW":
                    continue
                start = int(text, 16)
                for address in wanted:
                    if starts[address] < start <= address:
                        starts[address] = start
                        names[address] = " ".join((name, *module))
    except OSError:
        return {}
    return names
