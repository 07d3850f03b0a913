"""Amounts in words: bytes, durations, counts."""

from __future__ import annotations

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def size(count: int) -> str:
    """Bytes as a number of the largest unit that divides them."""
    for unit, name in _UNITS:
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} bytes"


def duration(ns: int) -> str:
    """Three significant digits, in s or ms."""
    return f"{ns / 1e9:.2f} s" if ns >= 100_000_000 else f"{ns / 1e6:.3g} ms"


def plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
