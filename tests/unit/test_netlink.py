"""Messages as the kernel sends them, and what they are to us. That it sends them is the lab's."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from pyroute2.netlink.uevent import MarshalUevent

from pinwatch.host import netlink
from pinwatch.host.netlink import DriverChanged, Executed, Exited, ModuleAdded, News
from pinwatch.host.pyroute2_parts import cn_proc


def process_message(what: int, *rest: int) -> bytes:
    """struct proc_event in a cn_msg in a netlink message."""
    event = struct.pack("=IIQ", what, 0, 1).ljust(16) + struct.pack(f"={len(rest)}I", *rest)
    event = event.ljust(40, b"\0")
    connector = struct.pack("=IIIIHH", 1, 1, 7, 0, len(event), 0)
    return struct.pack("=IHHII", 36 + len(event), 3, 0, 7, 0) + connector + event


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (process_message(cn_proc.PROC_EVENT_EXEC, 42, 42), Executed(42)),
        (process_message(cn_proc.PROC_EVENT_EXIT, 42, 42, 256, 17), Exited(42)),
        (process_message(cn_proc.PROC_EVENT_FORK, 1, 1, 42, 42), None),
        (process_message(cn_proc.PROC_EVENT_NONE, 0), None),
        (process_message(0x12345678, 42, 42), None),
    ],
    ids=["exec", "exit", "fork", "answer", "unknown"],
)
def test_process_events(message: bytes, expected: News | None) -> None:
    (parsed,) = cn_proc.ProcEventMarshal().parse(message)
    assert netlink._process_event(parsed) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ("bind@/devices/pci0000:00/0000:00:03.0", "ACTION=bind", "SUBSYSTEM=pci",
             "DEVPATH=/devices/pci0000:00/0000:00:03.0", "DRIVER=vfio-pci"),
            DriverChanged("vfio-pci"),
        ),
        (("unbind@/devices/x", "ACTION=unbind", "SUBSYSTEM=pci"), DriverChanged("")),
        (
            ("add@/module/vfio_pci", "ACTION=add", "DEVPATH=/module/vfio_pci", "SUBSYSTEM=module"),
            ModuleAdded("vfio_pci"),
        ),
        (("add@/devices/virtual/net/veth0", "ACTION=add", "SUBSYSTEM=net"), None),
        (("change@/devices/x", "ACTION=change", "NAME=\udcff"), None),
        (("nonsense",), None),
    ],
)  # fmt: skip
def test_uevents(lines: tuple[str, ...], expected: News | None) -> None:
    data = b"".join(line.encode(errors="surrogateescape") + b"\0" for line in lines)
    (parsed,) = MarshalUevent().parse(data)
    assert netlink._uevent(parsed) == expected


def test_the_rest_of_pyroute2_stays_away() -> None:
    look = (
        "import sys, pinwatch.host.netlink; print(sum('pyroute2' in name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, check=True)
    assert int(done.stdout) < 60
