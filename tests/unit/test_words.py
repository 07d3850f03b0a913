"""A failure in words."""

from __future__ import annotations

import pytest

from pinwatch.expose import amounts, as_json, words
from pinwatch.model.event import MappingKind, Memlock, RefusedVma, Seen
from pinwatch.model.failure import StuckPin
from pinwatch.model.holder import Confidence, Holder, HolderMatch
from pinwatch.model.pin import PinSource, Wait
from pinwatch.model.reason import FailureReason
from pinwatch.model.vm import Vm
from tests.unit.make import VM, failure, folio, open_pin, pin, slow_pin


def test_the_whole_story() -> None:
    text = words.explain(failure()).text
    for part in (
        "VM web-01: VFIO map of 64 MiB failed with ENOMEM after 0.18 s (qemu, pid 4242)",
        "[extra_ref_plain]",
        "an order-0 folio (1 page) of shmem memory, dirty, in ZONE_MOVABLE on node 0, pfn 0x103bb1",
        "it could not be moved and had 1 extra plain reference",
        "(refcount 3, 2 explained)",
        "unknown: nothing that pinwatch watches",
        "number 17 failed, after 8192 pages (32 MiB)",
        "17 rounds of migration: 8703 pages moved, 1 did not",
        "migrate_pages() left 1 page → GUP ENOMEM → VFIO map ENOMEM",
        "Retry",
        "https://pinwatch.example/docs/why.md#extra_ref_plain",
    ):
        assert part in text, part


def test_cma_and_pins_are_said() -> None:
    text = words.explain(
        failure(pin(folios=(folio(migratetype="CMA", refcount=2 + 2048, seen=Seen.LEFT),)))
    ).text
    assert "ZONE_MOVABLE in CMA" in text
    assert "and had 2 pins" in text
    assert "attempt" not in text


def test_a_limit_names_numbers_and_no_page() -> None:
    limited = Memlock(
        limit_pages=4096, locked_pages=1, pinned_pages=0, user_pages=0, cap_ipc_lock=False
    )
    of = pin(gup_errno=0, gup_short=0, memlock=limited)
    paragraphs = dict(words.explain(failure(of)).paragraphs)
    assert paragraphs["limit"].startswith("RLIMIT_MEMLOCK is 16 MiB, 4 KiB are locked")
    assert {"page", "holder"}.isdisjoint(paragraphs)


def test_a_holder_is_named_with_its_parent() -> None:
    match = HolderMatch(
        holder=Holder.DROP_CACHES, confidence=Confidence.EXACT, tgid=7, comm="sh",
        parent_tgid=5, parent_comm="cron",
    )  # fmt: skip
    assert words.holder_words(match) == (
        "drop_caches by pid 7 (sh), started by pid 5 (cron): it was at this very memory"
    )


def test_json_has_no_command_line() -> None:
    value = as_json.failure(failure(pin(cmdline=("qemu", "-object", "secret,data=hunter2"))))
    assert "hunter2" not in str(value)
    assert value["reason"] is FailureReason.EXTRA_REF_PLAIN


def test_sizes() -> None:
    assert [amounts.size(n) for n in (4096, 1 << 30, 3 << 20, 5)] == [
        "4 KiB", "1 GiB", "3 MiB", "5 bytes",
    ]  # fmt: skip


def test_attempts_are_told_for_splits_only() -> None:
    split = folio(order=9, seen=Seen.SPLIT, errno=11, attempts=10, cache_refs=512, refcount=514)
    text = words.explain(failure(pin(folios=(split,)))).text
    assert "it could not be split in 10 attempts and had 1 extra plain reference" in text


def test_a_masked_errno_is_told() -> None:
    paragraphs = dict(words.explain(failure(pin(errno=14, source=PinSource.IO_URING))).paragraphs)
    assert paragraphs["errno"].startswith("EFAULT is what the program got")
    assert "errno" not in dict(words.explain(failure()).paragraphs)


def test_refused_memory_is_described() -> None:
    vma = RefusedVma(
        start=0x1000, end=0x2000, flags=0x9, kind=MappingKind.FILE, s_magic=0xEF53, errno=14
    )
    of = pin(errno=14, gup_errno=14, failed_pages=0, folios=(), vma=vma)
    paragraphs = dict(words.explain(failure(of)).paragraphs)
    assert paragraphs["memory"] == (
        "0x1000-0x2000 r-- shared, file memory (file system magic 0xef53)"
    )


def test_what_else_was_active_and_who_called() -> None:
    damon = HolderMatch(holder=Holder.DAMON, confidence=Confidence.OVERLAP, tgid=9, comm="kdamond")
    value = failure(also=(damon,), caller=("vb2_create_framevec", "vb2_qbuf"))
    paragraphs = dict(words.explain(value).paragraphs)
    assert paragraphs["also"] == "active at the time: DAMON by pid 9 (kdamond)"
    assert paragraphs["caller"] == "vb2_create_framevec < vb2_qbuf"


def test_a_slow_pin() -> None:
    text = words.explain_slow(slow_pin()).text
    assert "VM web-01: VFIO map of 64 MiB took 3.00 s" in text
    assert "it waited for writeback [writeback]" in text
    assert "writeback 2.00 s" in text


def test_a_stuck_pin() -> None:
    waiting = StuckPin(vm=VM, pin=open_pin(wait=Wait.WRITEBACK), age_s=5, livelock=False)
    assert words.stuck_words(waiting) == (
        "VM web-01: VFIO map of 64 MiB has not returned for 5.0 s and waits for writeback "
        "(pid 4242)"
    )
    spinning = StuckPin(vm=VM, pin=open_pin(loops=9999), age_s=5, livelock=True)
    assert "[isolation_livelock]" in words.stuck_words(spinning)


@pytest.mark.parametrize(
    ("name", "alias", "shown"),
    [
        ("web", "", "VM web"),
        ("instance-0000002a", "web-01", "VM instance-0000002a (web-01)"),
        ("shop_web-01", "web-01", "VM shop_web-01"),
        ("~host", "", "~host"),
    ],
)
def test_a_vm_with_its_other_name(name: str, alias: str, shown: str) -> None:
    assert words.who(Vm(name=name, alias=alias)) == shown
