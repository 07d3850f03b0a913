"""Processes that run VMs: what is found of them, when, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinwatch.attribute import Programs
from pinwatch.host import clock as real_clock
from pinwatch.host import netlink
from pinwatch.host.lives import LOOK_AGAIN_S, TRIES, Lives
from pinwatch.host.procfs import NS_PER_TICK
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import Device
from pinwatch.recording import DevicesFound, VmFound
from tests.unit.test_attribute import from_libvirt, scope
from tests.unit.test_devices import Host as DeviceHost
from tests.unit.test_vms import Host

TASK = TaskKey(4242, 100 * NS_PER_TICK)
QEMU = from_libvirt("web-01")
XML = "<domstatus state='running' pid='4242'><domain><name>web-01</name></domain></domstatus>"


class Silent:
    """A kernel that tells nothing."""

    states = ()
    filenos = ()
    tells_processes = False

    def close(self) -> None: ...


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(real_clock, "monotonic_s", lambda: made.now)
    monkeypatch.setattr(netlink, "Listener", Silent)
    return made


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "proc").mkdir()
    return Host(tmp_path)


def lives(host: Host) -> Lives:
    return Lives(root=host.root, proc=host.proc, sys=host.root / "sys", programs=Programs())


def test_one_that_starts_is_looked_at_only_if_it_runs_vms(host: Host, clock: Clock) -> None:
    host.process(QEMU, scope("web-01"))
    host.process(("/usr/bin/swtpm", "socket"), scope("web-01"), tgid=4243)
    assert lives(host).started(4242) == TASK
    assert lives(host).started(4243) is None
    assert lives(host).started(4244) is None


@pytest.mark.parametrize("program", ["qemu-system-x86_64", "qemu-system-x86_64 (deleted)"])
def test_one_that_calls_itself_otherwise_is_known_by_its_program(
    host: Host, clock: Clock, program: str
) -> None:
    host.process(("web-01", "-name", "web-01,process=web-01"), "")
    assert lives(host).started(4242) is None
    (host.proc / "4242/exe").symlink_to(f"/usr/bin/{program}")
    assert lives(host).started(4242) == TASK


@pytest.mark.parametrize(
    ("state", "threads", "alive"),
    [("Z", 1, False), ("X", 0, False), ("Z", 3, True), ("D", 1, True)],
)
def test_who_only_waits_for_its_parent_is_gone(
    host: Host, clock: Clock, state: str, threads: int, alive: bool
) -> None:
    host.write("proc/4242/stat", f"4242 (q) {state} {'0 ' * 16}{threads} 0 100 0\n")
    assert lives(host).is_alive(TASK) is alive


def test_what_libvirt_writes_late_is_found_later(host: Host, clock: Clock) -> None:
    host.process(QEMU, scope("web-01"))
    of = lives(host)
    (first,) = of.about(TASK)
    assert isinstance(first, VmFound)
    assert first.domain is None
    (none_yet,) = of.more()
    assert isinstance(none_yet, VmFound)
    host.write("run/libvirt/qemu/web-01.xml", XML)
    (later,) = of.more()
    assert isinstance(later, VmFound)
    assert later.domain is not None
    assert list(of.more()) == []


def test_what_is_never_written_is_not_looked_for_for_ever(host: Host, clock: Clock) -> None:
    host.process(QEMU, scope("web-01"))
    of = lives(host)
    list(of.about(TASK))
    assert [len(list(of.more())) for _ in range(TRIES + 1)] == [1] * TRIES + [0]


def test_devices_are_looked_for_again_after_a_while(host: Host, clock: Clock) -> None:
    tree = DeviceHost(host.root)
    host.process(("qemu-kvm", "-name", "web"), "")
    of = lives(host)
    assert [type(item) for item in of.about(TASK)] == [VmFound]
    (host.proc / "4242/fd").mkdir()
    (host.proc / "4242/fd/7").symlink_to("/dev/vfio/12")
    assert list(of.devices(TASK)) == [], "it was asked a moment ago"
    clock.now += LOOK_AGAIN_S
    nic = Device(address="0000:01:00.0", driver="mlx5_vfio_pci", iommu_group="12")
    assert list(of.devices(TASK)) == [DevicesFound(TASK, (nic,))]
    assert tree.sys == host.root / "sys"


def test_who_is_gone_has_the_devices_of_its_command_line(host: Host, clock: Clock) -> None:
    DeviceHost(host.root)
    cmdline = ("qemu-kvm", "-name", "web", "-device", "vfio-pci,host=01:00.0")
    found = [item for item in lives(host).about(TASK, cmdline) if isinstance(item, DevicesFound)]
    assert [device.address for item in found for device in item.devices] == ["0000:01:00.0"]
