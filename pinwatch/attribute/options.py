"""Words of a command line: arguments in, values of options out. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from itertools import pairwise

_OPTION_END = re.compile(r"(?<!,)(?:,,)*,(?!,)")

# Names of sockets and directories that say what they are for, not whose they are.
_SOCKET_SUFFIX = re.compile(r"[-_.]?(sock|socket)$")
_GENERIC = re.compile(
    r"api|control|(clh|ch)(-api)?|cloud-hypervisor|crosvm(_control)?|firecracker|fc"
    r"|vms?|vmm|run|tmp|var|root"
)


def values(cmdline: Sequence[str], *options: str) -> list[str]:
    """What stands behind these options, in order: `--id X` and `--id=X`."""
    found = [
        follower if word in options else word.partition("=")[2]
        for word, follower in pairwise((*cmdline, ""))
        if word in options or word.partition("=")[0] in options
    ]
    return [value for value in found if value]


def last(cmdline: Sequence[str], *options: str) -> str:
    """The value that counts when an option is given more than once."""
    return next(reversed(values(cmdline, *options)), "")


def split_doubled(value: str) -> list[str]:
    """The parts of a QEMU option value, with doubled commas made single."""
    parts, start = [], 0
    for end in _OPTION_END.finditer(value):
        parts.append(value[start : end.end() - 1])
        start = end.end()
    return [part.replace(",,", ",") for part in (*parts, value[start:])]


def fields(parts: Sequence[str], first: str) -> dict[str, str]:
    """`web,x=1` as {first: "web", "x": "1"}: a first part without a key has an implied one."""
    pairs = [part.partition("=") for part in parts]
    return {
        (key if equals else first): (value if equals else key)
        for position, (key, equals, value) in enumerate(pairs)
        if equals or position == 0
    }


def socket_name(path: str) -> str:
    """The name that a control socket's path carries: of the file, else of its directory.

    /run/vms/web.sock and /run/vms/web/api.sock are both "web"; /tmp/api.sock names nobody.
    """
    directory, _, base = path.rpartition("/")
    for candidate in (base, posixpath.basename(directory)):
        name = _SOCKET_SUFFIX.sub("", candidate)
        if name and not _GENERIC.fullmatch(name):
            return name
    return ""
