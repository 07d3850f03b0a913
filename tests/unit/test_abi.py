"""The Python mirror of bpf/pinwatch.h. Sizes and offsets are asserted by the compiler on every
start; here, without a compiler, that the assertions cover the whole header."""

from __future__ import annotations

import re
from pathlib import Path

from pinwatch.abi import layout

HEADER = (Path(__file__).resolve().parents[2] / "bpf/pinwatch.h").read_text()


def test_every_structure_of_the_header_is_asserted() -> None:
    declared = set(re.findall(r"^struct (\w+) \{", HEADER, re.M))
    asserted = set(
        re.findall(r"_Static_assert\(sizeof\(struct (\w+)\)", layout.static_assertions())
    )
    assert declared == asserted
    assert len(declared) > 10


def test_every_member_is_asserted() -> None:
    for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", HEADER, re.M | re.S):
        members = re.findall(r"^\t[\w ]+? (\w+)(?:\[\w+\])?;", body, re.M)
        asserted = re.findall(
            rf"_Static_assert\(__builtin_offsetof\(struct {name}, (\w+)\)",
            layout.static_assertions(),
        )
        assert members == asserted, name


def test_every_enumerator_is_asserted() -> None:
    declared = set(re.findall(r"^\t(PW_\w+) = \d+,", HEADER, re.M))
    asserted = set(re.findall(r"_Static_assert\((PW_\w+) == \d+,", layout.static_assertions()))
    assert declared == asserted


def test_lengths_are_those_of_the_header() -> None:
    defined = dict(re.findall(r"^#define PW_(\w+) (\d+)$", HEADER, re.M))
    assert defined
    for name, value in defined.items():
        assert getattr(layout, name) == int(value), name


def test_every_source_and_counter_has_a_name() -> None:
    assert len(layout.SOURCE_NAMES) == layout.Source.COUNT
    assert len(layout.VMSTAT_NAMES) == layout.Witness.COUNT
    assert len(layout.LOSS_NAMES) == layout.Loss.COUNT
