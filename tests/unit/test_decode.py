"""Bytes to events."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinwatch.abi import layout
from pinwatch.decode import DecodeError, decode, introduction, open_pin
from pinwatch.model.event import MappingKind, ModuleLoaded, PinEnded, Seen, TaskSeen
from pinwatch.model.holder import Holder
from pinwatch.model.pin import PinSource, Wait
from pinwatch.model.sample import TaskKey
from tests.unit.make import FACTS, cmdline, head, pin_record


def decoded(record: layout.PinRecord) -> PinEnded:
    event = decode(bytes(record), FACTS)
    assert isinstance(event, PinEnded)
    return event


def test_a_failed_pin() -> None:
    event = decoded(pin_record(b"qemu-kvm", b"-name", b"guest=web-01"))
    assert event.source is PinSource.VFIO_TYPE1
    assert (event.errno, event.gup_errno) == (12, 12)
    assert event.duration_ns == 180_000_000
    assert event.cmdline == ("qemu-kvm", "-name", "guest=web-01")
    assert event.task.comm == "qemu-system-x86"
    folio = event.folios[0]
    assert (folio.zone, folio.node, folio.migratetype) == ("Movable", 0, "MOVABLE")
    assert (folio.kind, folio.dirty, folio.seen) == (MappingKind.SHMEM, True, Seen.MOVE)
    assert (folio.cache_refs, folio.pincount, folio.left) == (1, None, True)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"mapping": 0x1001}, MappingKind.ANON),
        ({"mapping": 0x1003}, MappingKind.KSM),
        ({"mapping": 0}, MappingKind.NONE),
        ({"a_ops": 1, "s_magic": 0xEF53}, MappingKind.FILE),
        ({"a_ops": 1, "s_magic": 0x01021994}, MappingKind.SHMEM),
        ({"order": 9, "page_type": 244 << 24}, MappingKind.HUGETLB),
    ],
)
def test_kinds_of_memory(changes: dict[str, int], kind: MappingKind) -> None:
    record = pin_record()
    for name, value in changes.items():
        setattr(record.failure.folios[0], name, value)
    assert decoded(record).folios[0].kind is kind


@pytest.mark.parametrize(
    ("bits", "migratetype"),
    [(4, "CMA"), (0x14, "ISOLATE"), (0xFFFFFFFF, None), (7, None)],
)
def test_migratetype_with_isolation_as_a_bit(bits: int, migratetype: str | None) -> None:
    record = pin_record()
    record.failure.folios[0].pageblock = bits
    assert decoded(record).folios[0].migratetype == migratetype


def test_the_page_cache_counts_each_page_of_a_huge_one() -> None:
    record = pin_record()
    record.failure.folios[0].order = 9
    assert decoded(record).folios[0].cache_refs == 512


def test_a_zone_that_cannot_be_known_is_not_guessed() -> None:
    event = decode(bytes(pin_record()), replace(FACTS, zones_shift=None, nodes_shift=None))
    assert isinstance(event, PinEnded)
    assert (event.folios[0].zone, event.folios[0].node) == (None, None)


def test_other_records() -> None:
    task = layout.TaskRecord(head=head(layout.Record.TASK), cmdline=cmdline(b"kvm", b"-uuid", b"x"))
    seen = decode(bytes(task), FACTS)
    assert isinstance(seen, TaskSeen)
    assert seen.cmdline == ("kvm", "-uuid", "x")
    module = layout.ModuleRecord(head=head(layout.Record.MODULE), name=b"vfio_iommu_type1")
    loaded = decode(bytes(module), FACTS)
    assert isinstance(loaded, ModuleLoaded)
    assert loaded.name == "vfio_iommu_type1"


def test_what_was_going_on() -> None:
    record = pin_record()
    record.windows[layout.Holder.DROP_CACHES] = layout.Window(
        start_ns=5, tgid=7, tid=8, comm=b"sh", value=3, parent_tgid=6, parent_comm=b"cron"
    )
    record.windows[layout.Holder.PIN_BEFORE] = layout.Window(start_ns=6, end_ns=9)
    record.failure.folios[0].culprit = layout.Culprit(holder=layout.Holder.PIPE, tgid=7)
    event = decoded(record)
    dropper, before = event.activities
    assert (dropper.holder, dropper.end_ns, dropper.value) == (Holder.DROP_CACHES, None, 3)
    assert (before.holder, before.end_ns) == (Holder.PIN, 9)
    culprit = event.folios[0].culprit
    assert culprit is not None
    assert culprit.holder is Holder.PIPE


def test_a_batch_has_its_name() -> None:
    record = pin_record()
    assert decoded(record).folios[0].lru_batch is None
    record.failure.batch_folio = record.failure.folios[0].folio
    for number, name in ((2, "mlock_fbatch.fbatch"), (9, "batch 9")):
        record.failure.lru_batch = number
        assert decoded(record).folios[0].lru_batch == name


def test_a_refused_vma() -> None:
    record = pin_record()
    assert decoded(record).vma is None
    record.failure.vma = layout.Vma(start=1, end=2, flags=3, a_ops=0xFFFF1000, rc=-14)
    vma = decoded(record).vma
    assert vma is not None
    assert (vma.errno, vma.kind) == (14, MappingKind.SHMEM)


def test_a_slow_pin_did_not_fail() -> None:
    record = pin_record()
    record.head.kind, record.rc = layout.Record.PIN_SLOW, 4096
    record.frame.wait_ns[layout.Wait.WRITEBACK] = 7
    event = decoded(record)
    assert event.errno == 0
    assert event.waits_ns[Wait.WRITEBACK] == 7


def test_the_stack_of_a_pin() -> None:
    record = pin_record()
    record.stack[0], record.stack[1] = 0xFFFF1, 0xFFFF2
    assert decoded(record).stack == (0xFFFF1, 0xFFFF2)


@pytest.mark.parametrize("length", [0, 3, 60, 500])
def test_a_cut_record_introduces_nobody(length: int) -> None:
    with pytest.raises(DecodeError):
        introduction(bytes(pin_record())[:length])


def test_an_open_pin() -> None:
    frame = layout.Frame(tgid=5, task_start_ns=6, source=2, gup_open=1, gup_loops=9, waiting=2)
    pin = open_pin(bytes(frame))
    assert (pin.task.tgid, pin.source, pin.loops) == (5, PinSource.IOMMUFD, 9)
    assert pin.wait is Wait.WRITEBACK


def test_hostile_bytes_become_text() -> None:
    record = pin_record(b"\xff\xfe\x1b[2J", b"", b"\xe2\x80\xa8")
    assert decoded(record).cmdline == ("\\xff\\xfe\x1b[2J", "", "\u2028")


def test_what_is_not_understood_is_refused() -> None:
    record = bytes(pin_record())
    with pytest.raises(DecodeError, match="bytes, expected"):
        decode(record[:-1], FACTS)
    with pytest.raises(DecodeError, match="unknown record kind 99"):
        decode(b"\x63" + record[1:], FACTS)
    with pytest.raises(DecodeError):
        decode(b"", FACTS)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(data, FACTS)


@pytest.mark.parametrize("kind", [layout.Record.PIN_FAILED, layout.Record.PIN_SLOW])
def test_a_record_of_a_pin_introduces_its_process(kind: layout.Record) -> None:
    record = pin_record(b"qemu-kvm", b"-name", b"web")
    record.head.kind = kind
    assert introduction(bytes(record)) == (
        TaskKey(4242, 7_000_000_000),
        ("qemu-kvm", "-name", "web"),
    )


def test_a_first_pin_introduces_its_process_and_a_module_nobody() -> None:
    seen = layout.TaskRecord(head=head(layout.Record.TASK), cmdline=cmdline(b"kvm"))
    assert introduction(bytes(seen)) == (TaskKey(4242, 7_000_000_000), ("kvm",))
    assert introduction(bytes(layout.ModuleRecord(head=head(layout.Record.MODULE)))) is None
