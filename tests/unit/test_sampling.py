"""The sampler against maps whose truth is known: its stated error holds."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinwatch import sampling
from pinwatch.sampling import Drawn, Extents, Stratum


class Map:
    """Address space as runs of pages: (class, length); class "" is a hole."""

    def __init__(self, runs: list[tuple[str, int]]) -> None:
        self.runs = runs
        self.truth: Counter[str] = Counter()
        self.extents = Extents()
        self.whole = Extents()
        at = 0
        for kind, length in runs:
            if kind:
                self.truth[kind] += length
                self.extents.add(at, at + length)
            at += length
        self.whole.add(0, at)
        self.by_page = [kind for kind, length in runs for _ in range(length)]

    @property
    def populated(self) -> int:
        return sum(self.truth.values())


def measure(strata: list[tuple[Map, Stratum]], error: float, seed: int) -> tuple[float, float]:
    """The stated error, and the greatest real one, over all classes and pairs of them."""
    rng = random.Random(seed)
    counts = sampling.allot([stratum for _, stratum in strata], error)
    found: Counter[str] = Counter()
    drawn = []
    for (map_, stratum), count in zip(strata, counts, strict=True):
        seen = [map_.by_page[page] for page in sampling.draw(stratum.extents, count, rng)]
        hits = Counter(kind for kind in seen if kind)
        one = Drawn(pages=stratum.extents.pages, populated=stratum.populated, drawn=count,
                    hits=hits.total())  # fmt: skip
        drawn.append(one)
        for kind, number in hits.items():
            found[kind] += number * one.weight  # type: ignore[assignment]
    truth: Counter[str] = Counter()
    for map_, _ in strata:
        truth.update(map_.truth)
    whole = truth.total()
    misses = [found[kind] - truth[kind] for kind in truth]
    worst = max(sum(miss for miss in misses if miss > 0), -sum(miss for miss in misses if miss < 0))
    return sampling.error_of(drawn), worst / whole


def known(map_: Map) -> tuple[Map, Stratum]:
    return map_, Stratum(extents=map_.extents, populated=map_.populated)


def uncounted(map_: Map) -> tuple[Map, Stratum]:
    density = map_.populated / map_.whole.pages
    return map_, Stratum(extents=map_.whole, populated=None, density=density)


RUNS = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 600)), min_size=40, max_size=200
).filter(lambda runs: sum(length for kind, length in runs if kind) > 4000)
SHUFFLED = st.builds(
    lambda seed, shares: [
        (kind, 1)
        for kind in random.Random(seed).choices(["", "a", "b", "c"], weights=shares, k=30_000)
    ],
    st.integers(0, 1 << 32),
    st.tuples(*[st.integers(1, 9)] * 4),
)


@settings(max_examples=6)
@given(RUNS | SHUFFLED, st.booleans(), st.integers(0, 1 << 32))
def test_the_stated_error_holds_in_95_of_100_runs(
    runs: list[tuple[str, int]], counted: bool, seed: int
) -> None:
    map_ = Map(runs)
    strata = [known(map_) if counted else uncounted(map_)]
    results = [measure(strata, 0.04, seed + number) for number in range(100)]
    assert all(stated <= 0.05 for stated, _ in results)
    assert sum(real <= stated for stated, real in results) >= 95
    assert all(real <= 2 * stated for stated, real in results)


@settings(max_examples=4)
@given(SHUFFLED, RUNS, st.integers(0, 1 << 32))
def test_the_stated_error_holds_for_several_mappings(
    one: list[tuple[str, int]], other: list[tuple[str, int]], seed: int
) -> None:
    strata = [uncounted(Map(one)), known(Map(other))]
    results = [measure(strata, 0.05, seed + number) for number in range(100)]
    assert sum(real <= stated for stated, real in results) >= 95
    assert all(real <= 2 * stated for stated, real in results)


def test_the_default_error_needs_19699_pages_whatever_the_size() -> None:
    for size in (1 << 20, 1 << 28):
        extents = Extents()
        extents.add(0, size)
        stratum = Stratum(extents=extents, populated=size)
        assert sampling.allot([stratum], 0.01) == [19_699]


def test_few_pages_are_all_looked_at_and_the_error_is_nothing() -> None:
    map_ = Map([("a", 100), ("", 10_000), ("b", 23)])
    assert measure([known(map_)], 0.01, 1) == (0.0, 0.0)


def test_draws_are_ascending_one_from_each_interval() -> None:
    extents = Extents()
    extents.add(100, 200)
    extents.add(1000, 1900)
    pages = list(sampling.draw(extents, 10, random.Random(1)))
    assert 100 <= pages[0] < 200
    assert [(page - 1000) // 100 for page in pages[1:]] == list(range(9))
    every = list(sampling.draw(extents, 5000, random.Random(1)))
    assert every == [*range(100, 200), *range(1000, 1900)]


def test_nothing_to_draw() -> None:
    assert list(sampling.draw(Extents(), 10, random.Random(1))) == []
    assert sampling.allot([Stratum(extents=Extents(), populated=0)], 0.01) == [0]
    assert sampling.error_of([Drawn(pages=0, populated=0, drawn=0, hits=0)]) == 0.0


@pytest.mark.parametrize("gap", [1, 3, 70])
def test_too_many_extents_take_in_small_gaps(gap: int) -> None:
    extents = Extents(limit=100)
    for number in range(1000):
        extents.add(number * (gap + 1), number * (gap + 1) + 1)
    extents.add(1_000_000, 1_000_005)
    assert len(extents) <= 101
    assert extents.populated == 1005
    assert list(extents)[-1] == (1_000_000, 1_000_005)
    covered = {page for start, end in extents for page in range(start, end)}
    assert covered >= {number * (gap + 1) for number in range(1000)}
    assert extents.pages == len(covered)
