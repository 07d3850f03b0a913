"""Each risk, forced by one changed fact and gone without it; and what must hold of every case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinwatch.forecast import forecast, free_huge_blocks
from pinwatch.model.event import MappingKind
from pinwatch.model.forecast import Case, Forecast, Risk, Verdict
from pinwatch.model.placement import (
    PAGE_BYTES,
    Backing,
    Cma,
    HugetlbPool,
    Limits,
    Mapping,
    Mark,
    PageClass,
    PinRules,
    Placement,
    Portion,
    Zone,
)
from tests.unit.make import free

MIB, GIB = 1 << 20, 1 << 30
NORMAL, MOVABLE = free().zones
GUEST = 128 * MIB
STAYS = PinRules(hugetlb_stays_on_node=True)


def page(**changes: Any) -> PageClass:
    values: dict[str, Any] = {
        "node": 0, "zone": "Movable", "cma": Cma.NO, "backing": Backing.BASE,
        "kind": MappingKind.SHMEM,
    }  # fmt: skip
    return PageClass(**values | changes)


def place(*portions: Portion, size: int = GUEST, **changes: Any) -> Placement:
    """A guest of `size` with these portions; without any, all of it in Movable."""
    kind = portions[0].page.kind if portions else MappingKind.SHMEM
    mapping = Mapping(start=GIB, end=GIB + size, kind=kind, shared=True)
    values: dict[str, Any] = {"mappings": (mapping,), "portions": portions or (
        Portion(page(), size),)}  # fmt: skip
    return Placement(**values | changes)


def case(placement: Placement | None = None, *zones: Zone, **changes: Any) -> Case:
    values: dict[str, Any] = {
        "placement": placement or place(),
        "free": free(zones=zones or (NORMAL, MOVABLE)),
        "limits": Limits(),
    }
    return Case(**values | changes)


def all_of(**changes: Any) -> Placement:
    """The whole guest is of one class."""
    return place(Portion(page(**changes), GUEST))


def with_mapping(**changes: Any) -> Placement:
    whole = place(Portion(page(zone="Normal"), GUEST))
    return replace(whole, mappings=(replace(whole.mappings[0], **changes),))


def pool(free_pages: int, size: int = 2 * MIB, node: int = 0) -> HugetlbPool:
    return HugetlbPool(node=node, page_bytes=size, total=64, free=free_pages)


def pooled(*pools: HugetlbPool, zones: tuple[Zone, ...] = (NORMAL, MOVABLE)) -> Any:
    return free(zones=zones, pools=pools)


NO_BLOCKS = replace(NORMAL, by_order=(1 << 16,) + (0,) * 10)
FULL = replace(NORMAL, free=2000)
SOME = replace(NORMAL, free=4000)  # enough for the tables of the IOMMU
CACHED = replace(FULL, file=1 << 16)
HUGE = all_of(backing=Backing.HUGETLB, kind=MappingKind.HUGETLB)
GIGANTIC = place(Portion(page(backing=Backing.GIGANTIC, kind=MappingKind.HUGETLB), GIB), size=GIB)
ON_NODE_1 = all_of(backing=Backing.HUGETLB, kind=MappingKind.HUGETLB, node=1)
FILE = with_mapping(kind=MappingKind.FILE)
ABSENT = place(Portion(page(zone="Normal"), PAGE_BYTES))

# Risk; a case that has it; the same with one fact changed, that has not.
CASES: list[tuple[Risk, Case, Case]] = [
    (Risk.SHORT_OF_MEMORY, case(None, FULL, MOVABLE), case(None, CACHED, MOVABLE)),
    (Risk.SHORT_OF_MEMORY, case(None, FULL, MOVABLE), case(all_of(zone="Normal"), FULL, MOVABLE)),
    (
        Risk.SHORT_OF_MEMORY,
        case(None, FULL, MOVABLE),
        case(free=free(zones=(FULL, MOVABLE), slab_reclaimable=1 << 16)),
    ),
    (
        Risk.SHORT_OF_MEMORY,  # what is free in CMA does not help
        case(None, replace(NORMAL, free_cma=NORMAL.free, cma=NORMAL.free)),
        case(None, replace(NORMAL, cma=NORMAL.free)),
    ),
    (
        Risk.SHORT_OF_MEMORY,  # nor anonymous memory without swap
        case(free=free(zones=(replace(FULL, anon=1 << 16), MOVABLE))),
        case(free=free(zones=(replace(FULL, anon=1 << 16), MOVABLE), swap_free=1 << 16)),
    ),
    (
        Risk.SHORT_OF_MEMORY,  # nor memory of a node that its cpuset does not allow
        case(None, FULL, replace(NORMAL, node=1), limits=Limits(nodes=frozenset({0}))),
        case(None, FULL, replace(NORMAL, node=1), limits=Limits(nodes=frozenset({0, 1}))),
    ),
    (
        Risk.SHORT_OF_MEMORY,  # a VM that is to come
        case(Placement(mappings=(), portions=()), want_bytes=2 * GIB),
        case(Placement(mappings=(), portions=()), want_bytes=GIB // 8),
    ),
    (
        Risk.MOVABLE_ONLY_NODES,
        case(None, NORMAL, replace(MOVABLE, node=1), limits=Limits(nodes=frozenset({1}))),
        case(None, NORMAL, replace(MOVABLE, node=1), limits=Limits(nodes=frozenset({0, 1}))),
    ),
    (Risk.RECLAIM_FIRST, case(None, CACHED, MOVABLE), case()),
    (
        Risk.RECLAIM_FIRST,  # the reserve for lower zones is kept
        case(None, replace(NORMAL, reserve=NORMAL.free)),
        case(),
    ),
    (
        Risk.MUST_SPLIT,
        case(all_of(backing=Backing.THP), NO_BLOCKS, MOVABLE),
        case(all_of(backing=Backing.LARGE), NO_BLOCKS, MOVABLE),
    ),
    (
        Risk.MUST_SPLIT,
        case(all_of(backing=Backing.THP), NO_BLOCKS, MOVABLE),
        case(all_of(backing=Backing.THP)),
    ),
    (
        Risk.HUGETLB_NO_DESTINATION,
        case(ON_NODE_1, NORMAL, replace(MOVABLE, node=1), rules=STAYS),
        case(ON_NODE_1, free=pooled(pool(64), zones=(NORMAL, replace(MOVABLE, node=1))),
             rules=STAYS),
    ),
    (
        Risk.HUGETLB_NO_DESTINATION,
        case(ON_NODE_1, NORMAL, replace(MOVABLE, node=1), rules=STAYS),
        case(ON_NODE_1, NORMAL, replace(NORMAL, node=1), rules=STAYS),
    ),
    (
        Risk.HUGETLB_NO_DESTINATION,
        case(ON_NODE_1, NORMAL, replace(MOVABLE, node=1), rules=STAYS),
        case(ON_NODE_1, NORMAL, replace(MOVABLE, node=1)),
    ),
    (
        Risk.HUGETLB_SCARCE,
        case(ON_NODE_1, NORMAL, replace(MOVABLE, node=1)),
        case(ON_NODE_1, NORMAL, replace(NORMAL, node=1)),
    ),
    (
        Risk.HUGETLB_NO_DESTINATION,
        case(GIGANTIC),
        case(GIGANTIC, free=pooled(pool(1, GIB))),
    ),
    (Risk.HUGETLB_SCARCE, case(HUGE, NO_BLOCKS, MOVABLE), case(HUGE)),
    (
        Risk.HUGETLB_SCARCE,
        case(GIGANTIC, free=pooled(pool(1, GIB))),
        case(place(Portion(page(backing=Backing.GIGANTIC, kind=MappingKind.HUGETLB,
                                zone="Normal"), GIB), size=GIB)),
    ),
    (
        Risk.HUGETLB_REFUSED,
        case(HUGE, rules=PinRules(refuses_movable_hugetlb=True)),
        case(HUGE, rules=PinRules(refuses_movable_hugetlb=False)),
    ),
    (
        Risk.FILE_REFUSED,
        case(FILE, rules=PinRules(refuses_shared_files=True)),
        case(FILE, rules=PinRules(refuses_shared_files=False)),
    ),
    (
        Risk.FILE_BACKED,
        case(FILE, rules=PinRules(refuses_shared_files=False)),
        case(with_mapping(kind=MappingKind.FILE, shared=False)),
    ),
    (
        Risk.SECRET_MEMORY,
        case(with_mapping(kind=MappingKind.SECRETMEM)),
        case(with_mapping(kind=MappingKind.SHMEM)),
    ),
    (
        Risk.MEMLOCK,
        case(limits=Limits(memlock_bytes=GUEST - 1, may_lock=False)),
        case(limits=Limits(memlock_bytes=GUEST, may_lock=False)),
    ),
    (
        Risk.MEMLOCK,
        case(limits=Limits(memlock_bytes=MIB, may_lock=False)),
        case(limits=Limits(memlock_bytes=MIB, may_lock=True)),
    ),
    (
        Risk.MEMLOCK,  # what VFIO has locked for one device is not locked again for the next
        case(limits=Limits(memlock_bytes=GUEST, may_lock=False, locked_bytes=MIB)),
        case(limits=Limits(memlock_bytes=GUEST, may_lock=False, locked_bytes=GUEST)),
    ),
    (
        Risk.MEMLOCK,
        case(limits=Limits(memlock_bytes=MIB, may_lock=False)),
        case(limits=Limits(memlock_bytes=MIB, may_lock=False, managed_limit=True)),
    ),
    (
        Risk.MEMLOCK_MANAGED,
        case(limits=Limits(memlock_bytes=MIB, may_lock=False, managed_limit=True)),
        case(limits=Limits(memlock_bytes=None, may_lock=False, managed_limit=True)),
    ),
    (
        Risk.CGROUP_LIMIT,
        case(ABSENT, limits=Limits(cgroup_bytes=MIB)),
        case(ABSENT, limits=Limits(cgroup_bytes=GIB)),
    ),
    (
        Risk.WRITEBACK,
        case(all_of(marks=frozenset({Mark.WRITEBACK}))),
        case(all_of(marks=frozenset({Mark.WRITEBACK}), zone="Normal")),
    ),
    (
        Risk.MEMORY_ERROR,
        case(all_of(marks=frozenset({Mark.POISONED}))),
        case(all_of(marks=frozenset({Mark.DIRTY}))),
    ),
    (
        Risk.UNKNOWN_PLACE,
        case(all_of(zone="Normal", cma=Cma.UNKNOWN), SOME, MOVABLE),
        case(all_of(zone="Normal", cma=Cma.UNKNOWN)),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("risk", "bad", "good"), CASES)
def test_a_risk_and_the_one_fact_that_makes_it(risk: Risk, bad: Case, good: Case) -> None:
    found = forecast(bad)
    assert risk in found.risks
    assert found.verdict.rank >= risk.verdict.rank
    assert risk not in forecast(good).risks


def test_every_risk_has_a_case() -> None:
    assert {risk for risk, _, _ in CASES} == set(Risk)


def test_the_worst_risk_comes_first_and_is_the_verdict() -> None:
    both = forecast(case(FILE, limits=Limits(memlock_bytes=MIB, may_lock=False)))
    assert both.risks == (Risk.MEMLOCK, Risk.FILE_BACKED)
    assert both.verdict is Verdict.WILL_FAIL
    assert forecast(case()).verdict is Verdict.FINE


def test_what_is_missing_is_said_once() -> None:
    """Not short of memory and reclaim and unknown at a time."""
    for one in (case(None, FULL, MOVABLE), case(None, CACHED, MOVABLE)):
        assert len(forecast(one).risks) == 1


# ---- what is needed --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("want", "least", "most"), [(None, 96, 96), (128, 96, 96), (64, 32, 64), (16, 0, 16)]
)
def test_a_pin_of_a_part_may_meet_all_or_little_that_must_move(
    want: int | None, least: int, most: int
) -> None:
    """32 MiB lie well; a part of 64 MiB has at least 32 of the others."""
    mixed = place(Portion(page(), 96 * MIB), Portion(page(zone="Normal"), 32 * MIB))
    found = forecast(case(mixed, want_bytes=want and want * MIB)).must_move
    assert (found.least, found.most) == (least * MIB, most * MIB)


def test_the_error_of_the_sample_widens_what_must_move() -> None:
    found = forecast(case(place(Portion(page(), 50 * MIB), Portion(page(zone="Normal"), 50 * MIB),
                                size=100 * MIB, error=0.1)))  # fmt: skip
    assert (found.must_move.least, found.must_move.most) == (40 * MIB, 60 * MIB)


def test_what_is_not_known_may_have_to_move() -> None:
    found = forecast(case(all_of(zone="Normal", cma=Cma.UNKNOWN)))
    assert (found.must_move.least, found.must_move.most) == (0, GUEST)


def test_what_is_not_there_must_be_allocated_with_the_tables_of_the_iommu() -> None:
    found = forecast(case(place(Portion(page(zone="Normal"), 28 * MIB))))
    assert found.must_move.most == 0
    tables = GUEST // 512
    assert (found.must_allocate.least, found.must_allocate.most) == (
        100 * MIB, 100 * MIB + tables,
    )  # fmt: skip


def test_what_the_pin_copies_is_allocated_and_not_moved() -> None:
    found = forecast(case(all_of(kind=MappingKind.KSM, marks=frozenset({Mark.COPIED}))))
    assert found.must_move.most == 0
    assert found.must_allocate.least == GUEST


def test_hugetlb_memory_that_is_not_there_comes_from_its_pool() -> None:
    found = forecast(case(place(Portion(page(
        zone="Normal", backing=Backing.HUGETLB, kind=MappingKind.HUGETLB), 2 * MIB))))  # fmt: skip
    assert found.must_allocate.least == 0


def test_headroom_is_what_is_left_at_the_most() -> None:
    found = forecast(case())
    available = (NORMAL.free - NORMAL.watermark_low) * PAGE_BYTES
    assert found.available_bytes == available
    assert found.headroom_bytes == available - GUEST - GUEST // 512


def test_huge_blocks_that_a_pin_may_have() -> None:
    """Greater blocks count for several, CMA and isolated ones for none."""
    order = (0,) * 9
    assert free_huge_blocks(replace(NORMAL, by_order=(*order, 3, 2))) == 7
    cma = replace(NORMAL, by_order=(*order, 3, 2), free_cma=2 * 512)
    assert free_huge_blocks(cma) == 5
    kinds = ("Unmovable", 1), ("Movable", 2), ("CMA", 4), ("Isolate", 8), ("HighAtomic", 16)
    told = replace(cma, by_type=tuple((kind, (*order, count, 0)) for kind, count in kinds))
    assert free_huge_blocks(told) == 3


# ---- of every case ---------------------------------------------------------------------------

PORTIONS = st.builds(
    Portion,
    st.builds(
        page,
        zone=st.sampled_from(["Normal", "Movable", None]),
        cma=st.sampled_from(Cma),
        backing=st.sampled_from(Backing),
        node=st.sampled_from([0, 1]),
        marks=st.frozensets(st.sampled_from([Mark.COPIED, Mark.WRITEBACK]), max_size=1),
    ),
    st.integers(1, 64).map(lambda count: count * 2 * MIB),
)
ZONES = st.builds(
    lambda node, free_pages, cached, order: replace(
        NORMAL, node=node, free=free_pages, file=cached, by_order=(0,) * 9 + (order,)
    ),
    st.sampled_from([0, 1]),
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
    st.integers(0, 200),
)
ANY = st.builds(
    lambda portions, zones, error, want: case(
        place(*portions, size=512 * MIB, error=error), *zones, want_bytes=want
    ),
    st.lists(PORTIONS, min_size=1, max_size=4),
    st.lists(ZONES, min_size=1, max_size=2),
    st.sampled_from([0.0, 0.01, 0.05]),
    st.none() | st.integers(1, 600 * MIB),
)


def better(one: Case, change: Callable[[Zone], Zone]) -> tuple[Forecast, Forecast]:
    zones = tuple(map(change, one.free.zones))
    return forecast(one), forecast(replace(one, free=replace(one.free, zones=zones)))


@given(ANY, st.integers(0, 1 << 16))
def test_more_free_memory_never_makes_it_worse(one: Case, more: int) -> None:
    def richer(zone: Zone) -> Zone:
        blocks = (*zone.by_order[:9], zone.by_order[9] + (more >> 9))
        return replace(zone, free=zone.free + more, by_order=blocks)

    before, after = better(one, richer)
    assert after.verdict.rank <= before.verdict.rank
    assert after.headroom_bytes >= before.headroom_bytes


@given(ANY, st.integers(0, 1 << 16))
def test_more_page_cache_never_makes_it_worse(one: Case, more: int) -> None:
    before, after = better(one, lambda zone: replace(zone, file=zone.file + more))
    assert after.verdict.rank <= before.verdict.rank


@given(ANY)
def test_the_numbers_agree(one: Case) -> None:
    found = forecast(one)
    for span in (found.must_move, found.must_allocate):
        assert 0 <= span.least <= span.most
    assert 0 <= found.available_bytes <= found.reachable_bytes
    assert found.must_move.most <= one.want


@given(ANY)
def test_fine_only_when_the_most_fits_and_will_fail_only_when_the_least_does_not(one: Case) -> None:
    found = forecast(one)
    if found.verdict is Verdict.FINE:
        assert found.headroom_bytes >= 0
    if Risk.SHORT_OF_MEMORY in found.risks:
        assert found.must_move.least + found.must_allocate.least > found.reachable_bytes
