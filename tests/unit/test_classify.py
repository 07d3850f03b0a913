"""Reasons and holders, on facts made by hand after docs of the kernel's own tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pinwatch.classify import holders, references, rules, slow
from pinwatch.model.event import Activity, MappingKind, Memlock, RefusedVma, Seen
from pinwatch.model.failure import SlowCause
from pinwatch.model.holder import Confidence, Holder, HolderMatch
from pinwatch.model.pin import PinSource
from pinwatch.model.reason import FailureReason
from tests.unit.make import TASK, activity, folio, open_pin, pin, slow_pin

R = FailureReason
SPLIT = {"order": 9, "seen": Seen.SPLIT, "errno": 11, "cache_refs": 512, "mapcount": 1,
         "refcount": 515, "pincount": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected", "pins", "plain"),
    [
        ({}, 2, 0, 1),
        ({"refcount": 2}, 2, 0, 0),
        ({"refcount": 3 + 1024}, 2, 1, 1),
        ({"kind": MappingKind.ANON, "cache_refs": 0, "mapcount": 1, "refcount": 2}, 2, 0, 0),
        ({"private": True, "refcount": 4}, 3, 0, 1),
        ({"kind": MappingKind.NONE, "private": True, "cache_refs": 0}, 1, 0, 2),
        (SPLIT, 514, 0, 1),
        ({**SPLIT, "refcount": 514 + 3, "pincount": 2}, 514, 2, 1),
    ],
)
def test_references(changes: dict[str, Any], expected: int, pins: int, plain: int) -> None:
    counted = references.count(folio(**changes))
    assert (counted.expected, counted.pins, counted.plain) == (expected, pins, plain)


HUGETLB = {"kind": MappingKind.HUGETLB, "order": 9, "cache_refs": 512, "mapcount": 1,
           "refcount": 514, "pincount": 0}  # fmt: skip
GONE = {"refcount": 2}

# What a folio looked like when it could not be moved, for each reason that a folio can give.
FOLIOS: list[tuple[dict[str, Any], FailureReason]] = [
    ({}, R.EXTRA_REF_PLAIN),
    ({"seen": Seen.LEFT}, R.EXTRA_REF_PLAIN),
    ({"refcount": 2 + 1024}, R.EXTRA_REF_PINNED),
    (GONE, R.EXTRA_REF_GONE),
    ({**GONE, "seen": Seen.LEFT}, R.EXTRA_REF_GONE),
    ({"lru_batch": "mlock_fbatch.fbatch"}, R.LRU_BATCH_REF),
    # the batch explains one of two, both
    ({"lru_batch": "mlock_fbatch.fbatch", "refcount": 4}, R.EXTRA_REF_PLAIN),
    ({"lru_batch": "mlock_fbatch.fbatch", "lru_batch_refs": 2, "refcount": 4}, R.LRU_BATCH_REF),
    (
        {"kind": MappingKind.ANON, "refcount": 2 + 1024, "mapcount": 1, "cache_refs": 0},
        R.UNMAP_FAILED_PINNED,
    ),
    ({"mapcount": 1, "refcount": 3}, R.UNMAP_FAILED_OTHER),
    ({**GONE, "seen": Seen.LOCK}, R.FOLIO_LOCK_CONTENDED),
    ({**GONE, "writeback": True}, R.WRITEBACK_BUSY),
    ({**GONE, "private": True, "refcount": 3}, R.PRIVATE_BUSY),
    ({"refuses_migration": True}, R.FS_MIGRATE_REFUSED),
    ({"has_migrate_op": False}, R.NO_MIGRATE_OP),
    ({"has_migrate_op": False, "dirty": False}, R.EXTRA_REF_PLAIN),
    ({**GONE, "has_migrate_op": False, "dirty": False, "writeback": True}, R.NO_MIGRATE_OP),
    ({"poisoned": True}, R.COPY_POISONED),
    (SPLIT, R.THP_SPLIT_REFS),
    ({**SPLIT, "errno": 16}, R.THP_SPLIT_BUSY),
    ({**SPLIT, "errno": 22}, R.THP_SPLIT_INVAL),
    ({**SPLIT, "errno": 12}, R.THP_SPLIT_NOMEM),
    ({**HUGETLB, "refcount": 515}, R.HUGETLB_REFS),
    (HUGETLB, R.HUGETLB_LOCK),
    ({**HUGETLB, "mapcount": 0, "cache_refs": 0, "refcount": 1}, R.HUGETLB_SUBPOOL_BUSY),
    ({**HUGETLB, "order": 18}, R.DST_ALLOC_FAILED),
]


@pytest.mark.parametrize(("changes", "reason"), FOLIOS)
def test_reason_of_a_folio(changes: dict[str, Any], reason: FailureReason) -> None:
    assert rules.classify(pin(folios=(folio(**changes),)))[0] is reason


LIMITED = Memlock(
    limit_pages=4096, locked_pages=0, pinned_pages=0, user_pages=0, cap_ipc_lock=False
)
AFTER = {"gup_errno": 0, "gup_short": 0}
BEFORE = {"gup_errno": 0, "gup_calls": 0, "gup_short": 0}
NO_MIGRATION = {"failed_pages": 0, "folios": ()}


def refused(errno: int = 14, **changes: Any) -> dict[str, Any]:
    """GUP refused a VMA."""
    values: dict[str, Any] = {
        "start": 0x1000, "end": 0x3000, "flags": 0x1 | 0x8, "kind": MappingKind.SHMEM,
        "s_magic": 0, "errno": errno,
    }  # fmt: skip
    return {"errno": errno, "gup_errno": errno, "vma": RefusedVma(**values | changes),
            **NO_MIGRATION}  # fmt: skip


# An operation as a whole, for each reason that it can give.
PINS: list[tuple[dict[str, Any], FailureReason]] = [
    ({**AFTER, "memlock": LIMITED}, R.RLIMIT_MEMLOCK),
    ({**AFTER, "memlock": LIMITED, "errno": 105}, R.RLIMIT_MEMLOCK),  # AF_XDP
    ({**BEFORE, "memlock": LIMITED, "source": PinSource.RDMA}, R.RLIMIT_MEMLOCK),
    (
        {**AFTER, "memlock": replace(LIMITED, limit_pages=1 << 20, user_pages=1 << 20)},
        R.RLIMIT_MEMLOCK,
    ),
    ({**AFTER, "memlock": replace(LIMITED, cap_ipc_lock=True)}, R.BOOKKEEPING_NOMEM),
    ({**AFTER, "memlock": replace(LIMITED, limit_pages=1 << 20)}, R.BOOKKEEPING_NOMEM),
    # the same process over its limit, but the page was what failed the map
    ({"memlock": LIMITED}, R.EXTRA_REF_PLAIN),
    ({**AFTER, "errno": 16}, R.IOMMU_MAP_FAILED),
    ({"dst_failed": 1, "dst_order": 0}, R.DST_ALLOC_FAILED),
    # a huge page without destination was split and only then failed
    ({"dst_failed": 3, "dst_order": 9, "split_ok": 3}, R.EXTRA_REF_PLAIN),
    (
        {"dst_failed": 3, "dst_order": 9, "split_ok": 3, "folios": (folio(**GONE),)},
        R.SPLIT_SUBPAGE_FAILED,
    ),
    ({"dst_failed": 1, "dst_order": 9}, R.DST_ALLOC_FAILED),
    ({"errno": 4, "gup_errno": 4}, R.INTERRUPTED),
    ({"errno": 4, "gup_errno": 4, "loops": 10_000}, R.ISOLATION_LIVELOCK),
    ({"errno": 16, "gup_errno": 16}, R.DEVICE_COHERENT_FAILED),
    ({"errno": 17, **BEFORE}, R.VFIO_DMA_EXISTS),
    ({"errno": 28, **BEFORE}, R.VFIO_DMA_LIMIT),
    ({"errno": 22, **BEFORE}, R.VFIO_IOVA_INVALID),
    ({"errno": 75, **BEFORE}, R.VFIO_IOVA_INVALID),
    (refused(), R.VMA_PERM),
    (refused(flags=0x4000), R.VMA_IO_PFNMAP),
    (refused(kind=MappingKind.SECRETMEM), R.VMA_SECRETMEM),
    (refused(kind=MappingKind.FILE, flags=0xB), R.FILE_WRITE_REFUSED),
    (refused(kind=MappingKind.FILE, flags=0x9), R.VMA_PERM),
    (refused(95), R.FSDAX_REFUSED),
    ({"errno": 14, "gup_errno": 14, "last_loops": 0, **NO_MIGRATION}, R.VMA_ABSENT),
    ({"errno": 14, "gup_errno": 14, **NO_MIGRATION}, R.FAULT_SIGBUS),
    # AF_XDP, vDPA: GUP came back with some, and the consumer says ENOMEM
    (
        {"gup_errno": 0, "last_loops": 0, "source": PinSource.AF_XDP, **NO_MIGRATION},
        R.VMA_ABSENT,
    ),
    ({"errno": 133, "gup_errno": 133, **NO_MIGRATION}, R.HWPOISON),
    ({"errno": 17, "gup_errno": 17, **NO_MIGRATION}, R.SPECIAL_PTE),
    ({"errno": 121, "gup_errno": 121, **NO_MIGRATION}, R.P2PDMA_REFUSED),
    ({"memcg_oom": 1, **NO_MIGRATION}, R.FAULT_OOM),
    ({"alloc_failed": 1, **NO_MIGRATION}, R.FAULT_OOM),
    (NO_MIGRATION, R.REF_OVERFLOW),
    ({"last_vma_flags": 0x400000, **NO_MIGRATION}, R.HUGETLB_GRAB_REFUSED),
    # io_uring behind pages that were pinned already: a migration failure all the same
    ({"errno": 14, "source": PinSource.IO_URING}, R.EXTRA_REF_PLAIN),
    ({"errno": 22, "gup_errno": 22, "vma": None}, R.UNKNOWN),
    ({"folios": ()}, R.UNKNOWN),
]


@pytest.mark.parametrize(("changes", "reason"), PINS)
def test_reason_of_an_operation(changes: dict[str, Any], reason: FailureReason) -> None:
    assert rules.classify(pin(**changes))[0] is reason


def test_a_folio_without_destination_has_the_reason_of_its_pin() -> None:
    left = folio(seen=Seen.LEFT, refcount=2)
    _, blocking = rules.classify(pin(dst_failed=1, dst_order=0, folios=(left,)))
    assert [one.reason for one in blocking] == [R.DST_ALLOC_FAILED]


# Not of a failed operation: classify/slow.py.
OF_SUCCESS = {R.PINNED_IN_PLACE}
# Nothing that is seen tells them apart from hugetlb_lock.
MERGED = {R.HUGETLB_UNSUPPORTED}


def test_a_folio_that_moved_later_is_no_cause() -> None:
    moved = folio(left=False, refcount=99)
    reason, blocking = rules.classify(pin(folios=(moved, folio(refcount=2 + 1024))))
    assert reason is R.EXTRA_REF_PINNED
    assert len(blocking) == 1


def test_the_folio_with_most_extra_references_is_shown() -> None:
    _, blocking = rules.classify(pin(folios=(folio(), folio(refcount=7))))
    chosen = rules.primary(blocking)
    assert chosen is not None
    assert chosen.facts.refcount == 7


def match(*activities: Activity, io: tuple[str, ...] = (), **changes: Any) -> list[HolderMatch]:
    of = pin(folios=(folio(**changes),), activities=activities)
    reason, blocking = rules.classify(of)
    found, also = holders.match(of, reason, blocking, io)
    return [found, *also]


def names(found: list[HolderMatch]) -> list[tuple[Holder, Confidence]]:
    return [(one.holder, one.confidence) for one in found]


EXACT, OVERLAP, NO = Confidence.EXACT, Confidence.OVERLAP, Confidence.NO
PINNED: dict[str, Any] = {"refcount": 2 + 1024}


def test_who_was_seen_at_the_mapping_is_exact_and_has_its_parent() -> None:
    walker = activity(parent_tgid=0, parent_comm="")
    found = match(activity(), culprit=walker)
    assert names(found) == [(Holder.DROP_CACHES, EXACT)]
    assert found[0].parent_comm == "cron"


def test_a_pipe_is_exact_and_what_overlapped_is_said_too() -> None:
    pipe = activity(holder=Holder.PIPE, tid=5)
    assert names(match(activity(), culprit=pipe)) == [
        (Holder.PIPE, EXACT),
        (Holder.DROP_CACHES, OVERLAP),
    ]


def test_a_batch_is_exact() -> None:
    assert names(match(lru_batch="mlock_fbatch.fbatch")) == [(Holder.MLOCK_BATCH, EXACT)]
    assert names(match(lru_batch="cpu_fbatches.lru_add")) == [(Holder.LRU_BATCH, EXACT)]


def test_who_filled_the_batch_is_named_before_it() -> None:
    deactivated: dict[str, Any] = {
        "lru_batch": "cpu_fbatches.lru_deactivate_file",
        "lru_batch_cpu": 1,
    }
    found = match(activity(), **deactivated)
    assert names(found) == [(Holder.DROP_CACHES, OVERLAP), (Holder.LRU_BATCH, EXACT)]
    assert found[0].detail == "cpu_fbatches.lru_deactivate_file of CPU 1"
    assert names(match(**deactivated)) == [(Holder.LRU_BATCH, EXACT)]


def test_a_range_of_frames_is_exact_inside_and_nothing_outside() -> None:
    pfn = folio().pfn
    assert pfn
    offline = activity(holder=Holder.MEMORY_OFFLINE, first_pfn=pfn, last_pfn=pfn + 1)
    assert names(match(offline)) == [(Holder.MEMORY_OFFLINE, EXACT)]
    assert names(match(replace(offline, first_pfn=pfn + 1, last_pfn=pfn + 9))) == [
        (Holder.UNKNOWN, NO)
    ]


@pytest.mark.parametrize(
    ("changes", "holder"),
    [
        ({}, Holder.DROP_CACHES),
        ({"end_ns": 9_990_000_000}, Holder.DROP_CACHES),
        ({"start_ns": 1, "end_ns": 9_000_000_000}, Holder.UNKNOWN),  # over before the pin began
        ({"start_ns": 10_000_000_001}, Holder.UNKNOWN),  # began after it had failed
        ({"tid": TASK.tid}, Holder.UNKNOWN),  # its own reclaim
    ],
)
def test_overlap_in_time(changes: dict[str, Any], holder: Holder) -> None:
    assert match(activity(**changes))[0].holder is holder


def test_what_passes_by_is_named_only_for_a_reference_that_passed() -> None:
    damon = activity(holder=Holder.DAMON)
    assert names(match(damon)) == [(Holder.UNKNOWN, NO), (Holder.DAMON, OVERLAP)]
    assert names(match(damon, refcount=2)) == [(Holder.DAMON, OVERLAP)]
    sampled = replace(damon, first_pfn=1, last_pfn=2)  # another page than the one that stayed
    assert names(match(sampled)) == [(Holder.UNKNOWN, NO), (Holder.DAMON, OVERLAP)]


def test_a_pin_can_only_be_of_something_that_pins() -> None:
    reader = activity(holder=Holder.PROCESS_VM)
    assert names(match(activity(), reader, io=("sda",), **PINNED)) == [
        (Holder.PROCESS_VM, OVERLAP),
        (Holder.DIRECT_IO, OVERLAP),
        (Holder.DROP_CACHES, OVERLAP),
    ]


def test_ksmd_looks_at_private_memory_only() -> None:
    ksmd = activity(holder=Holder.KSMD)
    assert names(match(ksmd, refcount=2)) == [(Holder.UNKNOWN, NO)]
    private: dict[str, Any] = {"kind": MappingKind.ANON, "cache_refs": 0, "refcount": 1}
    assert names(match(ksmd, **private)) == [(Holder.KSMD, OVERLAP)]


def test_nobody_is_blamed_for_a_limit() -> None:
    of = pin(**AFTER, memlock=LIMITED, activities=(activity(),))
    reason, blocking = rules.classify(of)
    assert holders.match(of, reason, blocking) == (HolderMatch(holder=Holder.NONE), ())


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, SlowCause.WRITEBACK),
        ({"duration_ns": 9_000_000_000}, SlowCause.WORK),
        ({"loops": 1000}, SlowCause.ISOLATION),
        ({"in_place": 1}, SlowCause.IN_PLACE),
    ],
)
def test_where_the_time_went(changes: dict[str, Any], cause: SlowCause) -> None:
    assert slow.cause(replace(slow_pin().pin, **changes)) is cause


def test_a_livelock_starts_again_and_again() -> None:
    assert not rules.is_livelock(open_pin(loops=3, rounds=1))
    assert rules.is_livelock(open_pin(loops=1000, rounds=1))
