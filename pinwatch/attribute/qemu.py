"""Name a VM from QEMU's command line. Pure: arguments in, Vm or None out.

QEMU's `-name guest=NAME,debug-threads=on` and `-name NAME` (a comma inside a value is doubled),
`-uuid UUID`. A QEMU without a name or uuid, or with `-machine none`, only probes capabilities.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from itertools import pairwise

from pinwatch.attribute.names import printable, vm_name
from pinwatch.model.vm import Vm

_PROGRAM = re.compile(r"^(qemu-system-[\w.-]+|qemu-kvm|kvm|qemu)$")
_OPTION_END = re.compile(r"(?<!,)(?:,,)*,(?!,)")


def is_qemu(program: str) -> bool:
    """Does this path or comm belong to a QEMU that runs VMs? comm is cut at 15 characters."""
    return bool(_PROGRAM.match(posixpath.basename(program)))


def split_options(value: str) -> list[str]:
    """The parts of a QEMU option value, with doubled commas made single."""
    parts, start = [], 0
    for end in _OPTION_END.finditer(value):
        parts.append(value[start : end.end() - 1])
        start = end.end()
    return [part.replace(",,", ",") for part in (*parts, value[start:])]


def _values(cmdline: Sequence[str], option: str) -> list[str]:
    names = (f"-{option}", f"--{option}")
    return [value for name, value in pairwise(cmdline) if name in names]


def _guest_name(cmdline: Sequence[str]) -> str:
    name = ""
    for value in _values(cmdline, "name"):
        for position, part in enumerate(split_options(value)):
            key, equals, rest = part.partition("=")
            if key == "guest" and equals:
                name = rest
            elif position == 0 and not equals:
                name = part
    return name


def resolve(cmdline: Sequence[str]) -> Vm | None:
    """The VM of a QEMU command line; None when it is no QEMU or no VM."""
    if not cmdline or not is_qemu(cmdline[0]):
        return None
    name = _guest_name(cmdline)
    uuid = next(iter(_values(cmdline, "uuid")), "")
    machines = _values(cmdline, "machine") + _values(cmdline, "M")
    if not (name or uuid) or any(split_options(m)[0] == "none" for m in machines):
        return None
    return Vm(
        name=vm_name(name or uuid),
        uuid=printable(uuid),
        platform="qemu",
        vmm=printable(posixpath.basename(cmdline[0])),
    )
