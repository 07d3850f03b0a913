"""What to type: commands for a failure, complete with its own numbers and names.

Takes a Failure, gives commands for a shell of root. Names of VMs are others' text: one that a shell
would not take as it is, is never part of a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pinwatch.model.event import MappingKind
from pinwatch.model.failure import Failure
from pinwatch.model.holder import Holder
from pinwatch.model.reason import FailureReason, Severity
from pinwatch.model.vm import Platform

R = FailureReason
PAGE_SIZE = 4096
_TAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+@:-]*")
_COMPACT = "echo 1 > /proc/sys/vm/compact_memory"
_LIBVIRT = (Platform.LIBVIRT, Platform.OPENSTACK)
_HUGE_SIZES = {9: "2M", 18: "1G"}


@dataclass(frozen=True, slots=True)
class Command:
    """A line for a shell, and what it is for."""

    what: str
    run: str


def commands(failure: Failure) -> tuple[Command, ...]:
    """In the order in which to try them."""
    return (*_about_holder(failure), *_about_reason(failure), *_again(failure))


# ---- who is in the way ----------------------------------------------------------------------

_STOP = {
    Holder.KSMD: Command("stop merging of equal pages", "echo 0 > /sys/kernel/mm/ksm/run"),
    Holder.KHUGEPAGED: Command(
        "keep khugepaged from making huge pages meanwhile",
        "echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/defrag",
    ),
    Holder.NUMA_BALANCING: Command(
        "stop moving memory between nodes", "echo 0 > /proc/sys/kernel/numa_balancing"
    ),
    Holder.LRU_BATCH: Command("empty the batches of all CPUs", _COMPACT),
    Holder.MLOCK_BATCH: Command("empty the batches of all CPUs", _COMPACT),
    Holder.DROP_CACHES: Command(
        "find the job that does it",
        "grep -rsl drop_caches /etc /var/spool/cron /usr/local /opt /root",
    ),
}


def _about_holder(failure: Failure) -> Iterator[Command]:
    match = failure.holder
    if match.tgid and match.holder is not Holder.MEMORY_FAILURE:
        pids = ",".join(str(pid) for pid in (match.tgid, match.parent_tgid) if pid > 1)
        if pids:
            yield Command("who that is", f"ps -o pid,ppid,lstart,args -p {pids}")
    if match.holder is Holder.PIPE and match.tgid:
        yield Command("its pipes, of which one is not read", f"ls -l /proc/{match.tgid}/fd")
    if match.holder in _STOP:
        yield _STOP[match.holder]


# ---- what is wrong --------------------------------------------------------------------------

_KERNEL_LOG = "journalctl -k -b --no-pager --grep"
_FIXED = {
    R.VFIO_DMA_LIMIT: (
        Command("the limit", "cat /sys/module/vfio_iommu_type1/parameters/dma_entry_limit"),
        Command(
            "twice the usual one, for VMs that start afterwards",
            "echo 131070 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
        ),
    ),
    R.THP_SPLIT_NOMEM: (Command("what is free", "free -m"),),
    R.BOOKKEEPING_NOMEM: (Command("what is free", "free -m"),),
    R.IOMMU_MAP_FAILED: (
        Command("what the driver said", f"{_KERNEL_LOG} 'iommu|DMAR|AMD-Vi|smmu'"),
    ),
    R.REF_OVERFLOW: (Command("the kernel's warning", f"{_KERNEL_LOG} 'WARNING|gup'"),),
    R.UNKNOWN: (
        Command("a file without names, for a report", "pinwatch record --redact -o report.gz"),
    ),
}
_DEFECTIVE = (R.COPY_POISONED, R.HWPOISON)
_OF_FILES = (R.WRITEBACK_BUSY, R.PRIVATE_BUSY, R.NO_MIGRATE_OP, R.THP_SPLIT_BUSY)
_OF_HUGE_PAGES = (R.THP_SPLIT_REFS, R.THP_SPLIT_INVAL)
_OF_THE_POOL = (
    R.HUGETLB_REFS, R.HUGETLB_LOCK, R.HUGETLB_UNSUPPORTED, R.HUGETLB_GRAB_REFUSED,
)  # fmt: skip
_OF_THE_VMM = (R.VMA_ABSENT, R.VMA_PERM, R.VFIO_DMA_EXISTS)


def _about_reason(failure: Failure) -> Iterator[Command]:
    reason = failure.reason
    yield from _FIXED.get(reason, ())
    if reason is R.RLIMIT_MEMLOCK:
        yield _more_memlock(failure)
    elif reason is R.DST_ALLOC_FAILED:
        yield from _no_destination(failure)
    elif reason is R.FAULT_OOM:
        yield Command(
            "its unit and limits, if it still runs", f"systemctl status {failure.pin.task.key.tgid}"
        )
        yield Command("what is free where", "grep -E '^Node|pages free|managed' /proc/zoneinfo")
    elif reason is R.FAULT_SIGBUS:
        yield Command("the pool of huge pages", "grep Huge /proc/meminfo")
        yield Command("errors", f"{_KERNEL_LOG} 'I/O error|Memory failure|Hardware Error'")
    elif reason in _DEFECTIVE:
        yield Command("what the hardware said", f"{_KERNEL_LOG} 'Hardware Error|EDAC|mce'")
        yield Command("how much is out of use", "grep HardwareCorrupted /proc/meminfo")
    elif reason in _OF_FILES and _is_file(failure):
        yield Command("write all files to disk before the next try", "sync")
    elif reason in _OF_HUGE_PAGES:
        yield from _huge_pages(failure)
    elif reason in _OF_THE_POOL:
        yield _pool_at_boot(failure)
    elif reason is R.VFIO_IOVA_INVALID:
        groups = [one.iommu_group for one in failure.devices if one.iommu_group] or ["*"]
        paths = " ".join(f"/sys/kernel/iommu_groups/{one}/reserved_regions" for one in groups)
        yield Command("what the device cannot reach", f"grep . {paths}")
    elif reason is R.ISOLATION_LIVELOCK:
        yield Command("end it", f"kill -KILL {failure.pin.task.key.tgid}")
    elif reason in _OF_THE_VMM and failure.vm.platform in _LIBVIRT and (name := _tame(failure)):
        yield Command("what QEMU said", f"less /var/log/libvirt/qemu/{name}.log")


def _is_file(failure: Failure) -> bool:
    kinds = {folio.facts.kind for folio in failure.folios}
    return not kinds or MappingKind.FILE in kinds


def _more_memlock(failure: Failure) -> Command:
    """In KiB, which both want; 1 GiB more for device regions, as libvirt adds."""
    lock = failure.pin.memlock
    used = max(lock.locked_pages, lock.pinned_pages, lock.user_pages)
    kib = (used * PAGE_SIZE + failure.pin.length_bytes) // 1024 + (1 << 20)
    name = _tame(failure)
    if failure.vm.platform in _LIBVIRT and name:
        return Command("the limit, at least", f"virsh memtune {name} --hard-limit {kib} --config")
    return Command("in the shell that starts the VMM, at least", f"ulimit -l {kib}")


def _no_destination(failure: Failure) -> Iterator[Command]:
    if failure.pin.dst_order:
        yield Command("make larger blocks of what is free", _COMPACT)
    name = _tame(failure)
    if failure.vm.is_one and name:
        yield Command("what is there for this VM, and what it needs", f"pinwatch check {name}")
    yield Command("what is free where", "grep -E '^Node|pages free|managed' /proc/zoneinfo")


def _huge_pages(failure: Failure) -> Iterator[Command]:
    yield Command("make free huge blocks", _COMPACT)
    kinds = {folio.facts.kind for folio in failure.folios}
    path = "/sys/kernel/mm/transparent_hugepage"
    if MappingKind.SHMEM in kinds:
        yield Command("small pages for VMs that start afterwards",
                      f"echo never > {path}/shmem_enabled")  # fmt: skip
    elif MappingKind.ANON in kinds:
        yield Command("small pages for VMs that start afterwards", f"echo madvise > {path}/enabled")


def _pool_at_boot(failure: Failure) -> Command:
    """Pages that are reserved at boot lie outside of CMA and ZONE_MOVABLE."""
    order = failure.primary.facts.order if failure.primary else 9
    pages = max(failure.pin.length_bytes >> (12 + order), 1)
    size = _HUGE_SIZES.get(order, f"{4 << order}K")
    return Command(
        "kernel parameters for the next boot, with the pages of this request",
        f"hugepagesz={size} hugepages={pages}",
    )


# ---- again ----------------------------------------------------------------------------------


def _again(failure: Failure) -> Iterator[Command]:
    """How to start this VM again, where its platform has a command."""
    vm, name = failure.vm, _tame(failure)
    if failure.reason.severity is not Severity.TRANSIENT or not name:
        return
    if vm.platform is Platform.LIBVIRT:
        yield Command("try again", f"virsh start {name}")
    elif vm.platform is Platform.OPENSTACK and _TAME.fullmatch(vm.uuid):
        yield Command("try again", f"openstack server reboot --hard {vm.uuid}")
    elif vm.platform is Platform.PROXMOX and vm.alias.isdecimal():
        yield Command("try again", f"qm start {vm.alias}")
    elif vm.platform is Platform.KUBEVIRT and _TAME.fullmatch(f"{vm.alias}.{vm.project}"):
        yield Command("try again", f"virtctl restart {vm.alias} -n {vm.project}")


def _tame(failure: Failure) -> str:
    """The VM's name, if a shell takes it as it is; else its uuid, or nothing."""
    vm = failure.vm
    return next((one for one in (vm.name, vm.uuid) if _TAME.fullmatch(one)), "")
