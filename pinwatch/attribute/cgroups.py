r"""What the path of a cgroup says about a VM. Pure.

libvirt (src/hypervisor/domain_driver.c, src/util/virsystemd.c):
    /machine.slice/machine-qemu\x2d3\x2dweb.scope/libvirt/vcpu0    with systemd
    /machine/qemu-3-web.libvirt-qemu/emulator                      without
The name in it is what is left after all but letters, digits, "-" and "." were dropped, and it ends
after 64 characters. A libvirt of a user puts the user before the number, an embedded one a hash.
Threads of one VM are in different children, so the ancestor counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")  # systemd.unit(5), "string escaping"
_SCOPE = re.compile(r"machine-(?P<machine>.+)\.scope")
_PARTITION = re.compile(r"(?P<machine>.+)\.libvirt-(?:qemu|ch)")
_MACHINE = re.compile(
    r"(?P<driver>qemu|ch)(?:-embed-[0-9a-f]{8})?-(?:(?P<user>.+?)-)??\d+-(?P<name>.+)"
)
_OLD_MACHINE = re.compile(r"(?P<name>.+)\.libvirt-(?P<driver>qemu|ch)")  # before libvirt 1.2.10
_POD = re.compile(r"(?:^|[/-])pod([0-9a-f][0-9a-f_-]{30,34}[0-9a-f])(?:\.slice)?(?=/|$)")
_PROXMOX = re.compile(r"/qemu\.slice/(\d+)\.scope(?=/|$)")


@dataclass(frozen=True, slots=True)
class Machine:
    """A libvirt domain as its cgroup spells it: the name may lack characters."""

    driver: str
    name: str
    user: str = ""  # of a libvirt of a user


def path_of(text: str) -> str:
    """The path that says most in a /proc/PID/cgroup (cgroups(7)): the one with most parts.

    Version 2 has one line. Version 1 has one for each controller, and a VMM need not be in a cgroup
    of its own in all of them.
    """
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    return max(paths, key=lambda path: path.rstrip("/").count("/"), default="")


def machine(path: str) -> Machine | None:
    """The libvirt domain to which a cgroup belongs."""
    found = (_machine(part) for part in reversed(path.split("/")))
    return next((one for one in found if one is not None), None)


def _machine(part: str) -> Machine | None:
    holder = _SCOPE.fullmatch(part) or _PARTITION.fullmatch(part)
    if holder is None:
        return None
    name = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), holder["machine"])
    if found := _MACHINE.fullmatch(name):
        return Machine(found["driver"], found["name"], found["user"] or "")
    old = _OLD_MACHINE.fullmatch(part)
    return Machine(old["driver"], old["name"]) if old else None


def pod_uid(path: str) -> str:
    """UID of the Kubernetes pod; systemd's slices spell it with underscores."""
    found = _POD.search(path)
    return found[1].replace("_", "-") if found else ""


def proxmox_id(path: str) -> str:
    """VMID from /qemu.slice/VMID.scope."""
    found = _PROXMOX.search(path)
    return found[1] if found else ""
