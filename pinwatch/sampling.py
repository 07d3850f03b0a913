"""Which pages to look at, and how far off the answer may be. Pure: extents in, page numbers out.

A stratum is a piece of address space of which some pages are populated. Each is cut into as many
equal intervals as pages are wanted, and one page is drawn from each: never worse than drawing from
all of it at once, and much better where neighbours are alike.
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Pages that make all shares of a whole right to within 1 at once, at worst, in 99 of 100 samples
# (S. K. Thompson, "Sample size for estimating multinomial proportions", The American Statistician
# 41, 1987): so that 95 of any 100 are, and not 95 of 100 in the long run only.
_THOMPSON = 1.96986
_Z_SQUARED = _THOMPSON / 0.25  # what that means for a share of one half
_SPARSEST = 1e-6
MAX_EXTENTS = 1 << 18


class Extents:
    """Ranges of page numbers in order; when there are too many, small gaps are taken in."""

    def __init__(self, limit: int = MAX_EXTENTS) -> None:
        self._starts = array("Q")
        self._ends = array("Q")
        self._limit = limit
        self._gap = 0
        self.populated = 0  # pages that were added

    def add(self, start: int, end: int) -> None:
        """Pages [start, end), behind all that were added before."""
        self.populated += end - start
        self._append(start, end)
        while len(self) > self._limit:
            self._gap = 2 * self._gap or 1
            pairs, self._starts, self._ends = tuple(self), array("Q"), array("Q")
            for pair in pairs:
                self._append(*pair)

    def _append(self, start: int, end: int) -> None:
        if self._ends and start - self._ends[-1] <= self._gap:
            self._ends[-1] = end
        else:
            self._starts.append(start)
            self._ends.append(end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def pages(self) -> int:
        """All that may be drawn, gaps that were taken in included."""
        return sum(self._ends) - sum(self._starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Extents to draw from. `populated`: how many pages of them are, when that is known; else
    `density` is what a first look says."""

    extents: Extents
    populated: int | None
    density: float = 1.0

    @property
    def expected(self) -> float:
        return self.extents.pages * self.density if self.populated is None else self.populated


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What came of a stratum: of `drawn` pages, `hits` were populated."""

    pages: int  # in its extents
    populated: int | None
    drawn: int
    hits: int

    @property
    def weight(self) -> float:
        """Pages for which a hit stands."""
        if self.is_census:
            return 1.0
        if self.populated is None:
            return self.pages / self.drawn if self.drawn else 0.0
        return self.populated / self.hits if self.hits else 0.0

    @property
    def is_census(self) -> bool:
        return self.drawn >= self.pages


def wanted_hits(error: float) -> int:
    """Populated pages to look at for that error (0.01 for 1 %)."""
    return math.ceil(_THOMPSON / error**2)


def error_for(hits: float) -> float:
    """The error that looking at so many populated pages is worth."""
    return math.sqrt(_THOMPSON / max(hits, 1))


def draws_without_count(density: float, hits: float) -> float:
    """How many pages to draw for the worth of `hits`, where nobody knows how many are populated and
    `density` of them are: others miss, and the total is estimated as well."""
    share = min(density, 0.5)
    return hits * 4 * share * (1 - share) / density**2


def allot(strata: Sequence[Stratum], error: float) -> list[int]:
    """How many pages to draw of each stratum, so that all together are as exact as wanted."""
    whole = sum(stratum.expected for stratum in strata)
    hits = wanted_hits(error)
    return [_draws(s, hits * s.expected / whole) if whole else 0 for s in strata]


def _draws(stratum: Stratum, hits: float) -> int:
    pages = stratum.extents.pages
    if stratum.populated is None:
        wanted = draws_without_count(max(stratum.density, _SPARSEST), hits)
    else:
        wanted = hits * pages / max(stratum.populated, 1)
    return min(pages, math.ceil(wanted))


def draw(extents: Extents, count: int, rng: random.Random) -> Iterator[int]:
    """That many page numbers, ascending: one at random out of each of `count` equal intervals. All
    of them when there are no more."""
    pairs = tuple(extents)
    firsts, total = [], 0  # how many pages lie before each extent
    for start, end in pairs:
        firsts.append(total)
        total += end - start
    count = min(count, total)
    for number in range(count):
        low, high = number * total // count, (number + 1) * total // count
        position = low + int(rng.random() * (high - low))
        at = bisect_right(firsts, position) - 1
        yield pairs[at][0] + position - firsts[at]


def error_of(drawn: Sequence[Drawn]) -> float:
    """The stated error of any sum of classes, as a fraction of all that is populated; 0 when every
    page was looked at. Each stratum is taken at its worst, as if drawn from at random."""
    whole = sum(one.weight * one.hits for one in drawn)
    variance = sum(_variance(one) for one in drawn if not one.is_census)
    return math.sqrt(_Z_SQUARED * variance) / whole if whole else 0.0


def _variance(one: Drawn) -> float:
    """Of a count of pages of one class, at worst."""
    if one.populated is not None:
        return one.populated**2 * 0.25 / max(one.hits, 1)
    share = min(one.hits / max(one.drawn, 1), 0.5)
    return one.pages**2 * share * (1 - share) / max(one.drawn, 1)
