"""The name of a VM on each platform: one row a platform and trap.

Command lines, cgroups and files have the shapes that the platforms' own documents, sources and
public listings of processes show; hosts, users and numbers are made up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinwatch import attribute
from pinwatch.attribute import Programs
from pinwatch.attribute.names import MAX_NAME, printable, vm_name
from pinwatch.attribute.resolvers import RESOLVERS
from pinwatch.model.vm import Basis, Evidence, LibvirtDomain, Platform, Vm

QEMU = "/usr/bin/qemu-system-x86_64"
UUID = "6f3a1c52-0d4e-4c1b-9a57-1f0e6f0a9b21"
POD = "0b1c2d3e-4f50-4a61-8b72-9c83ad94be05"
SANDBOX = "41cb92475d2d2b8b93befe133d6df302c08482e3f4bd1eae219b46e580b673e9"
POD_SLICE = (
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD.replace('-', '_')}.slice"
)


def scope(machine: str, child: str = "") -> str:
    """libvirt's scope, as systemd escapes its name."""
    return f"/machine.slice/machine-{machine.replace('-', chr(92) + 'x2d')}.scope{child}"


def from_libvirt(name: str, *more: str, lib: str = "/var/lib/libvirt/qemu") -> tuple[str, ...]:
    """The words with which libvirt's QEMU begins."""
    file = f"{lib}/domain-1-{name[:20]}/master-key.aes"
    key = f'{{"qom-type":"secret","id":"masterKey0","file":"{file}"}}'
    return (QEMU, "-name", f"guest={name},debug-threads=on", "-S", "-object", key, *more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A process, and what its VM must be called."""

    what: str
    vm: Vm | None
    cmdline: tuple[str, ...] = ()
    cgroup: str = ""
    domain: LibvirtDomain | None = None

    @property
    def evidence(self) -> Evidence:
        return Evidence(tgid=4242, cmdline=self.cmdline, cgroup=self.cgroup, domain=self.domain)


def vm(name: str, platform: Platform, basis: Basis = Basis.CMDLINE, **more: Any) -> Vm:
    return Vm(name=name, platform=platform, basis=basis, **more)


DOMAIN = LibvirtDomain(name="web_01", uuid=UUID, tgid=4242)
NOVA = LibvirtDomain(
    name="instance-0000002a", uuid=UUID, tgid=4242, title="web-01", project="shop", is_nova=True
)
NOVA_VM = vm(
    "instance-0000002a", Platform.OPENSTACK, uuid=UUID, vmm="qemu-system-x86_64",
    alias="web-01", project="shop",
)  # fmt: skip
ROWS = (
    # ---- QEMU by hand -----------------------------------------------------------------------
    Row(
        what="name and uuid",
        cmdline=(QEMU, "-name", "web-01,process=x", "-uuid", UUID),
        vm=vm("web-01", Platform.QEMU, uuid=UUID, vmm="qemu-system-x86_64"),
    ),
    Row(
        what="doubled commas",
        cmdline=("kvm", "-name", "guest=a,,b=c,,,debug-threads=on"),
        vm=vm("a,b=c,", Platform.QEMU, vmm="kvm"),
    ),
    Row(
        what="only a uuid",
        cmdline=("/usr/libexec/qemu-kvm", "-name", "guest=", "--uuid", UUID),
        vm=vm(UUID, Platform.QEMU, uuid=UUID, vmm="qemu-kvm"),
    ),
    Row(what="neither", cmdline=(QEMU, "-m", "1G"), vm=None),
    Row(
        what="a probe without a name",
        cmdline=(QEMU, "-S", "-no-user-config", "-nodefaults", "-machine", "none,accel=kvm:tcg"),
        vm=None,
    ),
    Row(
        what="a probe with a name",
        cmdline=(QEMU, "-name", "x", "-M", "type=none"),
        cgroup=scope("qemu-3-web"),
        vm=None,
    ),
    Row(what="no VMM", cmdline=("/usr/bin/python3", "-name", "guest=web-01"), vm=None),
    Row(what="a tool of QEMU's", cmdline=("qemu-img", "-name", "x"), vm=None),
    Row(what="an option without its value", cmdline=(QEMU, "-name"), vm=None),
    Row(what="nothing", vm=None),
    # ---- libvirt ----------------------------------------------------------------------------
    Row(
        what="what a cgroup cannot spell, in a vCPU's cgroup",
        cmdline=from_libvirt("web_01", "-uuid", UUID),
        cgroup=scope("qemu-3-web01", "/libvirt/vcpu0"),
        domain=DOMAIN,
        vm=vm("web_01", Platform.LIBVIRT, uuid=UUID, vmm="qemu-system-x86_64"),
    ),
    Row(
        what="the process is gone, and its cgroup and file",
        cmdline=from_libvirt("web_01"),
        vm=vm("web_01", Platform.LIBVIRT, vmm="qemu-system-x86_64"),
    ),
    Row(
        what="the command line is lost",
        cgroup=scope("qemu-3-web01"),
        domain=DOMAIN,
        vm=vm("web_01", Platform.LIBVIRT, Basis.LIBVIRT_XML, uuid=UUID),
    ),
    Row(
        what="the command line is lost, and the file is of a VM with a name as the scope's",
        cgroup=scope("qemu-3-web01"),
        domain=replace(DOMAIN, name="web01", tgid=77),
        vm=vm("web01", Platform.LIBVIRT, Basis.CGROUP),
    ),
    Row(
        what="a name that looks like a number and a name",
        cgroup=scope("qemu-3-web-4-x", "/libvirt/emulator"),
        vm=vm("web-4-x", Platform.LIBVIRT, Basis.CGROUP),
    ),
    Row(
        what="without systemd, cgroups v1",
        cgroup="/machine/qemu-3-web.libvirt-qemu/emulator",
        vm=vm("web", Platform.LIBVIRT, Basis.CGROUP),
    ),
    Row(
        what="an embedded driver",
        cgroup=scope("qemu-embed-1a2b3c4d-1-web"),
        vm=vm("web", Platform.LIBVIRT, Basis.CGROUP),
    ),
    Row(
        what="a helper in the VM's cgroup",
        cmdline=("/usr/bin/swtpm", "socket"),
        cgroup=scope("qemu-3-web", "/libvirt/emulator"),
        domain=DOMAIN,
        vm=None,
    ),
    Row(
        what="a session, by its directory",
        cmdline=from_libvirt("web", lib="/home/ann/.config/libvirt/qemu/lib"),
        cgroup="/user.slice/user-1000.slice/session-2.scope",
        vm=vm("web", Platform.LIBVIRT_SESSION, vmm="qemu-system-x86_64"),
    ),
    Row(
        what="a session, by its scope",
        cgroup=scope("qemu-ann-1-web"),
        vm=vm("web", Platform.LIBVIRT_SESSION, Basis.CGROUP),
    ),
    # ---- OpenStack --------------------------------------------------------------------------
    Row(
        what="the display name is in the metadata",
        cmdline=from_libvirt("instance-0000002a", "-uuid", UUID),
        cgroup=scope("qemu-5-instance-0000002a"),
        domain=NOVA,
        vm=NOVA_VM,
    ),
    Row(
        what="only the definition is left, of the same uuid",
        cmdline=from_libvirt("instance-0000002a", "-uuid", UUID),
        domain=replace(NOVA, tgid=0),
        vm=NOVA_VM,
    ),
    Row(
        what="a file of another domain",
        cmdline=from_libvirt("instance-0000002a"),
        domain=replace(NOVA, tgid=0),
        vm=vm("instance-0000002a", Platform.OPENSTACK, vmm="qemu-system-x86_64"),
    ),
    Row(
        what="another instance_name_template",
        cmdline=from_libvirt(
            "vm-7", "-smbios", "type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova"
        ),
        vm=vm("vm-7", Platform.OPENSTACK, vmm="qemu-system-x86_64"),
    ),
    # ---- Proxmox ----------------------------------------------------------------------------
    Row(
        what="a number and a name",
        cmdline=(
            "/usr/bin/kvm", "-id", "100", "-name", "web,debug-threads=on", "-no-shutdown",
            "-smbios", f"type=1,uuid={UUID}",
        ),
        cgroup="/qemu.slice/100.scope",
        vm=vm("web", Platform.PROXMOX, uuid=UUID, vmm="kvm", alias="100"),
    ),
    Row(
        what="only the cgroup",
        cgroup="/qemu.slice/100.scope",
        vm=vm("100", Platform.PROXMOX, Basis.CGROUP, alias="100"),
    ),
    # ---- KubeVirt ---------------------------------------------------------------------------
    Row(
        what="namespace and VMI",
        cmdline=from_libvirt(
            "shop_web-01", "-uuid", UUID, lib="/var/run/kubevirt-private/libvirt/qemu/lib"
        ),
        cgroup=f"{POD_SLICE}/cri-containerd-{SANDBOX}.scope/container",
        vm=vm(
            "shop_web-01", Platform.KUBEVIRT, uuid=UUID, vmm="qemu-system-x86_64",
            alias="web-01", project="shop", pod=POD,
        ),
    ),
    Row(
        what="read in a container, which is shown half of the path",
        cmdline=from_libvirt("shop_web-01", "-uuid", UUID),
        cgroup=f"/../../../{POD_SLICE.rpartition('/')[2]}/cri-containerd-{SANDBOX}.scope",
        vm=vm(
            "shop_web-01", Platform.KUBEVIRT, uuid=UUID, vmm="qemu-system-x86_64",
            alias="web-01", project="shop", pod=POD,
        ),
    ),
    Row(
        what="the same with the names of cgroupfs",
        cmdline=from_libvirt("shop_web-01"),
        cgroup=f"/../../pod{POD}/{SANDBOX}",
        vm=vm(
            "shop_web-01", Platform.KUBEVIRT, vmm="qemu-system-x86_64",
            alias="web-01", project="shop", pod=POD,
        ),
    ),
    Row(
        what="before libvirt ran as a user, cgroups v1",
        cmdline=from_libvirt("shop_web-01"),
        cgroup=f"/kubepods/burstable/pod{POD}/{SANDBOX}",
        vm=vm(
            "shop_web-01", Platform.KUBEVIRT, vmm="qemu-system-x86_64",
            alias="web-01", project="shop", pod=POD,
        ),
    ),
    Row(
        what="a QEMU in a pod that is no virt-launcher",
        cmdline=(QEMU, "-name", "my_vm"),
        cgroup=f"{POD_SLICE}/crio-{SANDBOX}.scope",
        vm=vm("my_vm", Platform.QEMU, vmm="qemu-system-x86_64", pod=POD),
    ),
    # ---- Kata -------------------------------------------------------------------------------
    Row(
        what="on QEMU",
        cmdline=(QEMU, "-name", f"sandbox-{SANDBOX},debug-threads=on", "-uuid", UUID),
        cgroup=f"{POD_SLICE}/kata_{SANDBOX}",
        vm=vm(SANDBOX, Platform.KATA, uuid=UUID, vmm="qemu-system-x86_64", pod=POD),
    ),
    Row(
        what="on QEMU, with a name that is no container's",
        cmdline=(QEMU, "-name", "sandbox-web", "-pidfile", "/run/vc/vm/web/pid"),
        vm=vm("web", Platform.KATA, vmm="qemu-system-x86_64"),
    ),
    Row(
        what="a VM that is only called so",
        cmdline=(QEMU, "-name", "sandbox-web"),
        vm=vm("sandbox-web", Platform.QEMU, vmm="qemu-system-x86_64"),
    ),
    Row(
        what="on Cloud Hypervisor",
        cmdline=("cloud-hypervisor", "--api-socket", f"/run/vc/vm/{SANDBOX}/clh-api.sock"),
        cgroup=f"/kata_overhead/{SANDBOX}",
        vm=vm(SANDBOX, Platform.KATA, vmm="cloud-hypervisor"),
    ),
    Row(
        what="the runtime in Rust",
        cmdline=("cloud-hypervisor", "--api-socket", f"/run/kata/{SANDBOX}/root/ch-api.sock"),
        vm=vm(SANDBOX, Platform.KATA, vmm="cloud-hypervisor"),
    ),
    Row(
        what="on Firecracker, which is given half of the id",
        cmdline=("/firecracker", "--id", SANDBOX[:32], "--start-time-us", "1"),
        cgroup=f"/kata_overhead/{SANDBOX}",
        vm=vm(SANDBOX[:32], Platform.KATA, vmm="firecracker"),
    ),
    # ---- Firecracker ------------------------------------------------------------------------
    Row(
        what="jailer",
        cmdline=("/firecracker", "--id", "web-01", "--start-time-us", "1", "--no-api"),
        cgroup="/firecracker/web-01",
        vm=vm("web-01", Platform.FIRECRACKER, vmm="firecracker"),
    ),
    Row(
        what="bare, another spelling",
        cmdline=("./firecracker-v1.13.1-x86_64", "--id=web-01"),
        vm=vm("web-01", Platform.FIRECRACKER, vmm="firecracker-v1.13.1-x86_64"),
    ),
    Row(
        what="bare, by socket",
        cmdline=("firecracker", "--api-sock", "/run/vms/web-01/firecracker.socket"),
        vm=vm("web-01", Platform.FIRECRACKER, Basis.SOCKET, vmm="firecracker"),
    ),
    Row(
        what="bare, a socket that names nobody",
        cmdline=("firecracker", "--api-sock", "/tmp/firecracker.socket"),
        vm=vm("firecracker", Platform.FIRECRACKER, Basis.PROGRAM, vmm="firecracker"),
    ),
    Row(what="jailer before exec", cmdline=("/usr/bin/jailer", "--id", "web-01"), vm=None),
    # ---- Cloud Hypervisor -------------------------------------------------------------------
    Row(
        what="bare",
        cmdline=(
            "cloud-hypervisor", "--api-socket", "path=/run/ch/web-01.sock",
            "--platform", f"num_pci_segments=1,uuid={UUID}",
        ),
        vm=vm("web-01", Platform.CLOUD_HYPERVISOR, Basis.SOCKET, uuid=UUID, vmm="cloud-hypervisor"),
    ),
    Row(
        what="bare, only a uuid",
        cmdline=("cloud-hypervisor-static", "--platform", f"uuid={UUID}"),
        vm=vm(UUID, Platform.CLOUD_HYPERVISOR, uuid=UUID, vmm="cloud-hypervisor-static"),
    ),
    Row(
        what="libvirt, which passes a descriptor",
        cmdline=("/usr/bin/cloud-hypervisor", "--api-socket", "fd=23"),
        cgroup=scope("ch-1-web01", "/libvirt/emulator"),
        domain=DOMAIN,
        vm=vm("web_01", Platform.LIBVIRT, Basis.LIBVIRT_XML, uuid=UUID, vmm="cloud-hypervisor"),
    ),
    Row(
        what="libvirt, without its file",
        cmdline=("/usr/bin/cloud-hypervisor", "--api-socket", "fd=23"),
        cgroup=scope("ch-1-web01"),
        vm=vm("web01", Platform.LIBVIRT, Basis.CGROUP, vmm="cloud-hypervisor"),
    ),
    # ---- crosvm -----------------------------------------------------------------------------
    Row(
        what="a name",
        cmdline=("crosvm", "--log-level=debug", "run", "--name", "web-01", "-s", "/tmp/x.sock"),
        vm=vm("web-01", Platform.CROSVM, vmm="crosvm"),
    ),
    Row(
        what="by socket",
        cmdline=("crosvm", "run", "-s", "/run/web-01/crosvm_control.sock", "vmlinux"),
        vm=vm("web-01", Platform.CROSVM, Basis.SOCKET, vmm="crosvm"),
    ),
    Row(what="a device's process", cmdline=("crosvm", "device", "block"), vm=None),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_names(row: Row) -> None:
    assert attribute.resolve(row.evidence) == row.vm


def test_every_platform_basis_and_resolver_has_a_row() -> None:
    named = [row for row in ROWS if row.vm]
    assert {row.vm.platform for row in named if row.vm} == set(Platform) - {
        Platform.NONE, Platform.OTHER,
    }  # fmt: skip
    assert {row.vm.basis for row in named if row.vm} == set(Basis) - {
        Basis.NONE, Basis.NAME_PATTERN,
    }  # fmt: skip
    assert len(RESOLVERS) == len(set(RESOLVERS)) == 9


# ---- what the operator adds -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        (
            ("my-vmm", "--vm-name", "web"),
            vm("web", Platform.OTHER, Basis.NAME_PATTERN, vmm="my-vmm"),
        ),
        (("/opt/my-vmm", "-name", "web"), vm("web", Platform.OTHER, vmm="my-vmm")),
        (("my-vmm",), vm("my-vmm", Platform.OTHER, Basis.PROGRAM, vmm="my-vmm")),
        (
            ("kvm", "-name", "a", "--vm-name", "b"),
            vm("b", Platform.QEMU, Basis.NAME_PATTERN, vmm="kvm"),
        ),
        (("kvm", "-name", "a"), vm("a", Platform.QEMU, vmm="kvm")),
        (("bash", "--vm-name", "web"), None),
    ],
)  # fmt: skip
def test_programs_and_pattern_of_the_operator(cmdline: tuple[str, ...], expected: Vm) -> None:
    programs = Programs.of(["my-vmm"], r"--vm-name (\S+)")
    assert attribute.resolve(Evidence(tgid=1, cmdline=cmdline), programs) == expected


def test_a_group_that_took_no_part_names_nobody() -> None:
    programs = Programs.of([], r"--a (\S+)|--b")
    assert programs.name_in(["kvm", "--b"]) == ""


@pytest.mark.parametrize(
    "comm",
    ["qemu-system-x86", "/usr/libexec/qemu-kvm", "kvm", "cloud-hyperviso", "firecracker", "crosvm"],
)
def test_known_programs_by_path_or_comm(comm: str) -> None:
    assert Programs().vmm(comm) is not None


@pytest.mark.parametrize(
    "program",
    ["", "jailer", "firecracker-containerd", "ch-remote", "qemu-img", "virtiofsd", "kvmd"],
)
def test_programs_that_run_no_vm(program: str) -> None:
    assert Programs().vmm(program) is None


def test_a_long_program_of_the_operator_is_known_by_its_comm() -> None:
    assert Programs.of(["my-very-long-virtual-machine"], "").vmm("my-very-long-vi") is not None


# ---- hostile text ---------------------------------------------------------------------------


@given(st.text())
def test_any_name_is_one_printable_line(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    assert len(shown) <= MAX_NAME


@given(st.text())
def test_no_vm_is_called_as_ours_are(name: str) -> None:
    assert not vm_name(name).startswith("~")


def test_different_control_characters_stay_different() -> None:
    assert len({printable(c) for c in "\0\n\r\x1b\u2028\u2029\u202e\ufeff\x7f\x85"}) == 10


def test_a_cut_name_cannot_pass_for_a_shorter_one() -> None:
    assert printable("a" * 65536).endswith("…")
