"""Reading what names a VM: from trees like /proc and /run/libvirt, past names that want out."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pinwatch import attribute
from pinwatch.attribute import Programs
from pinwatch.host import procfs, vms
from pinwatch.host.attempt import Attempt
from pinwatch.host.procfs import NS_PER_TICK
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import Basis, Evidence, Platform
from tests.unit.test_attribute import from_libvirt, scope
from tests.unit.test_attribute_parts import STATUS

TASK = TaskKey(4242, 100 * NS_PER_TICK)


class Host:
    """A host's file systems below a directory."""

    def __init__(self, top: Path) -> None:
        self.root, self.proc = top, top / "proc"

    def process(self, cmdline: tuple[str, ...], cgroup: str, *, tgid: int = 4242) -> None:
        files = {
            "cmdline": "\0".join(cmdline) + "\0",
            "comm": os.path.basename(cmdline[0])[:15] + "\n",
            "cgroup": cgroup,
            "stat": f"{tgid} (a) b) S {'0 ' * 18}100 0\n",
        }
        for name, text in files.items():
            self.write(f"proc/{tgid}/{name}", text)

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def finder(self) -> vms.Finder:
        return vms.Finder(self.proc, self.root, Programs())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "proc").mkdir()
    return Host(tmp_path)


def found(host: Host) -> list[Evidence]:
    """The evidence of every VMM that runs, as the daemon gathers it at its start."""
    finder = host.finder()
    tasks = procfs.vmms(host.proc, Programs())
    return [finder.evidence(task, finder.cmdline(task.tgid)) for task in tasks]


V2 = f"0::{scope('qemu-5-instance-0000002a', '/libvirt/emulator')}\n"
V1 = "".join(
    f"{number}:{controller}:{scope('qemu-5-instance-0000002a', child)}\n"
    for number, controller, child in (
        (3, "cpu,cpuacct", "/libvirt/emulator"),
        (2, "memory", ""),
        (1, "name=systemd", ""),
    )
)


@pytest.mark.parametrize("cgroup", [V2, V1], ids=["cgroups v2", "cgroups v1"])
@pytest.mark.parametrize("top", ["run", "etc"])
def test_a_nova_instance(host: Host, cgroup: str, top: str) -> None:
    uuid = "6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21"
    host.process(from_libvirt("instance-0000002a", "-uuid", uuid), cgroup)
    host.write(f"{top}/libvirt/qemu/instance-0000002a.xml", STATUS)
    (evidence,) = found(host)
    vm = attribute.resolve(evidence)
    assert vm is not None
    assert (vm.name, vm.alias, vm.project) == ("instance-0000002a", "web-01", "shop")
    assert (vm.platform, vm.basis) == (Platform.OPENSTACK, Basis.CMDLINE)


def test_cloud_hypervisor_below_libvirt(host: Host) -> None:
    host.process(
        ("/usr/bin/cloud-hypervisor", "--api-socket", "fd=23"), f"0::{scope('ch-1-web')}\n"
    )
    host.write("run/libvirt/ch/web.xml", STATUS)
    (evidence,) = found(host)
    vm = attribute.resolve(evidence)
    assert vm is not None
    assert (vm.name, vm.basis) == ("instance-0000002a", Basis.LIBVIRT_XML)


def test_only_vmms_are_found(host: Host) -> None:
    host.process(("/usr/bin/kvm", "-id", "100"), "0::/qemu.slice/100.scope\n", tgid=7)
    host.process(("/usr/bin/python3",), "0::/\n", tgid=8)
    host.write("proc/meminfo", "")
    assert [evidence.tgid for evidence in found(host)] == [7]


def test_a_program_of_the_operator_is_found(host: Host) -> None:
    host.process(("/opt/my-very-long-vmm",), "0::/\n", tgid=7)
    programs = Programs.of(["my-very-long-vmm"], "")
    assert [task.tgid for task in procfs.vmms(host.proc, programs)] == [7]


def test_the_cgroup_of_a_number_that_was_used_again_says_nothing(host: Host) -> None:
    host.process(from_libvirt("web"), V2)
    again = TaskKey(TASK.tgid, TASK.start_ns + NS_PER_TICK)
    assert host.finder().evidence(TASK, from_libvirt("web")).cgroup
    assert not host.finder().evidence(again, from_libvirt("web")).cgroup


def test_a_process_that_is_gone_may_still_have_its_file(host: Host) -> None:
    host.write("etc/libvirt/qemu/web.xml", STATUS)
    finder = host.finder()
    assert finder.evidence(TASK, from_libvirt("web")).domain is not None
    assert finder.errors == 0


def test_of_other_processes_nothing_is_read(host: Host) -> None:
    host.process(("/usr/bin/python3",), V2)
    assert host.finder().evidence(TASK, ("/usr/bin/python3",)).cgroup == ""


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "..", "x/../../secret", "a\0b", "x" * 300, "a/b", "\ud800"],
)
def test_a_name_does_not_lead_out(host: Host, name: str) -> None:
    host.write("run/libvirt/qemu/here.xml", STATUS)
    for path in ("run/libvirt/secret.xml", "run/libvirt/qemu/a/b.xml", "etc/passwd.xml"):
        host.write(path, STATUS)
    finder = host.finder()
    assert finder.evidence(TASK, from_libvirt(name)).domain is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(), max_size=400) | st.sampled_from([".", "..", ""]))
def test_no_name_reads_another_file(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "in"
    inside.mkdir(exist_ok=True)
    (tmp_path / "secret").write_text("secret")
    for attempt in (name, f"../{name}", f"{name}/../../secret", "../secret"):
        with pytest.raises((OSError, ValueError)):
            vms.read_inside(inside, attempt)


def test_links_pipes_directories_and_long_files_are_errors(host: Host, tmp_path: Path) -> None:
    host.write("secret.xml", STATUS)
    host.write("run/libvirt/qemu/long.xml", STATUS + " " * vms.MAX_BYTES)
    host.write("run/libvirt/qemu/other.xml", "<network/>")
    directory = tmp_path / "run/libvirt/qemu"
    (directory / "link.xml").symlink_to(tmp_path / "secret.xml")
    (directory / "folder.xml").mkdir()
    os.mkfifo(directory / "pipe.xml")
    finder = host.finder()
    for errors, name in enumerate(("link", "folder", "pipe", "long", "other"), start=1):
        assert finder.evidence(TASK, from_libvirt(name)).domain is None
        assert finder.errors == errors, name


def test_a_pipe_is_not_even_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.xml")
    with pytest.raises(ValueError, match="not a regular file"):
        vms.read_inside(tmp_path, "pipe.xml")


def test_a_file_that_is_not_there_is_no_error(host: Host) -> None:
    finder = host.finder()
    assert finder.evidence(TASK, from_libvirt("web")).domain is None
    assert finder.errors == 0


def test_a_command_line_that_does_not_come_is_waited_for_elsewhere(host: Host) -> None:
    """A pipe that nobody writes stands for the lock that a pin holds."""
    path = host.proc / "4242/cmdline"
    path.parent.mkdir()
    os.mkfifo(path)
    finder, others = host.finder(), set(threading.enumerate())
    for errors in range(1, vms.MAX_WAITING + 3):
        assert finder.cmdline(4242) == ()
        assert finder.errors == errors
        waiting = set(threading.enumerate()) - others
        assert len(waiting) == min(errors, vms.MAX_WAITING)
    with open(path, "wb"):
        pass  # the lock is free
    for thread in waiting:
        thread.join(10)
    path.unlink()
    path.write_bytes(b"kvm\0-name\0web\0")
    assert finder.cmdline(4242) == ("kvm", "-name", "web")


def test_without_a_thread_a_command_line_is_an_error(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the end of the daemon, and not of those that come later."""

    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    finder = host.finder()
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_thread)
        for _ in range(2 * vms.MAX_WAITING):
            assert finder.cmdline(4242) == ()
        with pytest.raises(OSError, match="can't start"):
            Attempt(lambda: 1)
    assert finder.errors == 2 * vms.MAX_WAITING
    finder.cmdline(4242)
    assert finder.errors == 2 * vms.MAX_WAITING
