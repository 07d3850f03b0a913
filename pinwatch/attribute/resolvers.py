"""Name a VM: one pure function for each platform, asked in the order of RESOLVERS.

Each takes the evidence and the kind of its program (None: the command line is lost), and gives a Vm
with text as others wrote it, or None. A platform that is built on another comes before it: Kata,
KubeVirt, Proxmox and OpenStack all start the VMMs below them. docs/vms.md says the same in plain
words.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import replace

from pinwatch.attribute import cgroups, libvirt, options, qemu
from pinwatch.attribute.names import printable, vm_name
from pinwatch.attribute.programs import Programs, Vmm
from pinwatch.model.vm import Basis, Evidence, Platform, Vm

Resolver = Callable[[Evidence, Vmm | None], Vm | None]
DEFAULT = Programs()

# Kata keeps what belongs to a sandbox below one of these; the runtime in Rust below the last.
_KATA_PATH = re.compile(r"/run/(?:vc/vm|vc/sbs|vc/firecracker|kata)/([^/,]+)")
_KATA_CGROUP = re.compile(r"/kata_")  # kata_ID, or kata_overhead/ID (docs/design/host-cgroups.md)
_KATA_NAME = re.compile(r"sandbox-(.+)", re.DOTALL)
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_KUBEVIRT_PATH = "/var/run/kubevirt"
_NOVA_NAME = re.compile(r"instance-[0-9a-f]{8}")  # Nova's default instance_name_template
_NOVA_PRODUCT = "OpenStack Nova"


def resolve(evidence: Evidence, programs: Programs = DEFAULT) -> Vm | None:
    """The VM of a process; None when it runs none, or nothing is known of it."""
    program = evidence.cmdline[0] if evidence.cmdline else ""
    vmm = programs.vmm(program)
    if (program and vmm is None) or (vmm is Vmm.QEMU and qemu.is_probe(evidence.cmdline)):
        return None
    found = next((vm for resolver in RESOLVERS if (vm := resolver(evidence, vmm))), None)
    if chosen := programs.name_in(evidence.cmdline):
        found = replace(
            found or Vm(name="", platform=Platform.OTHER), name=chosen, basis=Basis.NAME_PATTERN
        )
    if found is None:
        return None
    return replace(
        found,
        name=vm_name(found.name),
        uuid=printable(found.uuid),
        vmm=printable(posixpath.basename(program)),
        alias=printable(found.alias),
        project=printable(found.project),
        pod=printable(cgroups.pod_uid(evidence.cgroup)),
    )


def kata(evidence: Evidence, vmm: Vmm | None) -> Vm | None:
    """The sandbox's id: in QEMU's -name, in the path of a socket, in Firecracker's --id."""
    path = next((m[1] for word in evidence.cmdline if (m := _KATA_PATH.search(word))), "")
    named = _KATA_NAME.fullmatch(qemu.guest_name(evidence.cmdline)) if vmm is Vmm.QEMU else None
    in_cgroup = _KATA_CGROUP.search(evidence.cgroup) is not None
    if named and (path or in_cgroup or _CONTAINER_ID.fullmatch(named[1])):
        name = named[1]
    elif vmm is Vmm.FIRECRACKER and (path or in_cgroup):
        name = options.last(evidence.cmdline, "--id") or path
    else:
        name = path
    if not name:
        return None
    return Vm(
        name=name, uuid=qemu.uuid(evidence.cmdline), platform=Platform.KATA, basis=Basis.CMDLINE
    )


def kubevirt(evidence: Evidence, vmm: Vmm | None) -> Vm | None:
    """The libvirt domain of a virt-launcher: NAMESPACE_VMI. Neither part may hold a "_" (both are
    names in DNS); the libvirt inside the pod has its files there, out of reach."""
    name = qemu.guest_name(evidence.cmdline)
    namespace, underscore, vmi = name.partition("_")
    of_kubevirt = any(_KUBEVIRT_PATH in word for word in evidence.cmdline)
    if vmm is not Vmm.QEMU or not (namespace and underscore and vmi):
        return None
    if not of_kubevirt and not (cgroups.pod_uid(evidence.cgroup) and libvirt.is_managed(evidence)):
        return None
    return Vm(
        name=name,
        uuid=qemu.uuid(evidence.cmdline),
        platform=Platform.KUBEVIRT,
        basis=Basis.CMDLINE,
        alias=vmi,
        project=namespace,
    )


def proxmox(evidence: Evidence, vmm: Vmm | None) -> Vm | None:
    """`kvm -id 100 -name web`. qemu-server always gives a name ("vm100" without one), so nothing is
    read from /etc/pve, a FUSE file system that may hang."""
    if vmm not in (Vmm.QEMU, None):
        return None
    given, name = options.last(evidence.cmdline, "-id"), qemu.guest_name(evidence.cmdline)
    number = given or cgroups.proxmox_id(evidence.cgroup)
    if not number.isdecimal():
        return None
    return Vm(
        name=name or number,
        uuid=qemu.uuid(evidence.cmdline),
        platform=Platform.PROXMOX,
        basis=Basis.CMDLINE if name or given else Basis.CGROUP,
        alias=number,
    )


def libvirt_domain(evidence: Evidence, vmm: Vmm | None) -> Vm | None:
    """A domain of libvirt, and of OpenStack, which is one. QEMU's own -name is exact and there even
    when the process is gone, so it comes first; Cloud Hypervisor has none, so its XML does."""
    if vmm not in (Vmm.QEMU, Vmm.CLOUD_HYPERVISOR, Vmm.OTHER, None):
        return None
    if not libvirt.is_managed(evidence):
        return None
    name, basis = _libvirt_name(evidence)
    if not name:
        return None
    domain = libvirt.domain_of(evidence)
    return Vm(
        name=name,
        uuid=(domain.uuid if domain else "") or qemu.uuid(evidence.cmdline),
        platform=_libvirt_platform(evidence, name),
        basis=basis,
        alias=domain.title if domain else "",
        project=domain.project if domain else "",
    )


def _libvirt_name(evidence: Evidence) -> tuple[str, Basis]:
    domain, machine = libvirt.domain_of(evidence), cgroups.machine(evidence.cgroup)
    if name := qemu.guest_name(evidence.cmdline):
        return name, Basis.CMDLINE
    if domain is not None:
        return domain.name, Basis.LIBVIRT_XML
    return (machine.name, Basis.CGROUP) if machine else ("", Basis.NONE)


def _libvirt_platform(evidence: Evidence, name: str) -> Platform:
    domain = libvirt.domain_of(evidence)
    if (domain and domain.is_nova) or qemu.product(evidence.cmdline) == _NOVA_PRODUCT:
        return Platform.OPENSTACK
    if _NOVA_NAME.fullmatch(name):
        return Platform.OPENSTACK
    if libvirt.is_session(evidence.cmdline, evidence.cgroup):
        return Platform.LIBVIRT_SESSION
    return Platform.LIBVIRT


def firecracker(evidence: Evidence, vmm: Vmm | None) -> Vm | None:
    """`--id ID`; the jailer passes its own on. Without one, the path of --api-sock."""
    if vmm is not Vmm.FIRECRACKER:
        return None
    return _named_or_by_socket(
        Platform.FIRECRACKER, evidence, options.last(evidence.cmdline, "--id"), "--api-sock"
    )


def cloud_hypervisor(evidence: Evidence, vmm: Vmm | None) -> Vm | None:
    """`--api-socket PATH` or `path=PATH`, `--platform uuid=UUID`: it has no option for a name."""
    if vmm is not Vmm.CLOUD_HYPERVISOR:
        return None
    platform = options.last(evidence.cmdline, "--platform").split(",")
    uuid = options.fields(platform, "").get("uuid", "")
    vm = _named_or_by_socket(Platform.CLOUD_HYPERVISOR, evidence, "", "--api-socket")
    if vm.basis is Basis.PROGRAM and uuid:
        return replace(vm, name=uuid, uuid=uuid, basis=Basis.CMDLINE)
    return replace(vm, uuid=uuid)


def crosvm(evidence: Evidence, vmm: Vmm | None) -> Vm | None:
    """`crosvm run --name NAME`, else the path of its control socket. Its other commands run no
    VM."""
    if vmm is not Vmm.CROSVM or "run" not in evidence.cmdline:
        return None
    return _named_or_by_socket(
        Platform.CROSVM, evidence, options.last(evidence.cmdline, "--name"), "--socket", "-s"
    )


def _named_or_by_socket(platform: Platform, evidence: Evidence, name: str, *sockets: str) -> Vm:
    """A VMM that runs a VM whenever it runs."""
    if name:
        return Vm(name=name, platform=platform, basis=Basis.CMDLINE)
    socket = options.fields(options.last(evidence.cmdline, *sockets).split(","), "path")
    if by_socket := options.socket_name(socket.get("path", "")):
        return Vm(name=by_socket, platform=platform, basis=Basis.SOCKET)
    program = posixpath.basename(evidence.cmdline[0])
    return Vm(name=program, platform=platform, basis=Basis.PROGRAM)


def plain_qemu(evidence: Evidence, vmm: Vmm | None) -> Vm | None:
    """-name, else the UUID. A QEMU with neither asks what it can do, or is nobody's VM."""
    uuid = qemu.uuid(evidence.cmdline)
    name = qemu.guest_name(evidence.cmdline) or uuid
    if vmm is not Vmm.QEMU or not name:
        return None
    return Vm(name=name, uuid=uuid, platform=Platform.QEMU, basis=Basis.CMDLINE)


def other(evidence: Evidence, vmm: Vmm | None) -> Vm | None:
    """A program that the operator added: as QEMU says it, as many such are, else its own name."""
    if vmm is not Vmm.OTHER:
        return None
    named = plain_qemu(evidence, Vmm.QEMU)
    if named is not None:
        return replace(named, platform=Platform.OTHER)
    program = posixpath.basename(evidence.cmdline[0])
    return Vm(name=program, platform=Platform.OTHER, basis=Basis.PROGRAM)


RESOLVERS: tuple[Resolver, ...] = (
    kata,
    kubevirt,
    proxmox,
    libvirt_domain,
    firecracker,
    cloud_hypervisor,
    crosvm,
    plain_qemu,
    other,
)
