"""libvirt's XML files: which of them may name a VM, and what they say. Pure; never calls libvirt.

/run/libvirt/DRIVER/NAME.xml is the live state, there while the domain runs: <domstatus pid=...>
around <domain>. /etc/libvirt/DRIVER/NAME.xml is the definition of a domain that is kept: <domain>.
Nova's names are in <metadata> (nova/virt/libvirt/config.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from pinwatch.attribute import cgroups, qemu
from pinwatch.attribute.programs import Programs
from pinwatch.model.vm import Evidence, LibvirtDomain

_NOVA = "{http://openstack.org/xmlns/libvirt/nova/"
# Paths and names that libvirt gives to QEMU: its directory for each domain, its secret.
_MARK = re.compile(r"/domain-\d+-|\bmasterKey0\b")
_SESSION_MARK = re.compile(r"/\.(?:config|cache)/libvirt/|/run/user/\d+/libvirt/")


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file that may name the VM of a process. `name` is one component that a VM's owner chose;
    who opens it must not let it leave `directory`."""

    directory: str  # below the root of the file system, chosen here
    name: str


def is_session(cmdline: Sequence[str], cgroup: str) -> bool:
    """Was it started by the libvirt of a user, not by the system's?"""
    machine = cgroups.machine(cgroup)
    return bool(machine and machine.user) or any(_SESSION_MARK.search(word) for word in cmdline)


def is_managed(evidence: Evidence) -> bool:
    """Did libvirt start this process?"""
    return (
        evidence.domain is not None
        or cgroups.machine(evidence.cgroup) is not None
        or any(_MARK.search(word) for word in evidence.cmdline)
    )


def wanted(evidence: Evidence, programs: Programs) -> tuple[WantedFile, ...]:
    """The files to look for, best first. A user's libvirt keeps its own where only he may read,
    and needs none: its QEMU says name and uuid."""
    cmdline, machine = evidence.cmdline, cgroups.machine(evidence.cgroup)
    if not is_managed(evidence) or is_session(cmdline, evidence.cgroup):
        return ()
    if cmdline and programs.vmm(cmdline[0]) is None:
        return ()  # swtpm, virtiofsd: in the cgroup of the VM that they serve
    driver = machine.driver if machine else "qemu"
    name = qemu.guest_name(cmdline) or (machine.name if machine else "")
    if not name:
        return ()
    return tuple(WantedFile(f"{top}/libvirt/{driver}", f"{name}.xml") for top in ("run", "etc"))


class _NoDoctype(ElementTree.TreeBuilder):
    """libvirt writes no DOCTYPE. Without one a document can declare no entity, so none expands."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ElementTree.ParseError(f"a DOCTYPE: {name}, {pubid}, {system}")


def parse(text: str) -> LibvirtDomain | None:
    """A domain from its state or definition; None when the text is neither."""
    try:
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError):
        return None
    domain = root if root.tag == "domain" else root.find("domain")
    if domain is None or not (name := domain.findtext("name", "")):
        return None
    pid = root.get("pid", "")
    nova = next((e for e in domain.iterfind("metadata/*") if e.tag.startswith(_NOVA)), None)
    names = nova if nova is not None else ElementTree.Element("none")
    return LibvirtDomain(
        name=name,
        uuid=domain.findtext("uuid", ""),
        tgid=int(pid) if re.fullmatch(r"[0-9]{1,10}", pid) else 0,
        title=names.findtext("{*}name", "") or domain.findtext("title", ""),
        project=names.findtext("{*}owner/{*}project", ""),
        is_nova=nova is not None,
    )


def domain_of(evidence: Evidence) -> LibvirtDomain | None:
    """The domain that was found, when it is this process's. The name alone proves nothing: a scope
    lacks characters of it, and a definition may be of another libvirt."""
    domain = evidence.domain
    if domain is None:
        return None
    same_process = domain.tgid == evidence.tgid != 0
    same_uuid = domain.uuid != "" and domain.uuid == qemu.uuid(evidence.cmdline)
    return domain if same_process or same_uuid else None
