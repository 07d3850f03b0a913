"""Which VFIO devices a process has: what it has open says it, and else its command line.

Roots are arguments. Nothing here waits for the process: links of /proc/PID/fd are read under the
lock of its task, not of its memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pinwatch.model.vm import Device

_ADDRESS = re.compile(
    r"(?<![0-9a-f:.])(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?![0-9a-f:.])", re.I
)


def opened(procfs: Path, sysfs: Path, tgid: int) -> tuple[Device, ...]:
    """Devices of the VFIO groups, and character devices, that a process has open; none when it is
    gone. OSError when it may not be asked."""
    found: set[Path] = set()
    for target in _targets(procfs / str(tgid) / "fd"):
        found.update(_directories(sysfs, target.rpartition("/dev/vfio/")[2]))
    return _devices(found)


def named(sysfs: Path, cmdline: Iterable[str]) -> tuple[Device, ...]:
    """Devices whose PCI address an argument holds, in whatever syntax the VMM has."""
    addresses = (found for word in cmdline for found in _ADDRESS.findall(word))
    root = sysfs / "bus/pci/devices"
    return _devices({root / f"{domain or '0000'}:{rest}".lower() for domain, rest in addresses})


def _targets(directory: Path) -> Iterator[str]:
    try:
        entries = os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):
        return
    for entry in entries:
        try:
            target = os.readlink(directory / entry)
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed meanwhile
        if "/dev/vfio/" in target:  # a jail may stand before it
            yield target


def _directories(sysfs: Path, node: str) -> Iterable[Path]:
    """Those of the devices behind /dev/vfio/NODE: GROUP, noiommu-GROUP or devices/vfioN."""
    group = node.removeprefix("noiommu-")
    if group.isdecimal():
        return (sysfs / "kernel/iommu_groups" / group / "devices").glob("*")
    name = node.removeprefix("devices/")
    return ((sysfs / "class/vfio-dev" / name / "device").resolve(),) if name != node else ()


def _devices(directories: Iterable[Path]) -> tuple[Device, ...]:
    """Those that VFIO has: a group also holds bridges, and what pci-stub keeps from others."""
    every = map(_device, sorted(directories))
    return tuple(device for device in every if "vfio" in device.driver)


def _device(path: Path) -> Device:
    return Device(
        address=path.name,
        driver=_link(path / "driver"),
        iommu_group=_link(path / "iommu_group"),
    )


def _link(path: Path) -> str:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return ""
