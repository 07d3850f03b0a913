"""What a VMM said of its memory: which hint it is, and whether it came in time."""

from __future__ import annotations

import ctypes as ct
from collections.abc import Mapping

import pytest

from pinwatch.abi import layout
from pinwatch.decode import DecodeError, decode
from pinwatch.expose.words import hints_words
from pinwatch.model.hint import Hint, HintGiven, Timing
from pinwatch.model.sample import TaskKey
from pinwatch.pipeline import Pipeline
from pinwatch.recording import RawRecord, VmFound
from tests.unit.make import FACTS, TASK, head, pin_record

GIB = 1 << 30
PAGE = 4096
Call = layout.Call


def record(call: int, value: int, *, length: int = GIB, **fields: int) -> bytes:
    raw = layout.HintRecord(
        head=head(layout.Record.HINT), call=call, value=value, length=length, address=0x7F0000000000
    )
    for name, number in fields.items():
        setattr(raw, name, number)
    return bytes(raw)


def given(call: int, value: int, **fields: int) -> HintGiven:
    event = decode(record(call, value, **fields), FACTS)
    assert isinstance(event, HintGiven)
    return event


@pytest.mark.parametrize(
    ("call", "value", "hint"),
    [
        (Call.MADVISE, 14, Hint.HUGEPAGE),
        (Call.MADVISE, 23, Hint.POPULATE_WRITE),
        (Call.MADVISE, 26, Hint.UNKNOWN_ADVICE),  # once proposed as MADV_NOMOVABLE
        (Call.MMAP, 0x8001, Hint.MAP_POPULATE),
        (Call.MMAP, 0x48001, Hint.MAP_POPULATE),
        (Call.MMAP, 0x40022, Hint.MAP_HUGETLB),
        (Call.MMAP, 0x2022, Hint.MAP_LOCKED),
        (Call.MLOCK, 0, Hint.MLOCK),
        (Call.MLOCK, 1, Hint.MLOCK_ONFAULT),
        (Call.MLOCKALL, 3, Hint.MLOCKALL),
        (Call.PRCTL, 1, Hint.THP_DISABLE),
        (Call.PRCTL, 0, Hint.THP_ENABLE),
        (Call.MEMFD_CREATE, 4, Hint.MEMFD_HUGETLB),
        (Call.MEMFD_CREATE, 21 << 26 | 5, Hint.MEMFD_HUGETLB),
        (Call.MEMFD_CREATE, 30 << 26 | 4, Hint.MEMFD_HUGETLB_1G),
        (Call.MBIND, 2, Hint.MBIND),
        (Call.SET_MEMPOLICY, 2, Hint.SET_MEMPOLICY),
    ],
)
def test_which_hint(call: int, value: int, hint: Hint) -> None:
    assert given(call, value).hint is hint


def test_every_call_and_every_hint_is_known() -> None:
    calls = {call for call in Call if call is not Call.COUNT}
    values = {
        Call.MMAP: (0x8000, 0x2000, 0x40000),
        Call.MADVISE: range(30),
        Call.PRCTL: (0, 1),
        Call.MLOCK: (0, 1),
        Call.MEMFD_CREATE: (4, 30 << 26 | 4),
    }
    hints = {given(call, value).hint for call in calls for value in values.get(call, (0,))}
    assert hints == set(Hint)


@pytest.mark.parametrize(
    "data", [record(99, 0), record(Call.MMAP, 0x22), record(Call.MLOCK, 0)[:-8]]
)
def test_what_is_no_hint_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data, FACTS)


@pytest.mark.parametrize(
    ("value", "fields", "timing"),
    [
        (14, {"resident_pages": 10}, Timing.BEFORE_POPULATE),
        (14, {"resident_pages": GIB // PAGE // 2 - 1}, Timing.BEFORE_POPULATE),
        (14, {"resident_pages": GIB // PAGE // 2}, Timing.AFTER_POPULATE),
        (23, {"resident_pages": GIB // PAGE}, Timing.BEFORE_POPULATE),  # it is what populates
        (14, {"resident_pages": GIB // PAGE, "pinned_pages": 1}, Timing.AFTER_PIN),
        (23, {"pinned_pages": 1}, Timing.AFTER_PIN),
    ],
)
def test_when_it_came(value: int, fields: Mapping[str, int], timing: Timing) -> None:
    assert given(Call.MADVISE, value, **fields).timing is timing


@pytest.mark.parametrize(
    ("mib", "timing"), [(100, Timing.BEFORE_POPULATE), (300, Timing.AFTER_POPULATE)]
)
def test_when_one_for_the_whole_process_came(mib: int, timing: Timing) -> None:
    hint = given(Call.SET_MEMPOLICY, 2, length=0, resident_pages=mib * 256)
    assert hint.timing is timing


def hints_of(*items: RawRecord | VmFound) -> dict[tuple[str, ...], float]:
    pipeline = Pipeline(FACTS, 0)
    for item in items:
        pipeline.feed(item)
    return pipeline.snapshot().counters.get("pinwatch_vm_hints_total", {})


def test_it_is_counted_for_a_vm_that_is_known_from_proc() -> None:
    qemu = VmFound(TASK.key.in_ticks, ("qemu-kvm", "-name", "web"))
    refused = RawRecord(record(Call.MADVISE, 26, rc=-22))
    assert hints_of(qemu, refused, refused) == {
        ("web", "madvise_unknown", "before_populate", "EINVAL"): 2
    }


def test_what_others_say_is_nothing_to_us() -> None:
    java = VmFound(TASK.key.in_ticks, ("java", "-jar", "shop"))
    assert hints_of(java, RawRecord(record(Call.MADVISE, 14))) == {}
    assert hints_of(RawRecord(record(Call.MADVISE, 14))) == {}


def test_why_says_what_came_too_late() -> None:
    late = given(Call.MADVISE, 14, resident_pages=GIB // PAGE)
    unknown = given(Call.MADVISE, 26, rc=-22)
    in_time = given(Call.MBIND, 2)
    assert hints_words((late, late, unknown, in_time)) == (
        "huge pages for a range (MADV_HUGEPAGE), 2 GiB: when the memory was there already, which "
        "changes none of it; something that no kernel knows 26, 1 GiB: refused with EINVAL; "
        "nodes for a range (mbind), 1 GiB"
    )


def test_a_failure_has_the_hints_of_its_vm() -> None:
    pipeline = Pipeline(FACTS, 0)
    pipeline.feed(VmFound(TASK.key.in_ticks, ("qemu-kvm", "-name", "web", "-uuid", "u1")))
    pipeline.feed(RawRecord(record(Call.MADVISE, 14)))
    pipeline.feed(RawRecord(bytes(pin_record(b"qemu-kvm", b"-name", b"web", b"-uuid", b"u1"))))
    (failure,) = pipeline.snapshot().failures
    assert [hint.hint for hint in failure.hints] == [Hint.HUGEPAGE]


def test_ticks() -> None:
    assert TaskKey(1, 128_498_262_409).in_ticks == TaskKey(1, 128_490_000_000)
    assert ct.sizeof(layout.HintRecord) % 8 == 0
