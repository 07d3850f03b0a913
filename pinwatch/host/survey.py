"""Look at the host once, then at one process after the other: all that a forecast is made of.

`pinwatch check` does it on demand. A daemon makes a Survey for each round (a few ms) and calls
look() for one VM at a time, from a thread of its own: a lock that a stuck pin holds makes it wait.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pinwatch.errors import CannotRunError
from pinwatch.host import pagemap, probe, vmas, zones
from pinwatch.host.frames import FrameRange, read_frames
from pinwatch.model.event import MappingKind
from pinwatch.model.forecast import Case
from pinwatch.model.placement import Backing, PinRules, Placement

KMSG = Path("/dev/kmsg")

# Pages mapped by themselves up to which the advice is read: 40 ns each with the lock of the memory
# held make 10 ms. Without it, only what is mlocked goes unknown.
ADVICE_PAGES = 1 << 18
_UNTIL_6_4 = "follow_hugetlb_page"  # gone with 4849807114b8
_SINCE_6_5 = "vma_needs_dirty_tracking"  # came with 54cbbbf3faf9, for 8ac268436e6d


class Survey:
    """The host as it was read last. `cma`: where its CMA areas lie, if somebody has read that from
    the kernel. `by_type`: read free memory by migratetype as well.
    CannotRunError where /proc does not tell enough."""

    def __init__(
        self,
        *,
        proc: Path,
        sysfs: Path,
        kmsg: Path = KMSG,
        cma: Sequence[FrameRange] | None = None,
        by_type: bool = False,
    ) -> None:
        self._proc, self._sysfs, self._kmsg, self._cma = proc, sysfs, kmsg, cma
        self._rules: PinRules | None = None
        self._layout: tuple[tuple[int, ...], ...] = ()
        self.free = zones.read_free(proc, sysfs, by_type=by_type)
        self._place()

    def refresh(self) -> None:
        """Read what is free again; where zones begin and end only when that has changed."""
        self.free = zones.read_free(self._proc, self._sysfs)
        self._place()

    def _place(self) -> None:
        layout = tuple((z.node, z.start_pfn, z.spanned, z.present, z.cma) for z in self.free.zones)
        if layout != self._layout:
            self._layout = layout
            self.frames = read_frames(
                self.free.zones, sysfs=self._sysfs, kmsg=self._kmsg, cma=self._cma
            )

    def look(
        self,
        tgid: int,
        *,
        want_bytes: int | None = None,
        managed: bool = False,
        error: float | None = 0.01,
        rng: random.Random | None = None,
    ) -> Case | None:
        """One process, to within `error`; None of it: every page. None when it is gone."""
        if error is None:
            placement = pagemap.exact(self._proc, tgid, self.frames)
        else:
            placement = pagemap.sample(self._proc, tgid, self.frames, error=error, rng=rng)
        limits = vmas.read_limits(self._proc, self._sysfs, tgid, managed=managed)
        if placement is None or limits is None:
            return None
        if error is None or _small_pages(placement) <= ADVICE_PAGES:
            placement = vmas.with_advice(self._proc, tgid, placement)
        return Case(
            placement=placement,
            free=self.free,
            limits=limits,
            rules=self._pin_rules(placement),
            want_bytes=want_bytes,
        )

    def _pin_rules(self, placement: Placement) -> PinRules:
        """Asked of /proc/kallsyms, which is long, once, and only where it matters."""
        kinds = {one.kind for one in placement.mappings}
        if not kinds & {MappingKind.HUGETLB, MappingKind.FILE}:
            return PinRules()
        if self._rules is None:
            self._rules = read_pin_rules(self._proc, self._sysfs)
        return self._rules


def _small_pages(placement: Placement) -> int:
    small = (Backing.BASE, Backing.LARGE)
    return placement.bytes_where(lambda page: page.backing in small) >> 12


def read_pin_rules(proc: Path, sysfs: Path) -> PinRules:
    """What this kernel refuses, by functions that it has, and by what they take."""
    symbols = probe.read_symbols(proc, frozenset({_UNTIL_6_4, _SINCE_6_5, "pin_user_pages"}))
    if "pin_user_pages" not in symbols:
        return PinRules()  # kallsyms tells nothing
    return PinRules(
        refuses_shared_files=_SINCE_6_5 in symbols,
        refuses_movable_hugetlb=_UNTIL_6_4 in symbols,
        hugetlb_stays_on_node=_hugetlb_stays(sysfs),
    )


def _hugetlb_stays(sysfs: Path) -> bool | None:
    """Since v6.10 the caller says whether another node will do, and a pin says no
    (htlb_allow_alloc_fallback)."""
    try:
        arguments = probe.read_btf(sysfs).nr_args("alloc_hugetlb_folio_nodemask")
    except CannotRunError:
        return None
    return None if arguments is None else arguments > 4
