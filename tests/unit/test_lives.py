"""Processes that run VMs: what is found of them, when, and how often."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pinwatch.attribute import Programs
from pinwatch.host import clock as real_clock
from pinwatch.host import lives as module
from pinwatch.host.lives import LOOK_AGAIN_S, TRIES, Lives
from pinwatch.host.netlink import Executed, Exited, News, Overrun
from pinwatch.host.procfs import NS_PER_TICK
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import Device
from pinwatch.recording import DevicesFound, Item, Rescanned, TaskEnded, VmFound
from tests.unit.test_attribute import from_libvirt, scope
from tests.unit.test_devices import Host as DeviceHost
from tests.unit.test_vms import Host

TASK = TaskKey(4242, 100 * NS_PER_TICK)
QEMU = from_libvirt("web-01")
XML = "<domstatus state='running' pid='4242'><domain><name>web-01</name></domain></domstatus>"


class Kernel:
    """What it tells is put here by the test."""

    states = ()
    filenos = ()

    def __init__(self, *news: News, tells_processes: bool = True) -> None:
        self.news = list(news)
        self.tells_processes = tells_processes

    def take(self) -> list[News]:
        news, self.news = self.news, []
        return news

    def close(self) -> None: ...


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(real_clock, "monotonic_s", lambda: made.now)
    return made


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "proc").mkdir()
    return Host(tmp_path)


def lives(host: Host, kernel: Kernel | None = None) -> Lives:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "Listener", lambda: kernel or Kernel())
        return Lives(
            root=host.root,
            proc=host.proc,
            sys=host.root / "sys",
            programs=Programs(),
            on_module=lambda: None,
        )


def found(items: Iterable[Item]) -> list[TaskKey]:
    return [item.task for item in items if isinstance(item, VmFound)]


def test_one_that_starts_is_looked_at_only_if_it_runs_vms(host: Host, clock: Clock) -> None:
    host.process(QEMU, scope("web-01"))
    host.process(("/usr/bin/swtpm", "socket"), scope("web-01"), tgid=4243)
    news = Executed(4242), Executed(4243), Executed(4244)
    assert found(lives(host, Kernel(*news)).hear()) == [TASK]


@pytest.mark.parametrize("program", ["qemu-system-x86_64", "qemu-system-x86_64 (deleted)"])
def test_one_that_calls_itself_otherwise_is_known_by_its_program(
    host: Host, clock: Clock, program: str
) -> None:
    host.process(("web-01", "-name", "web-01,process=web-01"), "")
    assert found(lives(host).running()) == []
    (host.proc / "4242/exe").symlink_to(f"/usr/bin/{program}")
    assert found(lives(host).running()) == [TASK]


@pytest.mark.parametrize(
    ("state", "threads", "alive"),
    [("Z", 1, False), ("X", 0, False), ("Z", 3, True), ("D", 1, True)],
)
def test_who_only_waits_for_its_parent_is_gone(
    host: Host, clock: Clock, state: str, threads: int, alive: bool
) -> None:
    host.write("proc/4242/stat", f"4242 (q) {state} {'0 ' * 16}{threads} 0 100 0\n")
    of = lives(host, Kernel(Exited(4242)))
    list(of.hear())
    assert of.gone([TASK]) == ([] if alive else [TASK])
    (host.proc / "4242/stat").unlink()
    assert of.gone([TASK]) == ([TASK] if alive else []), "it is asked once, or again"


@pytest.mark.parametrize("told", [True, False])
def test_who_is_gone_is_asked_for_only_where_nobody_tells(
    host: Host, clock: Clock, told: bool
) -> None:
    of = lives(host, Kernel(tells_processes=told))
    list(of.more({}))
    assert of.gone([TASK]) == ([] if told else [TASK])


def test_when_not_all_was_told_all_are_looked_up(host: Host, clock: Clock) -> None:
    host.process(QEMU, scope("web-01"))
    of = lives(host, Kernel(Overrun()))
    rescanned, *rest = of.hear()
    assert rescanned == Rescanned()
    assert found(rest) == [TASK]
    other = TaskKey(1, 1)
    assert of.gone([TASK, other]) == [other]
    assert of.gone([TASK, other]) == []


def test_a_pid_that_is_used_again_is_another_process(host: Host, clock: Clock) -> None:
    host.process(QEMU, scope("web-01"))
    of = lives(host, Kernel(Exited(4242)))
    list(of.hear())
    before = TaskKey(4242, 99 * NS_PER_TICK)
    assert of.gone([before, TASK]) == [before]


@pytest.mark.parametrize("news", [Exited(4242), Overrun()])
def test_who_ended_frees_its_name_before_the_next_one_starts(
    host: Host, clock: Clock, news: News
) -> None:
    host.process(QEMU, scope("web-01"))
    host.process(QEMU, scope("web-02"), tgid=4243)
    kernel = Kernel()
    of = lives(host, kernel)
    list(of.running())
    host.process(QEMU, scope("web-01"), tgid=4244)
    kernel.news = [Executed(4244)]
    assert not any(isinstance(item, TaskEnded) for item in of.hear()), "all are alive"
    (host.proc / "4242/stat").unlink()
    host.process(QEMU, scope("web-01"), tgid=4245)
    kernel.news = [news, Executed(4245)]
    told = list(of.hear())
    assert [item for item in told if isinstance(item, TaskEnded)] == [TaskEnded(TASK)]
    assert told.index(TaskEnded(TASK)) < min(
        told.index(item) for item in told if isinstance(item, VmFound) and item.task.tgid == 4245
    )
    assert TASK in of.gone([TASK]), "it is still to be parted with"


def test_what_libvirt_writes_late_is_found_later(host: Host, clock: Clock) -> None:
    host.process(QEMU, scope("web-01"))
    of = lives(host)
    (first,) = of.about(TASK)
    assert isinstance(first, VmFound)
    assert first.domain is None
    (none_yet,) = of.more({})
    assert isinstance(none_yet, VmFound)
    host.write("run/libvirt/qemu/web-01.xml", XML)
    (later,) = of.more({})
    assert isinstance(later, VmFound)
    assert later.domain is not None
    assert list(of.more({})) == []


def test_what_is_never_written_is_not_looked_for_for_ever(host: Host, clock: Clock) -> None:
    host.process(QEMU, scope("web-01"))
    of = lives(host)
    list(of.about(TASK))
    assert [len(list(of.more({}))) for _ in range(TRIES + 1)] == [1] * TRIES + [0]


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
    assert list(of.more({TASK: 1})) == [DevicesFound(TASK, (nic,))]
    clock.now += LOOK_AGAIN_S
    assert list(of.more({TASK: 1})) == [], "it has pinned nothing since"
    assert list(of.more({TASK: 2})) == [DevicesFound(TASK, (nic,))]
    assert tree.sys == host.root / "sys"


def test_who_is_gone_has_the_devices_of_its_command_line(host: Host, clock: Clock) -> None:
    DeviceHost(host.root)
    cmdline = ("qemu-kvm", "-name", "web", "-device", "vfio-pci,host=01:00.0")
    found = [item for item in lives(host).about(TASK, cmdline) if isinstance(item, DevicesFound)]
    assert [device.address for item in found for device in item.devices] == ["0000:01:00.0"]
