"""A libvirtd of the distribution without systemd, D-Bus and udev, and the domains that it runs.

All files are written below /etc of the guest, which is an overlay that goes with it.
"""

from __future__ import annotations

import pwd
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_CONF = Path("/etc/libvirt")
_LOG = Path("/tmp/libvirtd.log")
_READY_S = 180
_CGROUPS = Path("/sys/fs/cgroup")

# As root, because nobody made /dev/vfio/N over to libvirt's user; of the controllers only the one
# that confines memory to nodes. A log daemon of libvirt's and name spaces would need more programs.
_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
remember_owner = 0
stdio_handler = "file"
cgroup_controllers = ["cpuset"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A libvirt domain with shared memory, as vhost-user and virtiofs want it."""

    name: str
    uuid: str
    title: str = ""
    metadata: str = ""  # XML
    nodeset: str = ""  # NUMA nodes that its memory must come from

    def xml(self, device: str = "") -> str:
        """Its definition; `device` is the PCI address of a device to pass through."""
        title = f"<title>{self.title}</title>" if self.title else ""
        # Not "strict": then a thread that allocates must run on the node, which may have no CPU.
        numatune = f"<numatune><memory mode='restrictive' nodeset='{self.nodeset}'/></numatune>"
        return f"""\
<domain type='qemu'>
  <name>{self.name}</name>
  <uuid>{self.uuid}</uuid>
  {title}
  <metadata>{self.metadata}</metadata>
  <memory unit='MiB'>64</memory>
  <memoryBacking>
    <source type='memfd'/><access mode='shared'/><allocation mode='immediate'/>
  </memoryBacking>
  {numatune if self.nodeset else ""}
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    {_hostdev(device) if device else ""}
  </devices>
</domain>
"""


def _hostdev(address: str) -> str:
    """A PCI device that is bound to vfio-pci already."""
    pci_domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    return f"""\
<hostdev mode='subsystem' type='pci' managed='no'>
      <source>
        <address domain='0x{pci_domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>
      </source>
    </hostdev>"""


def start_libvirtd() -> None:
    """The system's libvirtd, ready when virsh gets an answer."""
    if not (_CGROUPS / "cgroup.controllers").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", str(_CGROUPS)], check=True)
    _CONF.mkdir(exist_ok=True)
    (_CONF / "qemu.conf").write_text(_QEMU_CONF)
    (_CONF / "libvirtd.conf").write_text('auth_unix_rw = "none"\n')
    _add_user("libvirt-qemu")
    with _LOG.open("wb") as log:
        reaped = [sys.executable, "-m", "tests.lab.inside.reaper", "libvirtd"]
        subprocess.Popen(reaped, stdout=log, stderr=log)
    deadline = time.monotonic() + _READY_S
    while virsh("list", "--all").returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(f"libvirtd does not answer: {_LOG.read_text()[-3000:]}")
        time.sleep(0.5)


def _add_user(name: str) -> None:
    """Debian's libvirtd wants this user to exist even where it does not use it."""
    if name in (user.pw_name for user in pwd.getpwall()):
        return
    with open("/etc/passwd", "a") as users, open("/etc/group", "a") as groups:
        users.write(f"{name}:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n")
        groups.write(f"{name}:x:64055:\n")


def virsh(*arguments: str) -> subprocess.CompletedProcess[str]:
    """virsh at the system's libvirtd."""
    return subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def define(domain: Domain, device: Path | None = None) -> None:
    """`virsh define`, so that the definition stays when the domain's start fails."""
    file = Path(f"/tmp/{domain.name}.xml")
    file.write_text(domain.xml(device.name if device else ""))
    done = virsh("define", str(file))
    if done.returncode:
        raise RuntimeError(f"{domain.name}: {done.stderr}")


def start(domain: Domain) -> dict[str, object]:
    """`virsh start`: how it ended, what it said, what libvirt's log of the domain says."""
    began = time.monotonic()
    done = virsh("start", "--paused", domain.name)
    return {
        "exit_code": done.returncode,
        "stderr": done.stderr,
        "seconds": round(time.monotonic() - began, 1),
        "log": Path(f"/var/log/libvirt/qemu/{domain.name}.log").read_text(errors="replace"),
    }


def libvirtd_log() -> str:
    """The end of what libvirtd said."""
    return _LOG.read_text(errors="replace")[-4000:]
