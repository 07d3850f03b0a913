"""VFIO devices of a process, from trees like /proc/PID/fd and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinwatch.host import devices
from pinwatch.model.vm import Device

NIC = Device(address="0000:01:00.0", driver="mlx5_vfio_pci", iommu_group="12")
GPU = Device(address="0001:0a:00.1", driver="vfio-pci", iommu_group="7")
MDEV = Device(address="83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", driver="vfio_mdev", iommu_group="9")


class Host:
    """A host with a NIC behind a bridge, a GPU that is a character device of its own, an mdev and a
    disk that no VM has."""

    def __init__(self, top: Path) -> None:
        self.proc, self.sys = top / "proc", top / "sys"
        self._add("devices/pci0000:00/0000:01:00.0", "mlx5_vfio_pci", "12")
        self._add("devices/pci0000:00/0000:00:1c.0", "pcieport", "12")
        self._add("devices/pci0001:00/0001:0a:00.1", "vfio-pci", "7")
        self._add("devices/pci0000:00/0000:02:00.0", "nvme", "3")
        self._add(f"devices/virtual/{MDEV.address}", "vfio_mdev", "9")
        gpu = self.sys / "devices/pci0001:00/0001:0a:00.1"
        self._link("class/vfio-dev/vfio3/device", gpu)

    def _add(self, path: str, driver: str, group: str) -> None:
        directory = self.sys / path
        directory.mkdir(parents=True)
        (directory / "driver").symlink_to(f"../../bus/pci/drivers/{driver}")
        (directory / "iommu_group").symlink_to(f"../../kernel/iommu_groups/{group}")
        for parent in ("bus/pci/devices", f"kernel/iommu_groups/{group}/devices"):
            self._link(f"{parent}/{directory.name}", directory)

    def _link(self, path: str, target: Path) -> None:
        (self.sys / path).parent.mkdir(parents=True, exist_ok=True)
        (self.sys / path).symlink_to(target)

    def opens(self, *targets: str) -> None:
        directory = self.proc / "42/fd"
        directory.mkdir(parents=True)
        for number, target in enumerate(targets):
            (directory / str(number)).symlink_to(target)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("/dev/vfio/vfio", "/dev/vfio/12", "anon_inode:[vfio-device]"), (NIC,)),
        (("/dev/vfio/noiommu-12",), (NIC,)),
        (("/srv/jailer/firecracker/web/root/dev/vfio/12",), (NIC,)),
        (("/dev/vfio/devices/vfio3", "/dev/iommu"), (GPU,)),
        (("/dev/vfio/12", "/dev/vfio/devices/vfio3", "/dev/vfio/9"), (NIC, GPU, MDEV)),
        (("/dev/vfio/99", "/dev/vfio/devices/vfio99", "/dev/vfio/", "/dev/null"), ()),
        ((), ()),
    ],
)
def test_what_is_open_says_which(
    host: Host, targets: tuple[str, ...], expected: tuple[Device, ...]
) -> None:
    host.opens(*targets)
    assert set(devices.opened(host.proc, host.sys, 42)) == set(expected)


def test_a_process_that_is_gone_has_none(host: Host) -> None:
    assert devices.opened(host.proc, host.sys, 42) == ()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("vfio-pci,host=01:00.0", (NIC,)),
        ("vfio-pci,host=0000:01:00.0,id=hostdev0", (NIC,)),
        ('{"driver":"vfio-pci","host":"0001:0A:00.1","id":"hostdev0"}', (GPU,)),
        ("vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:01:00.0", (NIC,)),
        ("path=/sys/bus/pci/devices/0001:0a:00.1/", (GPU,)),
        ("/sys/bus/pci/devices/0000:02:00.0", ()),  # not VFIO's
        ("01:00.1", ()),  # not there
        ("virtio-net-pci,mac=52:54:01:00.0", ()),
        ("10.01:00.0", ()),
    ],
)
def test_a_command_line_says_which(host: Host, word: str, expected: tuple[Device, ...]) -> None:
    assert devices.named(host.sys, ("qemu", "-device", word)) == expected
