"""A virtual machine as pinwatch reports it, and what was found that names it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Platform(StrEnum):
    """What manages a VM; `words` is its name in a sentence."""

    words: str

    NONE = "", "nothing"
    QEMU = "qemu", "QEMU, started by hand or by a script"
    LIBVIRT = "libvirt", "libvirt"
    LIBVIRT_SESSION = "libvirt_session", "the libvirt of a user"
    OPENSTACK = "openstack", "OpenStack Nova"
    PROXMOX = "proxmox", "Proxmox VE"
    KUBEVIRT = "kubevirt", "KubeVirt"
    KATA = "kata", "Kata Containers"
    FIRECRACKER = "firecracker", "Firecracker"
    CLOUD_HYPERVISOR = "cloud_hypervisor", "Cloud Hypervisor"
    CROSVM = "crosvm", "crosvm"
    OTHER = "other", "a program from vmm_programs"

    def __new__(cls, value: str, words: str) -> Platform:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member

    @property
    def raises_memlock(self) -> bool:
        """It raises RLIMIT_MEMLOCK of a VM when it attaches a device."""
        return self in (Platform.LIBVIRT, Platform.OPENSTACK, Platform.KUBEVIRT)


class Basis(StrEnum):
    """What a VM's name was taken from; `words` says how far to trust it."""

    words: str

    NONE = "", "it has no name"
    NAME_PATTERN = "name_pattern", "the operator's vm_name_pattern matched the command line"
    CMDLINE = "cmdline", "the command line names it"
    LIBVIRT_XML = "libvirt_xml", "libvirt's XML of this very process names it"
    CGROUP = "cgroup", "its cgroup names it, without the characters that a cgroup may not have"
    SOCKET = "socket", "the path of its control socket names it"
    PROGRAM = "program", "nothing names it; all such VMs share the name of their program"

    def __new__(cls, value: str, words: str) -> Basis:
        member = str.__new__(cls, value)
        member._value_ = value
        member.words = words
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """Identity of a VM; `name` is printable text that no other VM alive on this host bears."""

    name: str
    uuid: str = ""
    platform: Platform = Platform.NONE
    vmm: str = ""  # name of the VMM's program
    basis: Basis = Basis.NONE
    alias: str = ""  # its other name: Nova's display name, libvirt's title, Proxmox' number
    project: str = ""  # whose it is: Nova's project, KubeVirt's namespace
    pod: str = ""  # UID of the Kubernetes pod
    folded: bool = False  # max_vms others have series of their own, this one has none

    @property
    def is_one(self) -> bool:
        """Not what stands for other processes."""
        return not self.name.startswith("~")

    @property
    def label(self) -> str:
        """The value of the `vm` label under which it is counted."""
        return OTHER.name if self.folded else self.name


# Names that no VM can have: a VM's name never starts with a tilde (attribute/names.py).
HOST = Vm(name="~host")  # pins by processes that are no VM
UNATTRIBUTED = Vm(name="~unattributed")  # the record that names the process was lost
OTHER = Vm(name="~other")  # VMs that are folded


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLimits:
    """How many VMs have series of their own, and for how long after their end."""

    max_vms: int = 1000
    retention_ns: int = 1800 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that VFIO gave to a VM, by its name in sysfs: a PCI address, the uuid of an mdev."""

    address: str
    driver: str
    iommu_group: str  # empty without an IOMMU


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtDomain:
    """What libvirt's XML says of a domain, as far as it names a VM. Nothing else of it is kept:
    such a file also holds passwords, and recordings travel."""

    name: str
    uuid: str
    tgid: int = 0  # 0: a definition, not a running domain
    title: str = ""  # Nova's display name, else libvirt's <title>
    project: str = ""
    is_nova: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that may name the VM of a process. Text is as somebody else wrote it."""

    tgid: int
    cmdline: tuple[str, ...] = ()
    cgroup: str = ""  # path below the root of the cgroup tree
    domain: LibvirtDomain | None = None
