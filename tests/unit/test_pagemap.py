"""Placement of a process whose every page is known: exact to the page, samples within their error.

Words of pagemap and kpageflags are those of fs/proc/task_mmu.c and fs/proc/page.c.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pinwatch.errors import CannotRunError
from pinwatch.host import pagemap
from pinwatch.host.frames import Frames
from pinwatch.model.event import MappingKind
from pinwatch.model.placement import PAGE_BYTES, Backing, Cma, Mark, PageClass, Placement
from tests.unit.memory_tree import (
    ANON,
    BASE,
    DIRTY,
    EXCLUSIVE,
    FRAMES,
    GIB,
    HEAD,
    HUGETLB,
    KSM,
    PRESENT,
    SWAPPED,
    TAIL,
    TGID,
    THP,
    ZERO,
    Tree,
)

OWN = PRESENT | EXCLUSIVE
ANONYMOUS = "rw-p 00000000 00:00 0 "
MEMFD = "rw-s 00000000 00:01 1026 /memfd:pc.ram (deleted)"
HUGE_FILE = "rw-s 00000000 00:28 4711 /dev/hugepages/libvirt/qemu/1-db/ram-node0 (deleted)"
OVERLAY = "rw-p 00000000 08:01 77 /var/lib/ram.img"
HUGE, GIGANTIC = 1 << 9, 1 << 18
Look = Callable[[Tree], Placement]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def mapped(line: str, pages: int = 1 << 14, first: int = 0) -> str:
    start = BASE + first << 12
    return f"{start:x}-{start + pages * PAGE_BYTES:x} {line}"


def exact(tree: Tree, frames: Frames = FRAMES) -> Placement:
    found = pagemap.exact(tree.proc, TGID, frames)
    assert found is not None
    return found


def sample(tree: Tree, error: float = 0.01, seed: int = 1) -> Placement:
    rng = random.Random(seed)
    found = pagemap.sample(tree.proc, TGID, FRAMES, error=error, rng=rng)
    assert found is not None
    return found


def pages(place: Placement) -> dict[PageClass, int]:
    return {one.page: one.size_bytes // PAGE_BYTES for one in place.portions}


def page(zone: str, backing: Backing, kind: MappingKind, *marks: Mark, node: int = 0) -> PageClass:
    return PageClass(
        node=node, zone=zone, cma=Cma.NO, backing=backing, kind=kind, marks=frozenset(marks)
    )


def compound(size: int, flags: int) -> list[int]:
    """A folio's words since v6.10: its head's flags on all of it (stable_page_flags)."""
    return [HEAD | flags, *[TAIL | flags] * (size - 1)]


BOTH: list[Look] = [exact, sample]


@pytest.mark.parametrize("look", BOTH)
@pytest.mark.parametrize(
    ("line", "entry", "flags", "expected"),
    [
        (ANONYMOUS, OWN, ANON, page("Movable", Backing.BASE, MappingKind.ANON)),
        (
            ANONYMOUS, OWN, ANON | DIRTY,
            page("Movable", Backing.BASE, MappingKind.ANON, Mark.DIRTY),
        ),
        (
            ANONYMOUS, PRESENT, ANON,
            page("Movable", Backing.BASE, MappingKind.ANON, Mark.SHARED, Mark.COPIED),
        ),
        (
            ANONYMOUS, PRESENT, ANON | KSM,
            page("Movable", Backing.BASE, MappingKind.KSM, Mark.SHARED, Mark.COPIED),
        ),
        (
            ANONYMOUS, PRESENT, ZERO,
            page("Movable", Backing.BASE, MappingKind.ANON, Mark.SHARED, Mark.COPIED),
        ),
        (MEMFD, OWN, 0, page("Movable", Backing.BASE, MappingKind.SHMEM)),
        (MEMFD, PRESENT, 0, page("Movable", Backing.BASE, MappingKind.SHMEM, Mark.SHARED)),
        (OVERLAY, OWN, 0, page("Movable", Backing.BASE, MappingKind.FILE, Mark.COPIED)),
        (OVERLAY, OWN, ANON, page("Movable", Backing.BASE, MappingKind.ANON)),
        (
            MEMFD, OWN, 1 << 8 | 1 << 19 | 1,
            page("Movable", Backing.BASE, MappingKind.SHMEM, Mark.WRITEBACK, Mark.POISONED,
                 Mark.LOCKED),
        ),
    ],
)  # fmt: skip
def test_a_small_page(
    tree: Tree, look: Look, line: str, entry: int, flags: int, expected: PageClass
) -> None:
    tree.maps(mapped(line))
    tree.pages(100, [entry | GIB + 5])
    tree.frames(GIB + 5, [flags])
    assert pages(look(tree)) == {expected: 1}


@pytest.mark.parametrize("look", BOTH)
@pytest.mark.parametrize(
    ("line", "size", "flags", "expected"),
    [
        (ANONYMOUS, HUGE, THP | ANON, page("Movable", Backing.THP, MappingKind.ANON)),
        (MEMFD, HUGE, THP, page("Movable", Backing.THP, MappingKind.SHMEM)),
        (ANONYMOUS, 16, THP | ANON, page("Movable", Backing.LARGE, MappingKind.ANON)),
        (MEMFD, HUGE, HUGETLB, page("Movable", Backing.HUGETLB, MappingKind.HUGETLB)),
        (HUGE_FILE, HUGE, HUGETLB, page("Movable", Backing.HUGETLB, MappingKind.HUGETLB)),
    ],
)
def test_a_folio(
    tree: Tree, look: Look, line: str, size: int, flags: int, expected: PageClass
) -> None:
    tree.maps(mapped(line))
    tree.pages(HUGE, [OWN | GIB + HUGE + number for number in range(size)])
    tree.frames(GIB + HUGE, compound(size, flags))
    place = look(tree)
    assert pages(place) == {expected: size}
    assert place.mappings[0].kind is expected.kind


@pytest.mark.parametrize("look", BOTH)
def test_a_gigantic_page(tree: Tree, look: Look) -> None:
    tree.maps(mapped(HUGE_FILE, GIGANTIC), pages=GIGANTIC)
    tree.pages(0, [OWN | 2 * GIB + number for number in range(GIGANTIC)])
    tree.frames(2 * GIB, compound(GIGANTIC, HUGETLB))
    expected = page("Movable", Backing.GIGANTIC, MappingKind.HUGETLB, node=1)
    assert pages(look(tree)) == {expected: GIGANTIC}


@pytest.mark.parametrize("look", BOTH)
@pytest.mark.parametrize("size", [16, HUGE])
def test_tails_of_6_1_show_none_of_the_flags_of_their_head(
    tree: Tree, look: Look, size: int
) -> None:
    tree.pages(3, [OWN | GIB + size + number for number in range(size)])
    tree.frames(GIB + size, [HEAD | THP | ANON | DIRTY, *[TAIL | THP | ANON] * (size - 1)])
    backing = Backing.THP if size == HUGE else Backing.LARGE
    assert pages(look(tree)) == {page("Movable", backing, MappingKind.ANON, Mark.DIRTY): size}


@pytest.mark.parametrize("look", BOTH)
def test_a_huge_page_of_which_a_part_is_mapped(tree: Tree, look: Look) -> None:
    tree.pages(7, [OWN | HUGE + 300, OWN | HUGE + 2])
    tree.frames(HUGE, compound(HUGE, THP | ANON))
    assert pages(look(tree)) == {page("Normal", Backing.THP, MappingKind.ANON): 2}


@pytest.mark.parametrize("look", BOTH)
def test_swapped_pages_and_holes(tree: Tree, look: Look) -> None:
    tree.pages(0, [OWN | 5, 0, SWAPPED | 5, 0, 0, SWAPPED | 1 << 40])
    tree.frames(5, [ANON])
    place = look(tree)
    assert pages(place) == {page("Normal", Backing.BASE, MappingKind.ANON): 1}
    assert place.swapped_bytes == 2 * PAGE_BYTES
    assert (place.error, place.unreadable) == (0.0, 0)


@pytest.mark.parametrize("look", BOTH)
def test_where_cma_lies(tree: Tree, look: Look) -> None:
    tree.pages(0, [OWN | GIB * 3 // 2 - 1, OWN | GIB * 3 // 2])
    tree.frames(GIB * 3 // 2 - 1, [0, 0])
    assert {one.cma for one in pages(look(tree))} == {Cma.NO, Cma.YES}


@pytest.mark.parametrize("look", BOTH)
def test_frames_of_which_the_kernel_tells_nothing(tree: Tree, look: Look) -> None:
    """Behind the end of memory, and without a page that is online (KPF_NOPAGE)."""
    tree.pages(0, [OWN | 3 * GIB, OWN | 77])
    tree.frames(77, [1 << 20])
    place = look(tree)
    assert (place.unreadable, place.samples) == (2, 2)
    assert [(one.zone, one.must_move) for one in pages(place)] == [(None, None)]


def test_many_mappings_and_all_kinds_at_once(tree: Tree) -> None:
    """Exact is equal to the page; what is not resident in guest memory is the process's own."""
    rng, truth = random.Random(7), Counter[str]()
    half = 1 << 14
    tree.maps(mapped(ANONYMOUS, half), mapped(MEMFD, half, half), pages=2 * half)
    for at in range(0, 2 * half, HUGE):
        kind = rng.choice(["hole", "thp", "small", "swapped", "ksm"])
        pfn = at if rng.random() < 0.5 else GIB + at
        count = HUGE if kind == "thp" else rng.randrange(1, HUGE)
        word = {"hole": 0, "swapped": SWAPPED, "ksm": PRESENT}.get(kind, OWN)
        step = 0 if kind in ("hole", "swapped") else 1
        tree.pages(at, [word | (pfn + n if step else 0) for n in range(count)])
        if kind == "thp":
            tree.frames(pfn, compound(HUGE, THP | ANON))
        elif kind == "ksm":
            tree.frames(pfn, [ANON | KSM] * count)
        truth[kind if not step else f"{kind} {'Normal' if pfn < GIB else 'Movable'}"] += count
    place = exact(tree)
    found = Counter[str]()
    for one, count in pages(place).items():
        kind = "thp" if one.backing is Backing.THP else "small"
        found[f"{'ksm' if one.kind is MappingKind.KSM else kind} {one.zone}"] += count
    found["swapped"] = place.swapped_bytes // PAGE_BYTES
    del truth["hole"]
    assert found == truth
    assert place.own_bytes == max((102400 + 2048) * 1024 - place.resident_bytes, 0)


@pytest.mark.parametrize("density", [0.02, 0.6, 1.0])
def test_a_sample_stays_within_the_error_that_it_states(tree: Tree, density: float) -> None:
    rng, count = random.Random(3), 1 << 16
    frames = [rng.choice([0, GIB]) + n for n in range(1, count + 1)]
    there = [rng.random() < density for _ in range(count)]
    tree.maps(mapped(ANONYMOUS, count), pages=count)
    tree.pages(
        0, [OWN | pfn if is_there else 0 for pfn, is_there in zip(frames, there, strict=True)]
    )
    tree.frames(1, [ANON] * count)
    tree.frames(GIB + 1, [ANON] * count)
    truth = exact(tree)
    assert truth.resident_bytes == sum(there) * PAGE_BYTES
    for seed in range(8):
        place = sample(tree, 0.04, seed)
        assert place.error <= 0.05
        for zone in ("Normal", "Movable"):
            one, other = (p.bytes_where(lambda c, z=zone: c.zone == z) for p in (truth, place))  # type: ignore[misc]
            assert abs(one - other) <= 2 * place.error * truth.resident_bytes


def test_a_terabyte_of_holes_costs_no_more_than_its_pages(tree: Tree) -> None:
    """2 GiB here, of which 3 pages are there: read to the end, and they are found."""
    tree.maps(mapped(ANONYMOUS, 1 << 19), pages=1 << 19)
    for at in (0, 200_000, (1 << 19) - 1):
        tree.pages(at, [OWN | 9])
    tree.frames(9, [0])
    assert sum(pages(sample(tree)).values()) == 3


# ---- when it does not work -------------------------------------------------------------------


@pytest.mark.parametrize("look", [pagemap.exact, pagemap.sample])
def test_without_the_right_to_see_frames(tree: Tree, look: Callable[..., Placement]) -> None:
    tree.pages(0, [OWN])
    with pytest.raises(CannotRunError, match="shows no page frames") as caught:
        look(tree.proc, TGID, FRAMES)
    assert caught.value.hint == "run as root, with CAP_SYS_ADMIN"


def test_without_kpageflags(tree: Tree) -> None:
    (tree.proc / "kpageflags").unlink()
    with pytest.raises(CannotRunError, match="kpageflags"):
        exact(tree)


@pytest.mark.parametrize("look", [pagemap.exact, pagemap.sample])
def test_a_process_that_is_not_there(tree: Tree, look: Callable[..., Placement]) -> None:
    assert look(tree.proc, TGID + 1, FRAMES) is None
    (tree.proc / str(TGID) / "pagemap").unlink()
    assert look(tree.proc, TGID, FRAMES) is None


class Exits(Frames):
    """The process ends as soon as one frame was looked up."""

    def __init__(self, tree: Tree) -> None:
        super().__init__([(0, 4 * GIB, FRAMES.find(0))])
        self._tree = tree

    def piece(self, pfn: int) -> int:
        (self._tree.proc / str(TGID) / "pagemap").write_bytes(b"")
        return super().piece(pfn)


@pytest.mark.parametrize("look", [pagemap.exact, pagemap.sample])
def test_a_process_that_exits_in_the_middle(tree: Tree, look: Callable[..., Placement]) -> None:
    tree.pages(0, [OWN | 5] * 100)
    tree.frames(5, [ANON])
    assert look(tree.proc, TGID, Exits(tree)) is None


@pytest.mark.parametrize("look", [pagemap.exact, pagemap.sample])
def test_a_scan_of_memory_that_was_given_up_finds_nothing_and_says_nothing(
    tree: Tree, look: Callable[..., Placement], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before ESRCH of newer kernels; a read gives no bytes then."""
    (tree.proc / str(TGID) / "pagemap").write_bytes(b"")
    monkeypatch.setattr(pagemap.Pagemap, "scan", lambda *_: True)
    assert look(tree.proc, TGID, FRAMES) is None
