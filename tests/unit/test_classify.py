"""Reasons and holders, on facts made by hand after docs of the kernel's own tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pinwatch.classify import holders, references, rules
from pinwatch.model.event import HolderSeen, MappingKind, Memlock, Seen
from pinwatch.model.failure import Confidence, FailureReason, Holder
from tests.unit.make import TASK, folio, pin

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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, R.EXTRA_REF_PLAIN),
        ({"seen": Seen.LEFT}, R.EXTRA_REF_PLAIN),
        ({"refcount": 2 + 1024}, R.EXTRA_REF_PINNED),
        ({"refcount": 2}, R.EXTRA_REF_GONE),
        ({"refcount": 2 + 1024, "mapcount": 1, "cache_refs": 0}, R.UNMAP_FAILED_PINNED),
        ({"seen": Seen.LOCK}, R.FOLIO_LOCK_CONTENDED),
        (SPLIT, R.THP_SPLIT_REFS),
        ({**SPLIT, "errno": 16}, R.THP_SPLIT_BUSY),
        ({"seen": Seen.LEFT, "refcount": 2}, R.UNKNOWN),
    ],
)
def test_reason_of_a_folio(changes: dict[str, Any], reason: FailureReason) -> None:
    assert rules.classify(pin(folios=(folio(**changes),)))[0] is reason


LIMITED = Memlock(limit_pages=4096, locked_pages=0, pinned_pages=0, cap_ipc_lock=False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gup_errno": 0, "memlock": LIMITED}, R.RLIMIT_MEMLOCK),
        ({"gup_errno": 0, "memlock": replace(LIMITED, cap_ipc_lock=True)}, R.UNKNOWN),
        ({"gup_errno": 0, "memlock": replace(LIMITED, limit_pages=1 << 20)}, R.UNKNOWN),
        # the same process over its limit, but the page was what failed the map
        ({"memlock": LIMITED}, R.EXTRA_REF_PLAIN),
        ({"dst_failed": 1, "dst_order": 0}, R.DST_ALLOC_FAILED),
        # a huge page without destination was split and only then failed
        ({"dst_failed": 3, "dst_order": 9, "split_ok": 3}, R.EXTRA_REF_PLAIN),
        ({"dst_failed": 1, "dst_order": 9}, R.DST_ALLOC_FAILED),
        ({"errno": 4, "gup_errno": 4}, R.INTERRUPTED),
        ({"errno": 17, "gup_errno": 0, "gup_calls": 0}, R.VFIO_DMA_EXISTS),
        ({"errno": 28, "gup_errno": 0, "gup_calls": 0}, R.VFIO_DMA_LIMIT),
        ({"errno": 22, "gup_errno": 0, "gup_calls": 0}, R.VFIO_IOVA_INVALID),
        ({"errno": 14, "gup_errno": 14}, R.UNKNOWN),
        ({"folios": ()}, R.UNKNOWN),
    ],
)
def test_reason_of_an_operation(changes: dict[str, Any], reason: FailureReason) -> None:
    assert rules.classify(pin(**changes))[0] is reason


def test_a_folio_without_destination_has_the_reason_of_its_pin() -> None:
    left = folio(seen=Seen.LEFT, refcount=2)
    _, blocking = rules.classify(pin(dst_failed=1, dst_order=0, folios=(left,)))
    assert [one.reason for one in blocking] == [R.DST_ALLOC_FAILED]


def test_every_reason_can_be_reached() -> None:
    decided = {rule.reason for rule in (*rules.PIN_RULES, *rules.FOLIO_RULES)}
    assert decided | {R.UNKNOWN} == set(FailureReason)


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


def window(**changes: Any) -> HolderSeen:
    values: dict[str, Any] = {
        "time_ns": 1, "task": replace(TASK, tid=77, comm="sh"), "holder": "drop_caches",
        "start_ns": 9_900_000_000, "end_ns": None, "value": 1, "parent_tgid": 5,
        "parent_comm": "cron",
    }  # fmt: skip
    return HolderSeen(**values | changes)


def match(**changes: Any) -> tuple[Holder, Confidence]:
    of = pin(folios=(folio(**changes.pop("folio", {})),))
    reason, blocking = rules.classify(of)
    found = holders.match(of, reason, blocking, [window(**changes)])
    return found.holder, found.confidence


def test_a_walker_of_the_mapping_is_exact() -> None:
    walked = {"walker_tid": 77, "walk_start_ns": 9_900_000_000}
    assert match(folio=walked) == (Holder.DROP_CACHES, Confidence.EXACT)
    # another write by the same thread is not the one that was there
    assert match(folio={**walked, "walk_start_ns": 1})[1] is Confidence.OVERLAP


@pytest.mark.parametrize(
    ("changes", "holder"),
    [
        ({}, Holder.DROP_CACHES),
        ({"end_ns": 9_990_000_000}, Holder.DROP_CACHES),
        ({"start_ns": 1, "end_ns": 9_000_000_000}, Holder.UNKNOWN),  # over before the pin began
        ({"start_ns": 10_000_000_001}, Holder.UNKNOWN),  # began after it had failed
    ],
)
def test_overlap_in_time(changes: dict[str, Any], holder: Holder) -> None:
    assert match(**changes)[0] is holder


def test_nobody_is_blamed_for_a_limit() -> None:
    of = pin(gup_errno=0, memlock=LIMITED)
    reason, blocking = rules.classify(of)
    assert holders.match(of, reason, blocking, [window()]).holder is Holder.NONE


def test_reasons_have_words() -> None:
    for reason in FailureReason:
        assert reason.meaning[0].islower(), reason
        assert not reason.meaning.endswith("."), reason
        assert reason.remedy.endswith("."), reason
