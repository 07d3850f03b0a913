"""Causes of failing pins, each made to happen: `python -m tests.lab.inside.causes NAME`.

One runs in a process of its own, because pinwatch counts by process, and says in one JSON line what
it got.  `--all` runs all that this kernel can, each with 60 s, and sends an event for each.
`--witness` adds what the kernel's functions returned to the processes of the cause.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.lab import channel
from tests.lab.inside import (
    apart,
    cause_files,
    cause_references,
    cause_refusals,
    vfio,
    witness,
)
from tests.lab.inside.cause import Cause, running_kernel

TIMEOUT_S = 60
_SINCE_6_12 = ("6.12", "7.2")

_ALL = (
    Cause(
        name="extra_ref_plain",
        reason="extra_ref_plain",
        errno="ENOMEM",
        run=cause_references.by_pipe,
    ),
    Cause(
        name="extra_ref_pinned",
        reason="extra_ref_pinned",
        errno="ENOMEM",
        run=cause_references.by_process_vm_readv,
        needs="userfaultfd",
    ),
    Cause(
        name="extra_ref_pinned-direct_io",
        reason="extra_ref_pinned",
        errno="ENOMEM",
        run=cause_references.by_direct_io,
        kernels=_SINCE_6_12,
        why_not="6.1 takes plain references for O_DIRECT",
        needs="dm-delay",
    ),
    Cause(
        name="extra_ref_plain-direct_io",
        reason="extra_ref_plain",
        errno="ENOMEM",
        run=cause_references.by_direct_io,
        kernels=("6.1",),
        why_not="since 6.5 or so O_DIRECT pins",
        needs="dm-delay",
    ),
    Cause(
        name="unmap_failed_pinned",
        reason="unmap_failed_pinned",
        errno="ENOMEM",
        run=cause_references.anonymous_by_process_vm_readv,
        needs="userfaultfd",
    ),
    Cause(
        name="dst_alloc_failed",
        reason="dst_alloc_failed",
        errno="ENOMEM",
        run=cause_references.no_destination,
        needs="a node that is all ZONE_MOVABLE",
    ),
    Cause(
        name="dst_alloc_failed-hugetlb",
        reason="dst_alloc_failed",
        errno="ENOMEM",
        run=cause_references.no_hugetlb_destination,
        kernels=_SINCE_6_12,
        why_not="6.1 cannot pin a hugetlb page of ZONE_MOVABLE at all: hugetlb_grab_refused",
        needs="a node that is all ZONE_MOVABLE",
    ),
    Cause(
        name="hugetlb_refs",
        reason="hugetlb_refs",
        errno="ENOMEM",
        run=cause_references.hugetlb_by_pipe,
        kernels=_SINCE_6_12,
        why_not="6.1 cannot pin a hugetlb page of ZONE_MOVABLE at all: hugetlb_grab_refused",
    ),
    Cause(
        name="hugetlb_grab_refused",
        reason="hugetlb_grab_refused",
        errno="ENOMEM",
        run=cause_references.hugetlb_in_movable,
        kernels=("6.1",),
        why_not="fixed: the page is taken, then migrated",
    ),
    Cause(
        name="lru_batch_ref",
        reason="lru_batch_ref",
        errno="ENOMEM",
        run=cause_references.in_mlock_batch,
        needs="two CPUs; a race",
    ),
    Cause(
        name="isolation_livelock",
        reason="isolation_livelock",
        errno="0",
        run=cause_files.isolation_livelock,
        needs="dm-delay, two nodes",
    ),
    Cause(
        name="isolation_livelock-killed",
        reason="isolation_livelock",
        errno="EINTR",
        run=cause_files.killed_livelock,
        needs="dm-delay, two nodes",
    ),
    Cause(
        name="interrupted",
        reason="interrupted",
        errno="EINTR",
        run=cause_files.interrupted,
        needs="dm-delay",
    ),
    Cause(
        name="slow-writeback",
        reason="",
        errno="0",
        run=cause_files.slow_writeback,
        needs="dm-delay",
    ),
    Cause(
        name="private_busy",
        reason="private_busy",
        errno="ENOMEM",
        run=cause_files.journal_buffers,
    ),
    Cause(
        name="thp_split_busy",
        reason="thp_split_busy",
        errno="ENOMEM",
        run=cause_files.split_under_writeback,
        kernels=("7.2",),
        why_not="ext4 has no large folios",
        needs="dm-delay, a node that is all ZONE_MOVABLE",
    ),
    Cause(
        name="no_migrate_op-nilfs2",
        reason="no_migrate_op",
        errno="ENOMEM",
        run=cause_files.dirty_on_nilfs2,
        kernels=("6.12",),
        why_not="6.1: a race with its segment writer; 7.2: all that can be mapped dirty has it",
        needs="nilfs-tools",
    ),
    Cause(
        name="vma_absent",
        reason="vma_absent",
        errno="EFAULT",
        run=cause_refusals.hole,
    ),
    Cause(
        name="vma_perm",
        reason="vma_perm",
        errno="EFAULT",
        run=cause_refusals.read_only,
    ),
    Cause(
        name="vma_io_pfnmap",
        reason="vma_io_pfnmap",
        errno="EFAULT",
        source="io_uring",
        run=cause_refusals.pci_bar,
    ),
    Cause(
        name="vma_secretmem",
        reason="vma_secretmem",
        errno="EFAULT",
        run=cause_refusals.secret,
        needs="secretmem.enable=1 (6.1)",
    ),
    Cause(
        name="fsdax_refused",
        reason="fsdax_refused",
        errno="EOPNOTSUPP",
        run=cause_files.direct_access,
        needs="memmap=SIZE!START",
    ),
    Cause(
        name="file_write_refused",
        reason="file_write_refused",
        errno="EFAULT",
        run=cause_files.writable_file,
        kernels=_SINCE_6_12,
        why_not="6.1 allows it",
    ),
    Cause(
        name="fault_sigbus",
        reason="fault_sigbus",
        errno="EFAULT",
        run=cause_refusals.beyond_the_end,
    ),
    Cause(
        name="fault_oom",
        reason="fault_oom",
        errno="ENOMEM",
        run=cause_refusals.out_of_memory,
    ),
    Cause(
        name="bookkeeping_nomem",
        reason="bookkeeping_nomem",
        errno="ENOMEM",
        run=cause_refusals.out_of_page_tables,
        kernels=_SINCE_6_12,
        why_not="6.1 charges no cgroup for the IOMMU's page tables",
    ),
    Cause(
        name="fault_sigbus-hwpoison",
        reason="fault_sigbus",  # VFIO does not ask GUP to tell a memory error apart
        errno="EFAULT",
        run=cause_refusals.poisoned,
    ),
    Cause(
        name="rlimit_memlock",
        reason="rlimit_memlock",
        errno="ENOMEM",
        run=cause_refusals.memlock,
    ),
    Cause(
        name="rlimit_memlock-io_uring",
        reason="rlimit_memlock",
        errno="ENOMEM",
        source="io_uring",
        run=cause_refusals.memlock_io_uring,
    ),
    Cause(
        name="vfio_dma_exists",
        reason="vfio_dma_exists",
        errno="EEXIST",
        run=cause_refusals.twice,
    ),
    Cause(
        name="vfio_dma_limit",
        reason="vfio_dma_limit",
        errno="ENOSPC",
        run=cause_refusals.too_many,
    ),
    Cause(
        name="vfio_iova_invalid",
        reason="vfio_iova_invalid",
        errno="EINVAL",
        run=cause_refusals.beyond_the_aperture,
    ),
    Cause(
        name="vfio_iova_invalid-misaligned",
        reason="vfio_iova_invalid",
        errno="EINVAL",
        run=cause_refusals.misaligned,
    ),
)

# Reasons for which nothing here is sure to work, and why.
WITHOUT_RECIPE = {
    "writeback_busy": "synchronous passes wait for writeback: slow (slow-writeback), no failure",
    "folio_lock_contended": "synchronous passes wait for the lock; who holds it for long has "
    "isolated the page as well, so the pin spins before it comes to the lock",
    "split_subpage_failed": "a reference must come in the microseconds between a split and the "
    "one pass over its pages, in a kernel zone that has small blocks and no huge ones",
    "extra_ref_gone": "a reference that lasts microseconds, and a pass that meets it last",
    "copy_poisoned": "memory that breaks while it is copied",
    "device_coherent_failed": "memory of a device that the CPU reads as its own",
    "p2pdma_refused": "memory of a PCI device that lends it to others",
    "special_pte": "a driver that maps single pages without struct page into a plain VMA",
    "hwpoison": "VFIO and io_uring do not ask for it: they get fault_sigbus (see there)",
    "iommu_map_failed": "an IOMMU driver that refuses for another reason than memory",
    "ref_overflow": "two thousand million references to one page",
    "fs_migrate_refused": "such pages are not allocated where they would have to move",
    "hugetlb_subpool_busy": "a file removed in the moment between two looks",
    "hugetlb_lock": "a lock that is held for a moment",
    "hugetlb_unsupported": "x86 can move all its sizes; told as hugetlb_lock",
    "thp_split_inval": "a file system that needs larger pages than the machine's",
    "thp_split_nomem": "the kernel's own small allocations do not fail",
    "unmap_failed_other": "a page table that changes while it is walked",
    "pinned_in_place": "no kernel here has 1aaf8c122918 without its revert",
    "unknown": "what is known would have a rule",
}

CAUSES: dict[str, Cause] = {cause.name: cause for cause in _ALL}


def run_one(name: str) -> dict[str, Any]:
    """The cause in this very process."""
    cause = CAUSES[name]
    if not Path("/sys/module/vfio_iommu_type1").exists():
        vfio.load_modules()
    before = _vmstat()
    began = time.monotonic()
    result = cause.run()
    seconds = time.monotonic() - began
    after = _vmstat()
    moved = {key: after[key] - before[key] for key in after if after[key] != before[key]}
    return {"cause": name, "pid": os.getpid(), **result, "seconds": seconds, "vmstat": moved}


def _vmstat() -> dict[str, int]:
    """What the kernel counts about pins and migration.  (host.py needs what pinwatch needs.)"""
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    pairs = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {k: int(v) for k, v in pairs if k.startswith(("pgmigrate_", "thp_", "nr_foll_pin_"))}


def run_all(names: list[str], *, with_witness: bool) -> int:
    """Each cause that this kernel can have; how many gave another errno than expected."""
    kernel, wrong = running_kernel(), 0
    vfio.load_modules()  # before the probes: they are in it
    with witness.probes(wanted=with_witness) as probes:
        for cause in [CAUSES[name] for name in names] if names else _ALL:
            if kernel not in cause.kernels:
                continue
            result = apart.run(__spec__.name, cause.name, timeout_s=TIMEOUT_S)
            if probes and "pid" in result:
                result["witness"] = witness.counts(probes, result["pid"])
            expected = cause.expected_errno(kernel)
            as_expected = result.get("errno") == (
                getattr(errno, expected) if expected != "0" else 0
            )
            wrong += not as_expected
            channel.send(
                "cause", name=cause.name, expected=expected, as_expected=as_expected, result=result
            )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="all (or the named), each apart")
    parser.add_argument("--witness", action="store_true", help="with --all: kernel return values")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in CAUSES]:
        parser.error(f"no cause {unknown}; there are {', '.join(CAUSES)}")
    if arguments.all:
        return run_all(arguments.names, with_witness=arguments.witness)
    for name in arguments.names:
        print(json.dumps(run_one(name)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
