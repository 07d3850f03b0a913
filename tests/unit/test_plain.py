"""Frozen values to JSON and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pinwatch.model.placement import Limits, Mark
from pinwatch.plain import from_plain, to_plain
from pinwatch.recording import Looked, Surveyed
from tests.unit.make import free, looked, placement


def test_what_is_written_reads_the_same() -> None:
    place = placement(kernel=1 << 20)
    marked = replace(place.portions[0].page, marks=frozenset(Mark), zone=None)
    mapping = replace(place.mappings[0], advice=frozenset({"lo", "hg"}), policy="bind:1")
    item = replace(
        looked(),
        placement=replace(
            place, portions=(replace(place.portions[0], page=marked),), mappings=(mapping,)
        ),
        limits=Limits(nodes=frozenset({0, 12}), memlock_bytes=None),
    )
    assert from_plain(Looked, json.loads(json.dumps(to_plain(item)))) == item
    survey = Surveyed(free(), 1.5)
    assert from_plain(Surveyed, json.loads(json.dumps(to_plain(survey)))) == survey


def test_sets_are_in_order() -> None:
    assert to_plain(frozenset({"b", "a", "c"})) == ["a", "b", "c"]


@pytest.mark.parametrize("plain", [{}, {"free": 1}, {"free": {"zones": []}, "more": 1}])
def test_what_is_none_is_refused(plain: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        from_plain(Surveyed, plain)
