"""A failure for somebody who runs VMs and knows nothing of the kernel: one short paragraph.

Takes a Failure, gives sentences; no numbers that a reader would have to look up.
"""

from __future__ import annotations

from pinwatch.expose.errnos import errno_meaning
from pinwatch.model.failure import Failure, SlowCause, SlowPin
from pinwatch.model.holder import Confidence, Holder, HolderMatch
from pinwatch.model.pin import PinSource
from pinwatch.model.reason import FailureReason, Severity
from pinwatch.model.vm import UNATTRIBUTED, Vm

R, S = FailureReason, PinSource

_FOR_WHOM: dict[PinSource, str] = {
    S.VFIO_TYPE1: "a device that is passed through to it can use it",
    S.IOMMUFD: "a device that is passed through to it can use it",
    S.IO_URING: "io_uring can read and write it directly",
    S.RDMA: "an RDMA adapter can use it",
    S.AF_XDP: "a network card can put packets into it (AF_XDP)",
    S.VHOST_VDPA: "a vDPA device can use it",
    S.VDUSE: "a device in user space can use it (VDUSE)",
    S.UDMABUF: "it can be shared with a device (udmabuf)",
    S.SEV: "the processor can encrypt it (SEV)",
    S.OTHER: "a device can use it",
}

# Why a page had to move at all; the sentence of the reason follows.
_MUST_MOVE = (
    "Some of that memory lies where the host keeps only what it can still move (ZONE_MOVABLE or "
    "CMA), so the kernel had to move it out first. "
)

# What stood in the way of moving a page.
_MOVING: dict[FailureReason, str] = {
    R.EXTRA_REF_PLAIN: (
        "A page could not be moved, because something else on the host was using it at that "
        "moment, and the kernel moves no page that others use."
    ),
    R.EXTRA_REF_PINNED: (
        "A page could not be moved, because something else had already fixed it in place: for "
        "disk or network I/O, for another device, or to read the VM's memory from outside."
    ),
    R.EXTRA_REF_GONE: (
        "A page could not be moved, and an instant later nothing stood in its way: something had "
        "touched it in passing."
    ),
    R.LRU_BATCH_REF: (
        "A page could not be moved, because one of the host's CPUs still had it on a short list "
        "of pages to be sorted later, and being on such a list counts as being used."
    ),
    R.UNMAP_FAILED_PINNED: (
        "A page could not be moved, because something else had already fixed it in place: for "
        "disk or network I/O, for another device, or to read the VM's memory from outside."
    ),
    R.UNMAP_FAILED_OTHER: (
        "A page could not be moved, because the kernel could not take it away from every process "
        "that uses it."
    ),
    R.FOLIO_LOCK_CONTENDED: (
        "A page could not be moved, because something else was working on it each time the kernel"
        " tried: a disk read or write, or a job that drops caches."
    ),
    R.WRITEBACK_BUSY: ("A page could not be moved, because it was being written to disk."),
    R.PRIVATE_BUSY: (
        "A page could not be moved, because it is part of a file, and the file system was still "
        "busy with it."
    ),
    R.FS_MIGRATE_REFUSED: ("This kind of memory can never be moved."),
    R.NO_MIGRATE_OP: (
        "A page could not be moved, because it is part of a file on a file system that cannot "
        "move pages before they are written to disk."
    ),
    R.COPY_POISONED: (
        "A page could not be moved, because the memory under it is defective: its contents can no"
        " longer be read."
    ),
    R.DST_ALLOC_FAILED: (
        "There was no free memory to move a page to. The host may show gigabytes of free memory: "
        "those lie where the page must not stay, or on a part of the machine that the VM may not "
        "use."
    ),
    R.THP_SPLIT_REFS: (
        "That memory consists of huge pages, and no free block of that size was left elsewhere. "
        "So the kernel tried to cut a huge page into small ones, and could not, because something"
        " was using a part of it."
    ),
    R.THP_SPLIT_BUSY: (
        "That memory consists of huge pages, and one had to be cut into small ones to be moved. "
        "That could not be done, because it was being written to disk or its file was being "
        "changed."
    ),
    R.THP_SPLIT_INVAL: (
        "That memory consists of huge pages, and one had to be cut into small ones to be moved. "
        "Its file system does not allow pages that small."
    ),
    R.THP_SPLIT_NOMEM: (
        "That memory consists of huge pages, and one had to be cut into small ones to be moved. "
        "For that the kernel needs a little memory of its own, and had none left."
    ),
    R.SPLIT_SUBPAGE_FAILED: (
        "A huge page was cut into small ones, and one of these was in use just when the kernel "
        "tried to move it. It gives them a single try."
    ),
    R.HUGETLB_REFS: (
        "A huge page of the reserved pool (hugetlb) could not be moved, because something else on"
        " the host was using it."
    ),
    R.HUGETLB_LOCK: (
        "A huge page of the reserved pool (hugetlb) could not be moved, because it was busy, or "
        "because this kernel cannot move huge pages of that size."
    ),
    R.HUGETLB_SUBPOOL_BUSY: (
        "A huge page of the reserved pool (hugetlb) could not be moved, because it was being "
        "given back to the pool: its file had just been deleted."
    ),
    R.HUGETLB_UNSUPPORTED: (
        "This kernel cannot move huge pages of the reserved pool (hugetlb) of that size."
    ),
    R.ISOLATION_LIVELOCK: (
        "The kernel tried to take a page out of use and could not, because something else held on"
        " to it, and started again without end."
    ),
}

# Nothing had to be moved, or it was not what failed.
_OTHERWISE: dict[FailureReason, str] = {
    R.HUGETLB_GRAB_REFUSED: (
        "That memory consists of huge pages of the reserved pool (hugetlb) that lie where the "
        "host keeps only what it can still move (ZONE_MOVABLE or CMA), and this kernel is too old"
        " to move them out."
    ),
    R.DEVICE_COHERENT_FAILED: (
        "Some of that memory lies in the memory of a device, and could not be brought back to the"
        " host's."
    ),
    R.PINNED_IN_PLACE: (
        "Some of that memory lies where the host keeps only what it can still move (ZONE_MOVABLE "
        "or CMA), and an error of this kernel left it there. The VM works; the host can no longer"
        " give that memory to others."
    ),
    R.VMA_ABSENT: ("The VM's program named a range of addresses where it has no memory at all."),
    R.VMA_PERM: (
        "The device wants to write to memory that the VM's program itself may only read, or may "
        "not use at all."
    ),
    R.VMA_IO_PFNMAP: (
        "The range is not memory but the registers or buffers of a device, and those cannot be "
        "fixed in place in this way."
    ),
    R.VMA_SECRETMEM: (
        "The memory is secret memory (memfd_secret), which the kernel shows to nobody else, "
        "devices included."
    ),
    R.FSDAX_REFUSED: (
        "The memory is a file on a disk of persistent memory (DAX), and the file system must stay"
        " free to move the file."
    ),
    R.FILE_WRITE_REFUSED: (
        "The memory is a file on an ordinary disk, which a device would change without the file "
        "system knowing; so the kernel refuses."
    ),
    R.FAULT_OOM: (
        "Part of the memory was not there yet, and could not be had: the host, or the limit that "
        "is set for this VM, has none left that may be used for this."
    ),
    R.FAULT_SIGBUS: (
        "Part of the memory could not be read in: its file is shorter than the memory, the pool "
        "of huge pages is empty, or a disk or memory error came up."
    ),
    R.HWPOISON: ("Part of the memory is defective, and the host has taken it out of use."),
    R.SPECIAL_PTE: (
        "Part of the range is not memory of the host but of a device, and cannot be fixed in "
        "place in this way."
    ),
    R.P2PDMA_REFUSED: (
        "Part of the range is memory of a PCI device that only certain other devices may reach."
    ),
    R.REF_OVERFLOW: (
        "The kernel's count of the users of a page is at its limit or broken; nothing else was "
        "wrong."
    ),
    R.INTERRUPTED: ("The process was killed while the kernel was at work."),
    R.RLIMIT_MEMLOCK: (
        "The process is not allowed to lock that much memory: a limit that is set for it "
        "(RLIMIT_MEMLOCK) is too low. The memory itself was in order."
    ),
    R.VFIO_DMA_EXISTS: (
        "The device already has memory at some of these addresses: the VM's program asked for the"
        " same twice."
    ),
    R.VFIO_DMA_LIMIT: (
        "The VM's memory has been given to devices in so many pieces that the kernel's limit on "
        "their number is reached."
    ),
    R.VFIO_IOVA_INVALID: (
        "The address at which the device is to see the memory is one that it, or the IOMMU in "
        "front of it, cannot reach."
    ),
    R.IOMMU_MAP_FAILED: (
        "The memory was fixed in place, and then the driver of the IOMMU would not let the device"
        " see it."
    ),
    R.BOOKKEEPING_NOMEM: (
        "The memory was fixed in place, and then the kernel had no memory left for its own notes "
        "about it."
    ),
    R.UNKNOWN: ("pinwatch saw that it failed and does not know why: none of its rules fits."),
}

PLAIN = {**_MOVING, **_OTHERWISE}

_NEXT = {
    Severity.TRANSIENT: "Trying again may well work.",
    Severity.LASTING: "Trying again will fail in the same way until something is changed.",
    Severity.FAULTY: "Something is broken (hardware, a driver, the kernel or the VM's program).",
}
# The errno says that memory is short, and it is.
_SHORT_OF_MEMORY = {
    R.DST_ALLOC_FAILED, R.FAULT_OOM, R.BOOKKEEPING_NOMEM, R.THP_SPLIT_NOMEM,
}  # fmt: skip
_BY = {Holder.PIPE: "filled by", Holder.DROP_CACHES: "run by", Holder.PIN: "of"}
ENOMEM = 12


def summary(failure: Failure, size: str) -> str:
    """The paragraph. `size`: how much memory, in words."""
    pin, reason = failure.pin, failure.reason
    moving = reason in _MOVING
    sentences = [
        f"{_who(failure.vm)} needed {size} of its memory to stay in one place, so that "
        f"{_FOR_WHOM[pin.source]}.",
        (_MUST_MOVE if moving else "") + PLAIN[reason],
        _told(pin.errno, reason, moving=moving),
    ]
    if reason.about_references:
        sentences += _in_the_way(failure.holder, PLAIN[reason])
    sentences.append(_NEXT[reason.severity])
    return " ".join(sentences)


def slow_summary(slow: SlowPin, size: str, took: str) -> str:
    """The same for a pin that worked."""
    text = (
        f"{_who(slow.vm)} needed {size} of its memory to stay in one place, so that "
        f"{_FOR_WHOM[slow.pin.source]}. It worked, but took {took}"
    )
    if slow.cause is SlowCause.IN_PLACE:
        return f"{text}. {PLAIN[R.PINNED_IN_PLACE]}"
    if slow.cause is SlowCause.WORK:
        return f"{text}, which copying and clearing that much memory can take."
    return f"{text}, most of it waiting {slow.cause.words}. The VM stood still meanwhile."


def _who(vm: Vm) -> str:
    if vm == UNATTRIBUTED:
        return "A process that pinwatch could not name"
    return f"VM {vm.name}" if vm.is_one else "A process that is no VM"


def _told(errno: int, reason: FailureReason, *, moving: bool) -> str:
    text = "One page is enough: the whole request failed" if moving else "The request failed"
    text += f", and all that the program was told is “{errno_meaning(errno)}”"
    not_short = errno == ENOMEM and reason not in _SHORT_OF_MEMORY
    return text + (", although memory was not short." if not_short else ".")


def _in_the_way(match: HolderMatch, told: str) -> tuple[str, ...]:
    """Nothing when nobody is known and nobody was spoken of."""
    if match.holder is Holder.UNKNOWN:
        return ("pinwatch did not see what that was.",) if "something" in told else ()
    name = match.holder.words
    if match.comm:
        name += f", {_BY.get(match.holder, 'by')} {match.comm} (pid {match.tgid})"
    if match.parent_comm:
        name += f", which {match.parent_comm} (pid {match.parent_tgid}) started"
    if match.confidence is Confidence.EXACT:
        return (f"In the way was {name}: it was at this very page.",)
    return (f"In the way was probably {name}: it was active at the time.",)
