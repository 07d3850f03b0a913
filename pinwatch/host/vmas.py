"""Read what /proc says of one process's memory as a whole: its mappings, its limits. Roots are
arguments; a process that is gone gives None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pinwatch.attribute import cgroups
from pinwatch.host import cgroupfs, procfs
from pinwatch.model.event import MappingKind
from pinwatch.model.placement import Limits, Mapping, Placement

GUEST_BYTES = 16 << 20  # a mapping below this is the VMM's own: heaps, stacks, queues
_CAP_IPC_LOCK = 14  # include/uapi/linux/capability.h
_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) (.)(.)(.)(.) [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) \d+ *(.*)"
)
# How anonymous memory with a name, and internal mounts, which no mountinfo lists, show in maps
# (mm/shmem.c, fs/hugetlbfs/inode.c, ipc/shm.c, mm/secretmem.c). A memfd of huge pages shows as any
# memfd; its pages tell.
_INTERNAL = (
    (b"[anon_shmem:", MappingKind.SHMEM),
    (b"[anon:", MappingKind.ANON),
    (b"/memfd:", MappingKind.SHMEM),
    (b"/dev/zero", MappingKind.SHMEM),
    (b"/SYSV", MappingKind.SHMEM),
    (b"/anon_hugepage", MappingKind.HUGETLB),
    (b"/secretmem", MappingKind.SECRETMEM),
)
_FILE_SYSTEMS = {"tmpfs": MappingKind.SHMEM, "hugetlbfs": MappingKind.HUGETLB}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A process's mappings of guest memory, and what is resident in all of them and others."""

    mappings: tuple[Mapping, ...]
    resident_bytes: int


def read_memory(proc: Path, tgid: int) -> Memory | None:
    """The mappings that may be guest memory: those of 16 MiB or more that can be written and not
    executed, neither heap nor stack nor a device's."""
    try:
        maps = (proc / str(tgid) / "maps").read_bytes()
        status = _status(proc, tgid)
        mounts = _file_systems((proc / str(tgid) / "mountinfo").read_text(errors="replace"))
    except OSError:
        return None
    kib = sum(_kib(status, name) for name in ("VmRSS", "HugetlbPages"))
    return Memory(mappings=tuple(_guest(maps, mounts)), resident_bytes=kib << 10)


def _guest(maps: bytes, mounts: dict[str, str]) -> Iterator[Mapping]:
    for line in maps.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        start, end = int(match[1], 16), int(match[2], 16)
        device = f"{int(match[7], 16)}:{int(match[8], 16)}"
        kind = _kind(match[9], mounts.get(device, ""), on_disk=match[7] != b"00")
        writable = (match[3], match[4], match[5]) == (b"r", b"w", b"-")
        if writable and kind is not None and end - start >= GUEST_BYTES:
            yield Mapping(start=start, end=end, kind=kind, shared=match[6] == b"s")


def _kind(path: bytes, file_system: str, *, on_disk: bool) -> MappingKind | None:
    """None: no guest memory."""
    if not path:
        return MappingKind.ANON
    for prefix, kind in _INTERNAL:
        if path.startswith(prefix):
            return kind
    if not path.startswith(b"/") or _is_device(path):
        return None  # [heap], [stack], anon_inode:[...], /dev/vfio/7
    if file_system in _FILE_SYSTEMS:
        return _FILE_SYSTEMS[file_system]
    # A mount of another namespace, received as a descriptor: of those without a disk, tmpfs.
    return MappingKind.FILE if on_disk or file_system else MappingKind.SHMEM


def _is_device(path: bytes) -> bool:
    return path.startswith(b"/dev/") and not path.startswith((b"/dev/shm/", b"/dev/hugepages"))


def _file_systems(mountinfo: str) -> dict[str, str]:
    """Device number to type (proc_pid_mountinfo(5))."""
    found = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest:
            found[fields.split()[2]] = rest.split()[0]
    return found


# ---- advice ---------------------------------------------------------------------------------


def with_advice(proc: Path, tgid: int, placement: Placement) -> Placement:
    """The same with the advice that is in force, and the memory policy, for each mapping.

    The kernel walks all page tables for it, with the lock of the memory held for reading: 40 ns for
    each page that is mapped by itself, so the caller decides whether that is worth it.
    """
    try:
        flags = _flags((proc / str(tgid) / "smaps").read_bytes())
        policies = _policies(_read_or_nothing(proc / str(tgid) / "numa_maps"))
    except OSError:
        return placement
    mappings = (
        _advised(one, flags.get(one.start), policies.get(one.start)) for one in placement.mappings
    )
    return replace(placement, mappings=tuple(mappings))


def _advised(one: Mapping, flags: frozenset[str] | None, policy: str | None) -> Mapping:
    kind = MappingKind.HUGETLB if flags and "ht" in flags else one.kind
    return replace(one, advice=flags, policy=policy, kind=kind)


def _read_or_nothing(path: Path) -> str:
    """A kernel without CONFIG_NUMA has no such file."""
    return path.read_text(errors="replace") if path.exists() else ""


def _flags(smaps: bytes) -> dict[int, frozenset[str]]:
    found, start = {}, 0
    for line in smaps.splitlines():
        if line.startswith(b"VmFlags:"):
            found[start] = frozenset(line.decode().split()[1:])
        elif match := _LINE.fullmatch(line):
            start = int(match[1], 16)
    return found


def _policies(numa_maps: str) -> dict[int, str]:
    pairs = (line.split()[:2] for line in numa_maps.splitlines())
    return {int(start, 16): policy for start, policy in pairs}


# ---- limits ---------------------------------------------------------------------------------


def read_limits(proc: Path, sysfs: Path, tgid: int, *, managed: bool) -> Limits | None:
    """What may stop it from pinning. `managed`: something raises RLIMIT_MEMLOCK when it must."""
    try:
        status = _status(proc, tgid)
        limits = (proc / str(tgid) / "limits").read_text()
    except OSError:
        return None
    soft = limits.partition("Max locked memory")[2].split()
    return Limits(
        nodes=node_list(status.get("Mems_allowed_list", "")),
        locked_bytes=_kib(status, "VmLck") << 10,
        pinned_bytes=_kib(status, "VmPin") << 10,
        memlock_bytes=int(soft[0]) if soft and soft[0].isdigit() else None,
        may_lock=bool(int(status.get("CapEff", "0"), 16) >> _CAP_IPC_LOCK & 1),
        managed_limit=managed,
        cgroup_bytes=_cgroup_room(proc, sysfs, cgroups.path_of(procfs.cgroup(proc, tgid))),
    )


def _status(proc: Path, tgid: int) -> dict[str, str]:
    lines = (proc / str(tgid) / "status").read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _kib(status: dict[str, str], name: str) -> int:
    return int(status.get(name, "0").split()[0])


def node_list(text: str) -> frozenset[int] | None:
    """Of "0-1,3", as the kernel prints bitmaps; None when there is none."""
    if not text:
        return None
    spans = (part.partition("-") for part in text.strip().split(","))
    return frozenset(
        node for low, _, high in spans for node in range(int(low), int(high or low) + 1)
    )


def _cgroup_room(proc: Path, sysfs: Path, path: str) -> int | None:
    """The least that a cgroup above the process lets it grow by, its page cache counted as room
    (Documentation/admin-guide/cgroup-v2.rst); None when none limits it."""
    top = sysfs / "fs/cgroup"
    group = cgroupfs.directory(proc, sysfs, path) or top
    rooms = []
    while top in group.parents:
        room = _room(group)
        if room is not None:
            rooms.append(room)
        group = group.parent
    return min(rooms, default=None)


def _room(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None  # without this controller, or gone
    if limit == "max":
        return None
    cache = int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))
    return max(int(limit) - used + cache, 0)
