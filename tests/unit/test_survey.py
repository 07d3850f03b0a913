"""One look at a host and a process, from files to a case."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinwatch.forecast import forecast
from pinwatch.host.survey import Survey, read_pin_rules
from pinwatch.model.event import MappingKind
from pinwatch.model.forecast import Case, Risk, Verdict
from pinwatch.model.placement import PinRules
from tests.unit.memory_tree import ANON, BASE, EXCLUSIVE, GIB, PRESENT, TGID, Tree

ZONE = """\
Node 0, zone {name:>8}
  pages free     {free}
        min      100
        low      200
        high     300
        spanned  262144
        present  262144
        managed  262144
        cma      0
        protection: (0, 0)
      nr_free_pages {free}
  start_pfn:           {start}
"""
PAGES = 1 << 14


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """64 MiB of anonymous memory, in ZONE_MOVABLE."""
    found = Tree(tmp_path)
    host(found, free=PAGES * 2)
    found.write("proc/buddyinfo", "")
    found.write("proc/meminfo", "")
    found.pages(0, [PRESENT | EXCLUSIVE | GIB + number for number in range(PAGES)])
    found.frames(GIB, [ANON] * PAGES)
    return found


def host(tree: Tree, *, free: int, movable_start: int = GIB) -> None:
    normal = ZONE.format(name="Normal", free=free, start=0)
    movable = ZONE.format(name="Movable", free=262144, start=movable_start)
    tree.write("proc/zoneinfo", normal + movable)


def survey(tree: Tree) -> Survey:
    return Survey(proc=tree.proc, sysfs=tree.sys, kmsg=tree.proc / "kmsg")


def look(of: Survey, error: float | None = 0.01) -> Case:
    case = of.look(TGID, managed=False, error=error)
    assert case is not None
    return case


@pytest.mark.parametrize("error", [None, 0.01])
def test_a_case_of_a_process(tree: Tree, error: float | None) -> None:
    case = look(survey(tree), error)
    assert case.placement.resident_bytes == case.placement.guest_bytes == PAGES << 12
    assert case.limits.memlock_bytes == 64 << 20
    assert case.rules == PinRules()
    found = forecast(case)
    assert found.must_move.most == PAGES << 12
    assert found.verdict is Verdict.FINE


def test_what_is_free_is_read_again(tree: Tree) -> None:
    one = survey(tree)
    frames = one.frames
    host(tree, free=0)
    one.refresh()
    assert forecast(look(one)).risks == (Risk.SHORT_OF_MEMORY,)
    assert one.frames is frames


def test_a_host_whose_zones_change_is_placed_anew(tree: Tree) -> None:
    one = survey(tree)
    host(tree, free=PAGES * 2, movable_start=2 * GIB)
    one.refresh()
    assert {portion.page.zone for portion in look(one).placement.portions} == {None}


def test_a_process_that_is_gone(tree: Tree) -> None:
    assert survey(tree).look(1) is None


KALLSYMS = "ffffffff81000000 T pin_user_pages\nffffffff81000010 {} {}\n"


@pytest.mark.parametrize(
    ("symbol", "files", "hugetlb"),
    [
        ("follow_hugetlb_page", False, True),
        ("vma_needs_dirty_tracking", True, False),
        ("something", False, False),
    ],
)
def test_what_a_kernel_refuses_is_told_by_its_functions(
    tree: Tree, symbol: str, files: bool, hugetlb: bool
) -> None:
    tree.write("proc/kallsyms", KALLSYMS.format("T", symbol))
    assert read_pin_rules(tree.proc, tree.sys) == PinRules(
        refuses_shared_files=files, refuses_movable_hugetlb=hugetlb
    )


def test_nothing_is_known_where_kallsyms_tells_nothing(tree: Tree) -> None:
    tree.write("proc/kallsyms", "")
    assert read_pin_rules(tree.proc, tree.sys) == PinRules()


def test_it_is_asked_for_memory_where_it_matters(tree: Tree) -> None:
    tree.write("proc/kallsyms", KALLSYMS.format("T", "vma_needs_dirty_tracking"))
    start, end = BASE << 12, BASE + PAGES << 12
    tree.maps(f"{start:x}-{end:x} rw-s 00000000 08:01 77 /var/lib/ram.img")
    case = look(survey(tree))
    assert case.placement.mappings[0].kind is MappingKind.FILE
    assert case.rules.refuses_shared_files is True
