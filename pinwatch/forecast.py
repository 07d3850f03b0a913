"""Placement and the host's free side to a forecast. Pure.

What a pin needs: a destination for each page that may not stay where it is, and a page for each
that is not there yet. Both come from kernel zones, outside of CMA, on nodes that the cpuset allows
(alloc_migration_target: GFP_USER without __GFP_MOVABLE, __GFP_HARDWALL). `fine` is said of the most
that may be needed, `will fail` of the least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pinwatch.model.event import MappingKind
from pinwatch.model.forecast import Case, Forecast, Risk, Span
from pinwatch.model.placement import (
    HUGE_BYTES,
    HUGE_ORDER,
    PAGE_BYTES,
    Backing,
    FreeMemory,
    Mark,
    Zone,
)

_NOT_FOR_PINS = ("CMA", "Isolate", "HighAtomic")  # migratetypes that no destination comes from
_HUGE = (Backing.THP, Backing.HUGETLB)
_TABLES = 512  # the IOMMU's page tables have 8 bytes for each page of 4096


def forecast(case: Case) -> Forecast:
    """For one VM now; for an empty placement and a size, for a VM that is to come."""
    move, allocate = _must_move(case), _must_allocate(case)
    available = sum(_available(zone) for zone in case.zones) * PAGE_BYTES
    reachable = max(_reachable(case.free, case.zones) * PAGE_BYTES, available)
    found = Forecast(
        want_bytes=case.want,
        must_move=move,
        must_allocate=allocate,
        available_bytes=available,
        reachable_bytes=reachable,
        huge_must_move=-(-_unpinnable(case, lambda backing: backing in _HUGE) // HUGE_BYTES),
        huge_free=sum(map(free_huge_blocks, case.zones)),
        risks=(),
    )
    risks = [risk for risk, fits in _RULES if fits(case, found)]
    risks.sort(key=lambda risk: -risk.verdict.rank)
    return replace(found, risks=tuple(risks))


# ---- what is needed -------------------------------------------------------------------------


def _slack(case: Case) -> int:
    """The sampling error, in bytes."""
    return int(case.placement.error * case.placement.resident_bytes)


def _must_move(case: Case) -> Span:
    """A pin of a part of the memory may meet all that must move, or leave out as much as it can."""
    place = case.placement
    sure = place.bytes_where(lambda page: page.must_move is True)
    doubtful = place.bytes_where(lambda page: page.must_move is None)
    slack = _slack(case) if sure + doubtful else 0
    least = sure - slack - _left_out(case)
    return Span(max(least, 0), min(sure + doubtful + slack, case.want))


def _must_allocate(case: Case) -> Span:
    """Hugetlb pages that are not there yet come from their pool, which has reserved them."""
    place = case.placement
    copied = place.bytes_where(lambda page: Mark.COPIED in page.marks)
    pooled = sum(m.size_bytes for m in place.mappings if m.kind is MappingKind.HUGETLB)
    there = place.bytes_where(lambda page: page.kind is not MappingKind.HUGETLB) - copied
    absent = max(place.guest_bytes - pooled - there, 0)
    slack = _slack(case) if copied or place.swapped_bytes else 0
    beyond = max(case.want - place.guest_bytes, 0)
    least = absent - slack - _left_out(case)
    most = min(absent + slack, case.want) + beyond + case.want // _TABLES
    return Span(max(least, 0) + beyond, most)


def _left_out(case: Case) -> int:
    return max(case.placement.guest_bytes - case.want, 0)


def _unpinnable(case: Case, fits: Callable[[Backing], bool]) -> int:
    """Bytes of such folios that must move or may have to."""
    return case.placement.bytes_where(
        lambda page: page.must_move is not False and fits(page.backing)
    )


# ---- what there is --------------------------------------------------------------------------


def _available(zone: Zone) -> int:
    """Pages that may be taken without waiting for reclaim."""
    return max(zone.free - zone.free_cma - zone.watermark_low - zone.reserve, 0)


def _reachable(free: FreeMemory, zones: Sequence[Zone]) -> int:
    """Pages that could be had at the very best: no watermark kept, all page cache dropped, all
    slab that can shrink gone, as much swapped out as fits."""
    if not zones:
        return 0
    own = sum(zone.free - zone.free_cma + zone.per_cpu + zone.file for zone in zones)
    swapped = min(free.swap_free, sum(zone.anon for zone in zones))
    return own + swapped + free.slab_reclaimable


def free_huge_blocks(zone: Zone) -> int:
    """Free blocks of 2 MiB that a pin may have, those inside greater ones counted. Without the
    lists by migratetype all CMA that is free is taken to lie in such blocks: a lower bound."""
    if zone.by_type:
        usable = (blocks for kind, blocks in zone.by_type if kind not in _NOT_FOR_PINS)
        return sum(map(_huge_in, usable))
    return max(_huge_in(zone.by_order) - (zone.free_cma >> HUGE_ORDER), 0)


def _huge_in(blocks: Iterable[int]) -> int:
    return sum(
        count << order - HUGE_ORDER
        for order, count in enumerate(blocks)
        if order >= HUGE_ORDER
    )  # fmt: skip


# ---- what stands against it -----------------------------------------------------------------


def _needs(case: Case, found: Forecast) -> Span:
    """Of memory that is free now. Hugetlb pages may find theirs in their pools."""
    pooled = min(_hugetlb(case, Backing.HUGETLB), _pool_free(case, Backing.HUGETLB) * HUGE_BYTES)
    least = found.must_move.least - pooled - _hugetlb(case, Backing.GIGANTIC)
    return Span(
        max(least, 0) + found.must_allocate.least,
        found.must_move.most + found.must_allocate.most,
    )


def _doubtful(case: Case) -> int:
    return case.placement.bytes_where(lambda page: page.must_move is None)


def _movable_only(case: Case, found: Forecast) -> bool:
    return not any(zone.managed for zone in case.zones) and _needs(case, found).most > 0


def _short(case: Case, found: Forecast) -> bool:
    if _movable_only(case, found):
        return False
    return _needs(case, found).least > found.reachable_bytes


def _tight(case: Case, found: Forecast, needed: int) -> bool:
    lost = _movable_only(case, found) or _short(case, found)
    return not lost and needed > found.available_bytes


def _reclaim_first(case: Case, found: Forecast) -> bool:
    return _tight(case, found, _needs(case, found).most - _doubtful(case))


def _unknown_place(case: Case, found: Forecast) -> bool:
    """What nobody knows decides."""
    tight = _tight(case, found, _needs(case, found).most)
    return tight and not _reclaim_first(case, found)


def _must_split(case: Case, found: Forecast) -> bool:
    huge = _unpinnable(case, lambda backing: backing is Backing.THP)
    return -(-huge // HUGE_BYTES) > found.huge_free


def _hugetlb(case: Case, backing: Backing) -> int:
    return _unpinnable(case, lambda one: one is backing)


def _pool_free(case: Case, backing: Backing) -> int:
    """Free pages of the pools of that size, wherever they lie."""
    huge = backing is Backing.HUGETLB
    return sum(p.free for p in case.free.pools if (p.page_bytes == HUGE_BYTES) is huge)


def _hugetlb_lost(case: Case, _found: Forecast) -> bool:
    """A gigantic page is never made for a pin. A huge one is made on the node where it lies, which
    needs kernel memory there; before v6.10 on any other as well."""
    if _hugetlb(case, Backing.GIGANTIC) and not _pool_free(case, Backing.GIGANTIC):
        return True
    elsewhere = any(zone.managed for zone in case.zones) and not case.rules.hugetlb_stays_on_node
    return _hugetlb_is_barren(case) and not elsewhere


def _hugetlb_is_barren(case: Case) -> bool:
    """Some lies where no huge page can be made that may be pinned, and no pool has one to spare."""
    nodes = {
        portion.page.node for portion in case.placement.portions
        if portion.page.backing is Backing.HUGETLB and portion.page.must_move
    }  # fmt: skip
    can_make = {zone.node for zone in case.zones if zone.managed}
    return bool(nodes - can_make) and not _pool_free(case, Backing.HUGETLB)


def _hugetlb_scarce(case: Case, found: Forecast) -> bool:
    if _hugetlb_lost(case, found) or case.rules.refuses_movable_hugetlb:
        return False
    if _hugetlb(case, Backing.GIGANTIC) or _hugetlb_is_barren(case):
        return True
    return -(-_hugetlb(case, Backing.HUGETLB) // HUGE_BYTES) > found.huge_free


def _hugetlb_refused(case: Case, _found: Forecast) -> bool:
    huge = _hugetlb(case, Backing.HUGETLB) + _hugetlb(case, Backing.GIGANTIC)
    return case.rules.refuses_movable_hugetlb is True and huge > 0


def _over_memlock(case: Case) -> bool:
    """What VFIO type1 counts: all that the process has locked, and the whole map. What is pinned
    already is not counted again for another device of the same container."""
    limits, mappings = case.limits, case.placement.mappings
    mlocked = sum(one.size_bytes for one in mappings if one.advice and "lo" in one.advice)
    pinned = limits.locked_bytes - mlocked >= case.want
    if limits.memlock_bytes is None or limits.may_lock or pinned:
        return False
    return limits.locked_bytes + case.want > limits.memlock_bytes


def _marked(case: Case, mark: Mark) -> bool:
    return case.placement.bytes_where(
        lambda page: page.must_move is not False and mark in page.marks
    ) > 0  # fmt: skip


def _shares_file(case: Case) -> bool:
    return any(one.kind is MappingKind.FILE and one.shared for one in case.placement.mappings)


def _is_secret(case: Case) -> bool:
    return any(one.kind is MappingKind.SECRETMEM for one in case.placement.mappings)


def _over_cgroup(case: Case, found: Forecast) -> bool:
    room = case.limits.cgroup_bytes
    return room is not None and found.must_allocate.most > room


Rule = Callable[[Case, Forecast], bool]

_RULES: tuple[tuple[Risk, Rule], ...] = (
    (Risk.SECRET_MEMORY, lambda case, _: _is_secret(case)),
    (
        Risk.FILE_REFUSED,
        lambda case, _: _shares_file(case) and case.rules.refuses_shared_files is True,
    ),
    (Risk.MEMLOCK, lambda case, _: _over_memlock(case) and not case.limits.managed_limit),
    (Risk.MOVABLE_ONLY_NODES, _movable_only),
    (Risk.SHORT_OF_MEMORY, _short),
    (Risk.HUGETLB_REFUSED, _hugetlb_refused),
    (Risk.HUGETLB_NO_DESTINATION, _hugetlb_lost),
    (
        Risk.FILE_BACKED,
        lambda case, _: _shares_file(case) and case.rules.refuses_shared_files is not True,
    ),
    (Risk.MEMLOCK_MANAGED, lambda case, _: _over_memlock(case) and case.limits.managed_limit),
    (Risk.RECLAIM_FIRST, _reclaim_first),
    (Risk.UNKNOWN_PLACE, _unknown_place),
    (Risk.MUST_SPLIT, _must_split),
    (Risk.HUGETLB_SCARCE, _hugetlb_scarce),
    (Risk.CGROUP_LIMIT, _over_cgroup),
    (Risk.WRITEBACK, lambda case, _: _marked(case, Mark.WRITEBACK)),
    (Risk.MEMORY_ERROR, lambda case, _: _marked(case, Mark.POISONED)),
)
