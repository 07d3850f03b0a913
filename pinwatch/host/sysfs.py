"""Read /sys: CMA areas, and block devices with requests in flight. The root is an argument."""

from __future__ import annotations

from pathlib import Path


def cma_areas(sysfs: Path) -> tuple[str, ...]:
    """Names of the CMA areas; none without CONFIG_CMA_SYSFS."""
    root = sysfs / "kernel/mm/cma"
    return tuple(sorted(entry.name for entry in root.iterdir())) if root.is_dir() else ()


def io_in_flight(sysfs: Path) -> tuple[str, ...]:
    """Block devices that have requests in flight now (Documentation/block/stat.rst)."""
    found = []
    for device in (sysfs / "block").glob("*"):
        try:
            busy = any(int(count) for count in (device / "inflight").read_text().split())
        except (OSError, ValueError):
            continue  # it went away
        if busy:
            found.append(device.name)
    return tuple(sorted(found))
