"""A virtual machine as pinwatch reports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """Identity of a VM; `name` is printable text that no other VM alive on this host bears."""

    name: str
    uuid: str = ""
    platform: str = ""  # what manages it: "qemu" when nothing is known above the VMM
    vmm: str = ""  # name of the VMM's program
    folded: bool = False  # max_vms others have series of their own, this one has none

    @property
    def label(self) -> str:
        """The value of the `vm` label under which it is counted."""
        return OTHER.name if self.folded else self.name


# Names that no VM can have: a VM's name never starts with a tilde (attribute/names.py).
HOST = Vm(name="~host")  # pins by processes that are no VM
UNATTRIBUTED = Vm(name="~unattributed")  # the record that names the process was lost
OTHER = Vm(name="~other")  # VMs that are folded
