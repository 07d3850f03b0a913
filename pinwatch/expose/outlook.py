"""A forecast in plain words, and as JSON: what lies where, what a pin needs, what to change.

Takes a Vm (None: one that is to come), a Case and its Forecast; gives text and values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pinwatch.expose.words import Explanation, who
from pinwatch.model.forecast import Case, Forecast, Span, Verdict
from pinwatch.model.placement import Backing, Cma, Limits, Mark, PageClass, Placement
from pinwatch.model.vm import Vm
from pinwatch.plain import to_plain

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_ADVICE = {
    "hg": "huge pages wanted (MADV_HUGEPAGE)",
    "nh": "no huge pages (MADV_NOHUGEPAGE)",
    "lo": "locked (mlock)",
    "mg": "merged where equal (KSM)",
    "dc": "not inherited by children (MADV_DONTFORK)",
}


def about(count: int) -> str:
    """Bytes with three digits: "1.25 GiB"."""
    for unit, name in _UNITS:
        if abs(count) >= unit:
            return (
                f"{count / unit:.3g} {name}"
                if abs(count) < 1000 * unit
                else f"{count // unit} {name}"
            )
    return f"{count} bytes"


def explain(vm: Vm | None, case: Case, forecast: Forecast) -> Explanation:
    """The verdict, and why."""
    place = case.placement
    subject = who(vm) if vm else "a new VM"
    paragraphs = []
    if place.guest_bytes:
        paragraphs.append(("memory", memory_words(place)))
    if advice := advice_words(place):
        paragraphs.append(("told", advice))
    if pinned := pinned_words(case.limits):
        paragraphs.append(("pinned", pinned))
    paragraphs.append(("needs", needs_words(forecast)))
    paragraphs.append(("free", free_words(case, forecast)))
    for risk in forecast.risks:
        paragraphs.append((_LABELS[risk.verdict], f"{risk.meaning} [{risk}]"))
        paragraphs.append(("change", risk.remedy))
    return Explanation(
        f"{subject}: {forecast.verdict.words} ({about(forecast.want_bytes)})", tuple(paragraphs)
    )


_LABELS = {Verdict.FINE: "note", Verdict.AT_RISK: "risk", Verdict.WILL_FAIL: "stops it"}


def pinned_words(limits: Limits) -> str:
    """What is locked or pinned of the process already, by what it is counted against."""
    parts = []
    if limits.locked_bytes:
        parts.append(f"{about(limits.locked_bytes)} by mlock or VFIO's type1 (VmLck)")
    if limits.pinned_bytes:
        parts.append(f"{about(limits.pinned_bytes)} by others (VmPin)")
    return ", ".join(parts)


def memory_words(place: Placement) -> str:
    """Where it lies, by zone and node, the largest first; and how sure that is."""
    there = place.resident_bytes
    words = f"{about(place.guest_bytes)} of guest memory, {about(there)} of it there"
    if there:
        backings = _sums(place, lambda page: f"as {page.backing.words}")
        words += f": {_sums(place, _where)}; {backings}"
        words += f" (to within {place.error:.1%})" if place.error else " (every page)"
    for mark in (Mark.DIRTY, Mark.SHARED, Mark.COPIED, Mark.WRITEBACK, Mark.POISONED):
        if size := place.bytes_where(lambda page, mark=mark: mark in page.marks):  # type: ignore[misc]
            words += f"; {about(size)} {mark.words}"
    if place.swapped_bytes:
        words += f"; {about(place.swapped_bytes)} swapped out or on the move"
    if place.unreadable:
        words += f"; of {place.unreadable} of {place.samples} pages the kernel told nothing"
    return words


def _where(page: PageClass) -> str:
    if page.zone is None:
        return "in a zone that is not known"
    cma = {Cma.YES: " in CMA", Cma.NO: "", Cma.UNKNOWN: ", maybe in CMA"}[page.cma]
    return f"in ZONE_{page.zone.upper()}{cma} on node {page.node}"


def _sums(place: Placement, name: Callable[[PageClass], str]) -> str:
    sums: dict[str, int] = {}
    for portion in place.portions:
        sums[name(portion.page)] = sums.get(name(portion.page), 0) + portion.size_bytes
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return ", ".join(f"{about(size)} {words}" for words, size in ordered)


def advice_words(place: Placement) -> str:
    """What is in force for its mappings, as far as it was read."""
    if not place.mappings:
        return ""
    if any(one.advice is None for one in place.mappings):
        return "not read: it would hold the lock of the VM's memory for long (--exact reads it)"
    sums: dict[str, int] = {}
    for one in place.mappings:
        for flag in one.advice or ():
            if flag in _ADVICE:
                sums[_ADVICE[flag]] = sums.get(_ADVICE[flag], 0) + one.size_bytes
        if one.policy not in (None, "default"):
            sums[f"policy {one.policy}"] = sums.get(f"policy {one.policy}", 0) + one.size_bytes
    return ", ".join(f"{words}: {about(size)}" for words, size in sums.items())


def needs_words(forecast: Forecast) -> str:
    """What the pin needs of the host."""
    parts = []
    if forecast.must_move.most:
        parts.append(f"{_span(forecast.must_move)} must move first")
    if forecast.must_allocate.most:
        parts.append(f"{_span(forecast.must_allocate)} must be allocated")
    words = " and ".join(parts) or "nothing: all of it lies where it may be pinned"
    if forecast.huge_must_move:
        words += f"; {forecast.huge_must_move} huge pages are among it"
    return words


def _span(span: Span) -> str:
    least, most = about(span.least), about(span.most)
    if not span.least:
        return f"up to {most}"
    return most if least == most else f"{least} to {most}"


def free_words(case: Case, forecast: Forecast) -> str:
    """What there is for it."""
    words = (
        f"{about(forecast.available_bytes)} where pins may lie, "
        f"{about(forecast.reachable_bytes)} if all that can be is reclaimed; "
        f"{forecast.huge_free} free blocks of 2 MiB"
    )
    pools = [pool for pool in case.free.pools if pool.total]
    if pools and any(
        p.page.backing in (Backing.HUGETLB, Backing.GIGANTIC) for p in case.placement.portions
    ):
        words += "; free hugetlb pages: " + ", ".join(
            f"{pool.free} of {about(pool.page_bytes)} on node {pool.node}" for pool in pools
        )
    return words


def as_json(vm: Vm | None, tgid: int, case: Case, forecast: Forecast) -> dict[str, Any]:
    """All of it for scripts."""
    told = explain(vm, case, forecast)
    place = case.placement
    return {
        "vm": asdict(vm) if vm else None,
        "tgid": tgid,
        "verdict": forecast.verdict,
        "risks": [
            {"risk": risk, "verdict": risk.verdict, "meaning": risk.meaning, "remedy": risk.remedy}
            for risk in forecast.risks
        ],
        "headroom_bytes": forecast.headroom_bytes,
        "forecast": {key: value for key, value in asdict(forecast).items() if key != "risks"},
        "limits": to_plain(case.limits),
        "free": to_plain(case.free),
        "placement": _placement(place),
        "explanation": {"headline": told.headline, "paragraphs": told.paragraphs},
    }


def _placement(place: Placement) -> dict[str, Any]:
    return {
        "guest_bytes": place.guest_bytes,
        "resident_bytes": place.resident_bytes,
        "swapped_bytes": place.swapped_bytes,
        "own_bytes": place.own_bytes,
        "error": place.error,
        "samples": place.samples,
        "unreadable": place.unreadable,
        "portions": [
            {**asdict(portion.page), "marks": sorted(portion.page.marks),
             "must_move": portion.page.must_move, "bytes": portion.size_bytes}
            for portion in place.portions
        ],
        "mappings": [
            {**asdict(one), "advice": None if one.advice is None else sorted(one.advice)}
            for one in place.mappings
        ],
    }  # fmt: skip
