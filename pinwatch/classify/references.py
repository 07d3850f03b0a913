"""Count a folio's references against what explains them.

The kernel's own test (folio_migrate_mapping and __migrate_folio, can_split_folio): one reference
for the isolation, one a mapping, those of the page cache, one for private data. More than that, and
the folio does not move.
"""

from __future__ import annotations

from pinwatch.model.event import FolioFacts, MappingKind
from pinwatch.model.failure import References

GUP_PIN_COUNTING_BIAS = 1024  # include/linux/mm.h: a pin of a small folio adds this many references


def count(folio: FolioFacts) -> References:
    """Expected and extra references. Pins of a large folio are exact (its pincount); of a small
    one, 1024 plain references would look like a pin."""
    private = folio.private and folio.kind is not MappingKind.NONE
    expected = 1 + folio.mapcount + folio.cache_refs + int(private)
    extra = folio.refcount - expected
    if folio.pincount is not None:
        pins = folio.pincount
        plain = extra - pins
    else:
        pins, plain = divmod(max(extra, 0), GUP_PIN_COUNTING_BIAS)
    return References(expected=expected, extra=extra, pins=pins, plain=max(plain, 0))
