"""A failure in words."""

from __future__ import annotations

from pinwatch.expose import as_json, words
from pinwatch.model.event import Memlock, Seen
from pinwatch.model.failure import Confidence, FailureReason, Holder, HolderMatch
from tests.unit.make import failure, folio, pin


def test_the_whole_story() -> None:
    text = words.explain(failure()).text
    for part in (
        "VM web-01: VFIO map of 64 MiB failed with ENOMEM after 0.18 s (qemu, pid 4242)",
        "[extra_ref_plain]",
        "an order-0 folio (1 page) of shmem memory, dirty, in ZONE_MOVABLE on node 0, pfn 0x103bb1",
        "it could not be moved and had 1 extra plain reference",
        "(refcount 3, 2 explained)",
        "unknown: nothing that pinwatch watches",
        "8192 pages pinned, 8703 moved and 1 not, in 17 rounds",
        "Retry",
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
    limited = Memlock(limit_pages=4096, locked_pages=1, pinned_pages=0, cap_ipc_lock=False)
    paragraphs = dict(words.explain(failure(pin(gup_errno=0, memlock=limited))).paragraphs)
    assert paragraphs["limit"].startswith("RLIMIT_MEMLOCK is 16 MiB, 4 KiB are locked")
    assert {"page", "holder"}.isdisjoint(paragraphs)


def test_a_holder_is_named_with_its_parent() -> None:
    match = HolderMatch(
        holder=Holder.DROP_CACHES, confidence=Confidence.EXACT, tgid=7, comm="sh",
        parent_tgid=5, parent_comm="cron",
    )  # fmt: skip
    assert words.holder_words(match) == (
        "drop_caches by pid 7 (sh), started by pid 5 (cron): it was walking this very memory"
    )


def test_json_has_no_command_line() -> None:
    value = as_json.failure(failure(pin(cmdline=("qemu", "-object", "secret,data=hunter2"))))
    assert "hunter2" not in str(value)
    assert value["reason"] is FailureReason.EXTRA_REF_PLAIN


def test_sizes() -> None:
    assert [words.size(n) for n in (4096, 1 << 30, 3 << 20, 5)] == [
        "4 KiB", "1 GiB", "3 MiB", "5 bytes",
    ]  # fmt: skip


def test_attempts_are_told_for_splits_only() -> None:
    split = folio(order=9, seen=Seen.SPLIT, errno=11, attempts=10, cache_refs=512, refcount=514)
    text = words.explain(failure(pin(folios=(split,)))).text
    assert "it could not be split in 10 attempts and had 1 extra plain reference" in text
