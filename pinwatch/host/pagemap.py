"""Where the guest memory of one process lies, by /proc/PID/pagemap and /proc/kpageflags.

No page is touched or referenced, and the lock of its memory is held, for reading, for 2 MiB of
address space at a time (a read of pagemap), or SCAN_BYTES (PAGEMAP_SCAN). What it costs hangs on
the error that is asked for, not on the size of the guest. A process that exits gives None.

Mapped more than once is told by pagemap itself (bit 56), so /proc/kpagecount is not read. How often
a page is pinned or held no file of the kernel tells.
"""

from __future__ import annotations

import ctypes as ct
import errno
import fcntl
import os
import random
from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pinwatch import sampling
from pinwatch.errors import CannotRunError
from pinwatch.host import vmas
from pinwatch.host.frames import Frames
from pinwatch.model.event import MappingKind
from pinwatch.model.placement import (
    GIGANTIC_ORDER,
    HUGE_ORDER,
    PAGE_BYTES,
    Backing,
    Mapping,
    Mark,
    PageClass,
    Placement,
    Portion,
)
from pinwatch.sampling import Drawn, Extents, Stratum

ENTRY = 8  # bytes of an entry of either file

# Documentation/admin-guide/mm/pagemap.rst: /proc/PID/pagemap
_PRESENT, _SWAPPED, _EXCLUSIVE = 1 << 63, 1 << 62, 1 << 56
_POPULATED = _PRESENT | _SWAPPED
_PFN = (1 << 55) - 1
# The same: /proc/kpageflags
_LOCKED, _DIRTY, _WRITEBACK, _ANON = 1 << 0, 1 << 4, 1 << 8, 1 << 12
_HEAD, _TAIL, _HUGETLB = 1 << 15, 1 << 16, 1 << 17
_POISONED, _NOPAGE, _KSM, _THP, _ZERO = 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 24
_TELLING = _LOCKED | _DIRTY | _WRITEBACK | _ANON | _HUGETLB | _POISONED | _KSM | _ZERO
_MARKS = (
    (_DIRTY, Mark.DIRTY),
    (_WRITEBACK, Mark.WRITEBACK),
    (_LOCKED, Mark.LOCKED),
    (_POISONED, Mark.POISONED),
)

SMALL_PAGES = (64 << 20) // PAGE_BYTES  # of a mapping that is read from end to end
CHUNK_PAGES = 1 << 15  # entries for one read: 256 KiB
SCAN_BYTES = 128 << 20  # of address space for one PAGEMAP_SCAN
WINDOW = 32  # words of kpageflags for one read, where every page is looked at
PILOT_PAGES = 256
# What the ways cost, in ns, where each was measured; only their ratio matters.
_DRAW_NS, _READ_PRESENT_NS, _READ_HOLE_NS, _SCAN_PRESENT_NS = 2500, 37, 6.4, 13


class ProcessGoneError(Exception):
    """It exited, or gave up its memory, while we looked."""


# ---- PAGEMAP_SCAN (v6.7, 52526ca7fdb9) --------------------------------------------------------

_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_PAGE_IS_PRESENT, _PAGE_IS_SWAPPED = 1 << 3, 1 << 4
_REGIONS = 1024


class _Region(ct.Structure):
    """struct page_region of include/uapi/linux/fs.h."""

    _fields_ = (("start", ct.c_uint64), ("end", ct.c_uint64), ("categories", ct.c_uint64))


class _ScanArg(ct.Structure):
    """struct pm_scan_arg of the same."""

    _fields_ = tuple(
        (name, ct.c_uint64)
        for name in (
            "size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages",
            "category_inverted", "category_mask", "category_anyof_mask", "return_mask",
        )
    )  # fmt: skip


class Pagemap:
    """The two files, open for one process. ProcessGoneError where it is gone."""

    def __init__(self, proc: Path, tgid: int) -> None:
        self._flags = _open(proc / "kpageflags")
        try:
            self._map = _open(proc / str(tgid) / "pagemap")
        except (FileNotFoundError, ProcessLookupError):
            os.close(self._flags)
            raise ProcessGoneError from None
        self._regions = (_Region * _REGIONS)()
        self._window = array("Q")
        self._window_start = 0
        self.window = 1
        self.scans = True  # until the kernel says that it cannot

    def close(self) -> None:
        os.close(self._map)
        os.close(self._flags)

    def entry(self, page: int) -> int:
        """The word of one page of address space."""
        data = os.pread(self._map, ENTRY, page * ENTRY)
        if len(data) < ENTRY:
            raise ProcessGoneError
        return int.from_bytes(data, "little")

    def entries(self, start: int, end: int) -> array[int]:
        """The words of pages [start, end)."""
        data = os.pread(self._map, (end - start) * ENTRY, start * ENTRY)
        if len(data) < (end - start) * ENTRY:
            raise ProcessGoneError
        return array("Q", data)

    def flags(self, pfn: int) -> int | None:
        """The word of one frame; None when the kernel has none for it. `window` words are read at
        a time, which helps where neighbours are asked for."""
        if self.window == 1:
            data = os.pread(self._flags, ENTRY, pfn * ENTRY)
            return int.from_bytes(data, "little") if len(data) == ENTRY else None
        at = pfn - self._window_start
        if not 0 <= at < len(self._window):
            self._window_start, at = pfn, 0
            self._window = self.many_flags(pfn, self.window)
        return self._window[at] if at < len(self._window) else None

    def many_flags(self, pfn: int, count: int) -> array[int]:
        """The words of frames from `pfn` on, fewer where memory ends."""
        data = os.pread(self._flags, count * ENTRY, pfn * ENTRY)
        return array("Q", data[: len(data) // ENTRY * ENTRY])

    def scan(self, start: int, end: int, found: Callable[[int, int], None]) -> bool:
        """Tell `found` of each run of populated pages in [start, end). False: this kernel, or this
        file, knows no PAGEMAP_SCAN."""
        at, last = start * PAGE_BYTES, end * PAGE_BYTES
        while at < last:
            stop = min(at + SCAN_BYTES, last)
            anyof = _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED
            argument = _ScanArg(
                size=ct.sizeof(_ScanArg), start=at, end=stop, vec=ct.addressof(self._regions),
                vec_len=_REGIONS, category_anyof_mask=anyof, return_mask=anyof,
            )  # fmt: skip
            try:
                count = fcntl.ioctl(self._map, _PAGEMAP_SCAN, argument)
            except OSError as error:
                if error.errno == errno.ESRCH:
                    raise ProcessGoneError from None
                if error.errno in (errno.ENOTTY, errno.EINVAL):
                    return False
                raise
            for region in self._regions[:count]:
                found(region.start // PAGE_BYTES, region.end // PAGE_BYTES)
            at = max(argument.walk_end, at + PAGE_BYTES)
        return True


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise CannotRunError(f"cannot read {path}", hint="run as root") from None
    except FileNotFoundError:
        if path.name == "kpageflags":
            raise CannotRunError(
                f"this kernel has no {path}", hint="it needs CONFIG_PROC_PAGE_MONITOR=y"
            ) from None
        raise


# ---- which pages ----------------------------------------------------------------------------


def populated(pagemap: Pagemap, start: int, end: int) -> Extents:
    """The runs of pages in [start, end) that are present or swapped."""
    extents = Extents()
    if pagemap.scans:
        pagemap.scans = pagemap.scan(start, end, extents.add)
    if not pagemap.scans:
        for low in range(start, end, CHUNK_PAGES):
            _add_runs(extents, low, pagemap.entries(low, min(low + CHUNK_PAGES, end)))
    return extents


_NOTHING = bytes(CHUNK_PAGES * ENTRY)


def _add_runs(extents: Extents, first: int, entries: array[int]) -> None:
    if memoryview(entries).cast("B") == memoryview(_NOTHING)[: len(entries) * ENTRY]:
        return
    start = -1
    for at, entry in enumerate(entries):
        if entry & _POPULATED:
            start = at if start < 0 else start
        elif start >= 0:
            extents.add(first + start, first + at)
            start = -1
    if start >= 0:
        extents.add(first + start, first + len(entries))


def _stratum(pagemap: Pagemap, mapping: Mapping, hits: int, rng: random.Random) -> Stratum:
    """How to draw from a mapping: from what is populated, or, where finding that costs more than
    drawing in vain, from all of it."""
    start, end = mapping.start // PAGE_BYTES, mapping.end // PAGE_BYTES
    if end - start > SMALL_PAGES:
        whole = Extents()
        whole.add(start, end)
        pilot = sum(
            bool(pagemap.entry(page) & _POPULATED)
            for page in sampling.draw(whole, PILOT_PAGES, rng)
        )
        density = pilot / PILOT_PAGES
        if density and _drawing_is_cheaper(end - start, density, hits, scans=pagemap.scans):
            return Stratum(extents=whole, populated=None, density=density)
    extents = populated(pagemap, start, end)
    return Stratum(extents=extents, populated=extents.populated)


def _drawing_is_cheaper(pages: int, density: float, hits: int, *, scans: bool) -> bool:
    present = pages * density
    in_vain = sampling.draws_without_count(density, hits) - hits
    finding = (
        present * _SCAN_PRESENT_NS
        if scans
        else present * _READ_PRESENT_NS + (pages - present) * _READ_HOLE_NS
    )
    return in_vain * _DRAW_NS < finding


# ---- what a page is --------------------------------------------------------------------------


class Key(NamedTuple):
    """Whatever decides the class of a page, as cheap to count by as can be."""

    mapping: int  # its number
    piece: int  # of Frames
    flags: int  # those that tell something
    exclusive: bool
    backing: Backing


_UNREAD = -1  # flags of a frame of which the kernel told nothing


class _Reader:
    """Reads what stands behind entries of pagemap."""

    def __init__(self, pagemap: Pagemap, frames: Frames) -> None:
        self.entry = pagemap.entry
        self._flags = pagemap.flags
        self._pagemap = pagemap
        self._piece = frames.piece

    def key(self, mapping: int, entry: int) -> Key:
        pfn = entry & _PFN
        if not pfn:
            raise CannotRunError(
                "the kernel shows no page frames", hint="run as root, with CAP_SYS_ADMIN"
            )
        exclusive = bool(entry & _EXCLUSIVE)
        flags = self._flags(pfn)
        if flags is None or flags & _NOPAGE:
            return Key(mapping, -1, _UNREAD, exclusive, Backing.BASE)
        backing = Backing.BASE
        if flags & (_HEAD | _TAIL):
            pfn, flags, backing = self._folio(pfn, flags)
        return Key(mapping, self._piece(pfn), flags & _TELLING, exclusive, backing)

    def _folio(self, pfn: int, flags: int) -> tuple[int, int, Backing]:
        """The frame that decides where the folio lies, the flags of its head, and its size."""
        order = self._order_at_least(pfn, flags)
        if order:
            head = pfn >> order << order
            flags |= self._flags(head) or 0  # up to 6.x a tail shows few of them
            if not flags & _HUGETLB:
                return head, flags, Backing.THP
            return head, flags, Backing.HUGETLB if order == HUGE_ORDER else Backing.GIGANTIC
        if flags & _TAIL:
            flags |= self._flags_of_head(pfn)
        return pfn, flags, Backing.LARGE if flags & _THP else Backing.BASE

    def _order_at_least(self, pfn: int, flags: int) -> int:
        """Folios are aligned to their size, so one whose middle is a tail is that large."""
        orders = (GIGANTIC_ORDER, HUGE_ORDER) if flags & _HUGETLB else (HUGE_ORDER,)
        for order in orders:
            middle = (pfn >> order << order) + (1 << order - 1)
            if (self._flags(middle) or 0) & _TAIL:
                return order
        return 0

    def _flags_of_head(self, pfn: int) -> int:
        block = pfn >> HUGE_ORDER << HUGE_ORDER
        words = self._pagemap.many_flags(block, pfn - block + 1)
        return next((word for word in reversed(words) if word & _HEAD), 0)

    def run(self, entries: array[int], at: int) -> int:
        """How many entries from there on are one folio of 2 MiB, mapped in order: they differ by
        their frame alone. 1 for all else."""
        entry, size = entries[at], 1 << HUGE_ORDER
        if entry & (size - 1) or at + size > len(entries):
            return 1
        if entries[at + size - 1] - entry != size - 1 or not self._order_at_least(entry & _PFN, 0):
            return 1
        return size if entries[at : at + size] == array("Q", range(entry, entry + size)) else 1


def _page_class(key: Key, mapping: Mapping, frames: Frames) -> PageClass:
    spot = frames.spot(key.piece)
    flags = 0 if key.flags == _UNREAD else key.flags
    kind = _kind(mapping, flags)
    marks = {mark for bit, mark in _MARKS if flags & bit}
    if not key.exclusive:
        marks.add(Mark.SHARED)
    if _is_copied(key, mapping, kind):
        marks.add(Mark.COPIED)
    return PageClass(
        node=spot.node, zone=spot.zone, cma=spot.cma, backing=key.backing, kind=kind,
        marks=frozenset(marks),
    )  # fmt: skip


def _kind(mapping: Mapping, flags: int) -> MappingKind:
    if flags & _HUGETLB:
        return MappingKind.HUGETLB
    if flags & _KSM:
        return MappingKind.KSM
    if flags & _ANON or mapping.kind is MappingKind.ANON:
        return MappingKind.ANON
    return mapping.kind


def _is_copied(key: Key, mapping: Mapping, kind: MappingKind) -> bool:
    """A pin for writing breaks copy-on-write, and the copy is allocated where it may be pinned
    (mm/gup.c: gup_must_unshare; FOLL_WRITE)."""
    if mapping.shared or kind is MappingKind.HUGETLB:
        return False
    own = kind is MappingKind.ANON and key.exclusive and not key.flags & _ZERO
    return key.flags != _UNREAD and not own


# ---- all of it -------------------------------------------------------------------------------


def sample(
    proc: Path, tgid: int, frames: Frames, *, error: float = 0.01, rng: random.Random | None = None
) -> Placement | None:
    """Placement within `error` of what is resident, at 95 %."""
    chance = rng or random.Random()

    def look(pagemap: Pagemap, mappings: tuple[Mapping, ...]) -> Placement:
        hits = sampling.wanted_hits(error)
        strata = [_stratum(pagemap, mapping, hits, chance) for mapping in mappings]
        reader, sums, found = _Reader(pagemap, frames), _Sums(), []
        for number, (stratum, count) in enumerate(
            zip(strata, sampling.allot(strata, error), strict=True)
        ):
            drawn, keys = _draw(reader, number, stratum, count, chance)
            found.append(drawn)
            weight = drawn.weight
            for key in keys:
                sums.add(key, weight)
        return sums.placement(mappings, frames, error=sampling.error_of(found))

    return _with_pagemap(proc, tgid, look)


def _draw(
    reader: _Reader, mapping: int, stratum: Stratum, count: int, rng: random.Random
) -> tuple[Drawn, list[Key | None]]:
    """The keys of the pages that were populated; None is one that is swapped."""
    keys: list[Key | None] = []
    for page in sampling.draw(stratum.extents, count, rng):
        entry = reader.entry(page)
        if entry & _POPULATED:
            keys.append(reader.key(mapping, entry) if entry & _PRESENT else None)
    drawn = Drawn(
        pages=stratum.extents.pages, populated=stratum.populated, drawn=count, hits=len(keys)
    )
    return drawn, keys


def exact(proc: Path, tgid: int, frames: Frames) -> Placement | None:
    """Placement by looking at every page: 0.7 s for each GiB of small pages."""

    def look(pagemap: Pagemap, mappings: tuple[Mapping, ...]) -> Placement:
        pagemap.window = WINDOW
        reader, sums = _Reader(pagemap, frames), _Sums()
        for number, mapping in enumerate(mappings):
            start, end = mapping.start // PAGE_BYTES, mapping.end // PAGE_BYTES
            for low, high in populated(pagemap, start, end):
                for first in range(low, high, CHUNK_PAGES):
                    entries = pagemap.entries(first, min(first + CHUNK_PAGES, high))
                    _add_all(reader, number, entries, sums)
        return sums.placement(mappings, frames, error=0.0)

    return _with_pagemap(proc, tgid, look)


def _add_all(reader: _Reader, mapping: int, entries: array[int], sums: _Sums) -> None:
    at = 0
    while at < len(entries):
        entry, pages = entries[at], 1
        if entry & _PRESENT:
            pages = reader.run(entries, at)
            sums.add(reader.key(mapping, entry), pages, looks=pages)
        elif entry & _SWAPPED:
            sums.add(None, 1)
        at += pages


class _Sums:
    """Pages by class while they are counted; the numbers may be fractions."""

    def __init__(self) -> None:
        self._pages: defaultdict[Key | None, float] = defaultdict(float)
        self._looks: defaultdict[bool, int] = defaultdict(int)  # read or not

    def add(self, key: Key | None, pages: float, *, looks: int = 1) -> None:
        """A populated page that stands for so many; None: swapped."""
        self._pages[key] += pages
        self._looks[key is None or key.flags != _UNREAD] += looks

    def placement(
        self, mappings: tuple[Mapping, ...], frames: Frames, *, error: float
    ) -> Placement:
        swapped = self._pages.pop(None, 0.0)
        classes: defaultdict[PageClass, float] = defaultdict(float)
        for key, pages in self._pages.items():
            if key is not None:
                classes[_page_class(key, mappings[key.mapping], frames)] += pages
        ordered = sorted(classes.items(), key=lambda item: -item[1])
        huge = {k.mapping for k in self._pages if k and k.flags != _UNREAD and k.flags & _HUGETLB}
        return Placement(
            mappings=tuple(
                replace(one, kind=MappingKind.HUGETLB) if number in huge else one
                for number, one in enumerate(mappings)
            ),
            portions=tuple(Portion(page, round(pages) * PAGE_BYTES) for page, pages in ordered),
            swapped_bytes=round(swapped) * PAGE_BYTES,
            error=error,
            samples=sum(self._looks.values()),
            unreadable=self._looks[False],
        )


def _with_pagemap(
    proc: Path, tgid: int, look: Callable[[Pagemap, tuple[Mapping, ...]], Placement]
) -> Placement | None:
    """None when the process has no memory any more, or exits meanwhile."""
    memory = vmas.read_memory(proc, tgid)
    if memory is None:
        return None
    try:
        pagemap = Pagemap(proc, tgid)
        try:
            placement = look(pagemap, memory.mappings)
            pagemap.entry(0)  # a scan may not tell that the memory was given up
        finally:
            pagemap.close()
    except ProcessGoneError:
        return None
    own = memory.resident_bytes - placement.resident_bytes
    return replace(placement, own_bytes=max(own, 0))
