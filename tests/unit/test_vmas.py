"""What /proc says of a process's memory: texts as kernels print them (fs/proc/task_mmu.c)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinwatch.host import vmas
from pinwatch.model.event import MappingKind
from pinwatch.model.placement import Limits, Mapping, Placement
from tests.unit.memory_tree import TGID, Tree

GIB, MIB = 1 << 30, 1 << 20
START = 0x7F2A_4000_0000


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def line(rest: str, size: int = GIB, start: int = START) -> str:
    return f"{start:x}-{start + size:x} {rest}"


def mappings(tree: Tree, *lines: str) -> tuple[Mapping, ...]:
    maps = tree.proc / str(TGID) / "maps"
    maps.write_bytes("".join(f"{one}\n" for one in lines).encode(errors="surrogateescape"))
    memory = vmas.read_memory(tree.proc, TGID)
    assert memory is not None
    return memory.mappings


def kinds(tree: Tree, *lines: str) -> list[MappingKind]:
    return [one.kind for one in mappings(tree, *lines)]


@pytest.mark.parametrize(
    ("rest", "kind", "shared"),
    [
        ("rw-p 00000000 00:00 0 ", MappingKind.ANON, False),
        ("rw-s 00000000 00:01 1024                     /dev/zero (deleted)", "shmem", True),
        ("rw-p 00000000 00:00 0                        [anon:pc.ram]", MappingKind.ANON, False),
        ("rw-s 00000000 00:00 0                  [anon_shmem:pc.ram]", "shmem", True),
        ("rw-s 00000000 00:01 2058          /memfd:memory-backend-memfd (deleted)", "shmem", True),
        ("rw-s 00000000 00:17 3               /dev/shm/qemu back-end.ABC (deleted)", "shmem", True),
        ("rw-s 00000000 00:28 9        /dev/hugepages/libvirt/qemu/1-db/ram (deleted)", "hugetlb",
         True),
        ("rw-s 00000000 00:0f 9                      /anon_hugepage (deleted)", "hugetlb", True),
        ("rw-p 00000000 00:0f 9                      /anon_hugepage (deleted)", "hugetlb", False),
        ("rw-s 00000000 00:01 32770                      /SYSV00000000 (deleted)", "shmem", True),
        ("rw-s 00000000 00:0d 5                      /secretmem (deleted)", "secretmem", True),
        ("rw-s 00000000 08:01 131                    /var/lib/vm/ram.img", "file", True),
        ("rw-p 00000000 fd:00 131                    /var/lib/vm/ram.img (deleted)", "file", False),
        ("rw-s 00000000 00:99 131                /run/another/namespace/ram", "shmem", True),
        ("rw-s 00000000 08:01 131              /var/a path\\012of two lines\\134", "file", True),
        ("rw-s 00000000 08:01 131              /var/ram-\udcff\udcfe.img", "file", True),
        ("rw-s 00000000 08:01 131              /var/\x1b[2J.img", "file", True),
        ("rw-s 00000000 08:01 131              /var/\x85\u2028.img", "file", True),
    ],
)  # fmt: skip
def test_guest_memory(tree: Tree, rest: str, kind: str, shared: bool) -> None:
    (found,) = mappings(tree, line(rest))
    assert found == Mapping(start=START, end=START + GIB, kind=MappingKind(kind), shared=shared)


@pytest.mark.parametrize(
    "rest",
    [
        "rw-s 200000000 00:0e 1057          anon_inode:[vfio-device]",
        "rw-s 00000000 00:06 640                        /dev/vfio/7",
        "rw-s 00000000 00:0e 1057              anon_inode:kvm-vcpu:0",
        "rw-p 00000000 00:00 0                              [heap]",
        "rw-p 00000000 00:00 0                             [stack]",
        "r--s 00000000 08:01 131                    /usr/share/OVMF/OVMF_CODE.fd",
        "rwxp 00000000 00:00 0 ",
        "---p 00000000 00:00 0 ",
    ],
)
def test_what_is_no_guest_memory(tree: Tree, rest: str) -> None:
    assert mappings(tree, line(rest)) == ()


def test_small_mappings_are_the_vmms_own(tree: Tree) -> None:
    rest = "rw-p 00000000 00:00 0 "
    assert mappings(tree, line(rest, 16 * MIB - 4096)) == ()
    assert len(mappings(tree, line(rest, 16 * MIB))) == 1


def test_what_is_resident_counts_hugetlb(tree: Tree) -> None:
    memory = vmas.read_memory(tree.proc, TGID)
    assert memory is not None
    assert memory.resident_bytes == (102400 + 2048) << 10


def test_a_process_that_is_gone(tree: Tree) -> None:
    assert vmas.read_memory(tree.proc, 1) is None
    assert vmas.read_limits(tree.proc, tree.sys, 1, managed=False) is None


# ---- advice ----------------------------------------------------------------------------------

SMAPS = """\
7f2a40000000-7f2a80000000 rw-s 00000000 00:01 1026                       /memfd:pc.ram (deleted)
Size:            1048576 kB
KernelPageSize:        4 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd wr sh mr mw me ms dc hg mg sd lo
"""
NUMA_MAPS = "7f2a40000000 bind:0-1 file=/memfd:pc.ram\\040(deleted) dirty=262144 N0=262144\n"


def advised(tree: Tree) -> Mapping:
    plain = Mapping(start=START, end=START + GIB, kind=MappingKind.SHMEM, shared=True)
    place = Placement(mappings=(plain,), portions=())
    return vmas.with_advice(tree.proc, TGID, place).mappings[0]


def test_advice_that_is_in_force(tree: Tree) -> None:
    tree.write(f"proc/{TGID}/smaps", SMAPS)
    tree.write(f"proc/{TGID}/numa_maps", NUMA_MAPS)
    found = advised(tree)
    assert found.advice is not None
    assert {"hg", "lo", "mg"} <= found.advice
    assert (found.policy, found.kind) == ("bind:0-1", MappingKind.SHMEM)


def test_a_memfd_of_huge_pages_is_told_by_its_flags(tree: Tree) -> None:
    tree.write(f"proc/{TGID}/smaps", SMAPS.replace(" hg ", " ht "))
    assert advised(tree).kind is MappingKind.HUGETLB


def test_a_kernel_without_numa_and_a_process_without_smaps(tree: Tree) -> None:
    assert advised(tree).advice is None
    tree.write(f"proc/{TGID}/smaps", SMAPS)
    assert advised(tree).policy is None


# ---- limits ----------------------------------------------------------------------------------


def limits(tree: Tree, **changes: bool) -> Limits:
    found = vmas.read_limits(tree.proc, tree.sys, TGID, managed=changes.get("managed", False))
    assert found is not None
    return found


def test_limits_of_a_process(tree: Tree) -> None:
    assert limits(tree) == Limits(
        nodes=frozenset({0, 1}), locked_bytes=0, pinned_bytes=16 << 10, memlock_bytes=64 * MIB,
        may_lock=False, managed_limit=False, cgroup_bytes=None,
    )  # fmt: skip


def test_no_limit_and_the_right_to_lock(tree: Tree) -> None:
    text = "Max locked memory         unlimited            unlimited            bytes     \n"
    tree.write(f"proc/{TGID}/limits", text)
    status = (tree.proc / str(TGID) / "status").read_text()
    tree.write(f"proc/{TGID}/status", status.replace("CapEff:\t0000000000000000",
                                                     "CapEff:\t0000000000004000"))  # fmt: skip
    found = limits(tree, managed=True)
    assert (found.memlock_bytes, found.may_lock, found.managed_limit) == (None, True, True)


def group(tree: Tree, path: str, most: str, used: int, cache: int = 0) -> None:
    top = f"sys/fs/cgroup{path}"
    tree.write(f"{top}/memory.max", f"{most}\n")
    tree.write(f"{top}/memory.current", f"{used}\n")
    tree.write(
        f"{top}/memory.stat", f"anon 5\nfile 9\ninactive_file {cache}\nactive_file 0\n"
    )  # fmt: skip


def test_the_room_is_that_of_the_tightest_cgroup(tree: Tree) -> None:
    """Page cache counts as room; a parent may be tighter."""
    group(tree, "/machine.slice/vm.scope", str(10 * MIB), 6 * MIB, MIB)
    assert limits(tree).cgroup_bytes == 5 * MIB
    group(tree, "/machine.slice", str(20 * MIB), 18 * MIB)
    assert limits(tree).cgroup_bytes == 2 * MIB
    group(tree, "/machine.slice", "max", 18 * MIB)
    assert limits(tree).cgroup_bytes == 5 * MIB
    group(tree, "/machine.slice/vm.scope", str(MIB), 6 * MIB)
    assert limits(tree).cgroup_bytes == 0


VM_IN_POD = "kubepods-pod5d3f.slice/cri-containerd-2222.scope"


@pytest.mark.parametrize(
    ("shown", "init", "where"),
    [
        # a guaranteed pod, a pod of our own class, with systemd's names and without
        (f"/../../../{VM_IN_POD}", "/../../../../init.scope", f"kubepods.slice/{VM_IN_POD}"),
        (f"/../../{VM_IN_POD}", "/../../../../init.scope", f"kubepods.slice/burst/{VM_IN_POD}"),
        ("/../../pod5d3f/2222", "/../../../..", "kubepods/burstable/pod5d3f/2222"),
        ("/../../../../machine.slice/machine-qemu\\x2d3\\x2dweb.scope", "/../../../../init.scope",
         "machine.slice/machine-qemu\\x2d3\\x2dweb.scope"),
    ],
)  # fmt: skip
def test_a_cgroup_is_found_from_within_a_container(
    tree: Tree, shown: str, init: str, where: str
) -> None:
    """Read in a cgroup namespace of its own, with the host's tree at /sys/fs/cgroup."""
    tree.write("proc/1/cgroup", f"0::{init}\n")
    tree.write(f"proc/{TGID}/cgroup", f"0::{shown}\n")
    group(tree, f"/{where}", str(9 * MIB), 4 * MIB)
    assert limits(tree).cgroup_bytes == 5 * MIB


def test_a_cgroup_that_may_be_one_of_two_limits_nothing(tree: Tree) -> None:
    tree.write("proc/1/cgroup", "0::/../../../../init.scope\n")
    tree.write(f"proc/{TGID}/cgroup", "0::/../../../other\n")
    for parent in ("a", "b"):
        group(tree, f"/{parent}/other", str(9 * MIB), 4 * MIB)
    assert limits(tree).cgroup_bytes is None


def test_a_cgroup_outside_of_what_we_see_limits_nothing(tree: Tree) -> None:
    tree.write(f"proc/{TGID}/cgroup", "0::/../../other\n")
    assert limits(tree).cgroup_bytes is None


@pytest.mark.parametrize(
    ("text", "nodes"),
    [("0", {0}), ("0-1,3\n", {0, 1, 3}), ("2-4", {2, 3, 4}), ("", None)],
)
def test_lists_of_nodes(text: str, nodes: set[int] | None) -> None:
    assert vmas.node_list(text) == nodes
