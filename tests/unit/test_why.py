"""What `pinwatch why` tells: plain words, commands that a shell takes, stories of many failures."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pinwatch import cli
from pinwatch.aggregate.ledger import Ledger
from pinwatch.commands import why
from pinwatch.expose import plainly, remedies, words
from pinwatch.expose.stories import BURST_S, Story, stories
from pinwatch.expose.stories import document as stories_document
from pinwatch.model.failure import Failure
from pinwatch.model.holder import Confidence, Holder, HolderMatch
from pinwatch.model.pin import PinSource
from pinwatch.model.reason import FailureReason, Severity
from pinwatch.model.sample import TaskKey
from pinwatch.model.vm import HOST, Platform, Vm
from tests import documents
from tests.unit.make import TASK, VM, failure, pin

R = FailureReason
REPLAY = Path(__file__).resolve().parents[1] / "replay"
# Words that only who knows the kernel knows. ZONE_MOVABLE and CMA are what he will be asked for.
JARGON = ("folio", "refcount", "GUP", "LRU", "errno", "pfn", "THP", "order-", "VMA", "migrat")

every_reason = pytest.mark.parametrize("reason", FailureReason)


# ---- words ----------------------------------------------------------------------------------


@every_reason
def test_a_reason_is_told_without_the_kernel_s_words(reason: FailureReason) -> None:
    text = plainly.summary(documents.typical(reason), "64 MiB")
    assert [word for word in JARGON if word in text] == []
    assert text.startswith("VM web-01 needed 64 MiB of its memory to stay in one place")
    assert plainly.PLAIN[reason] in text
    assert len(text) < 900


@pytest.mark.parametrize("source", PinSource)
def test_every_source_says_what_the_memory_is_for(source: PinSource) -> None:
    assert "so that" in plainly.summary(failure(pin(source=source)), "1 GiB")


def test_memory_is_said_to_be_short_only_where_it_is() -> None:
    said = {
        reason
        for reason in FailureReason
        if "memory was not short" in plainly.summary(documents.typical(reason), "")
    }
    assert R.EXTRA_REF_PLAIN in said
    assert said.isdisjoint({R.DST_ALLOC_FAILED, R.FAULT_OOM, R.BOOKKEEPING_NOMEM, R.VMA_PERM})


@pytest.mark.parametrize(
    ("match", "told"),
    [
        (HolderMatch(holder=Holder.UNKNOWN), "pinwatch did not see what that was."),
        (
            HolderMatch(holder=Holder.PIPE, confidence=Confidence.EXACT, tgid=7, comm="cat"),
            "In the way was a pipe that nobody reads, filled by cat (pid 7): it was at this very",
        ),
        (
            HolderMatch(holder=Holder.DROP_CACHES, confidence=Confidence.OVERLAP, tgid=7,
                        comm="sh", parent_tgid=5, parent_comm="cron"),
            "In the way was probably drop_caches, run by sh (pid 7), which cron (pid 5) started",
        ),
    ],
)  # fmt: skip
def test_who_was_in_the_way_and_how_sure_that_is(match: HolderMatch, told: str) -> None:
    assert told in plainly.summary(failure(holder=match), "")


def test_a_process_that_is_no_vm_is_called_so() -> None:
    assert plainly.summary(failure(vm=HOST), "").startswith("A process that is no VM needed")


def test_the_chain_goes_from_the_map_to_the_codes() -> None:
    told = words.explain(failure(pin(split_failed=10, split_errno=11, dst_failed=3, dst_order=9)))
    labels = [label for label, _ in told.paragraphs]
    order = ["why", "map", "chunk", "passes", "page", "codes", "holder", "remedy"]
    assert [label for label in labels if label in order] == order
    rows = dict(told.paragraphs)
    assert rows["codes"] == (
        "split EAGAIN → migrate_pages() left 1 page → GUP ENOMEM → VFIO map ENOMEM"
    )
    assert "3 destinations could not be allocated (the last of order 9)" in rows["passes"]


def test_a_limit_has_no_page_and_no_migration_to_blame() -> None:
    rows = dict(words.explain(documents.typical(R.RLIMIT_MEMLOCK)).paragraphs)
    assert rows["codes"] == "GUP worked → VFIO map ENOMEM"
    assert {"page", "holder", "errno"}.isdisjoint(rows)


# ---- commands -------------------------------------------------------------------------------


def all_commands() -> Iterator[tuple[FailureReason, remedies.Command]]:
    for reason in FailureReason:
        made = documents.typical(reason)
        for holder in Holder:
            match = HolderMatch(holder=holder, tgid=7, comm="x", parent_tgid=1, parent_comm="y")
            for platform in Platform:
                vm = replace(made.vm, platform=platform, alias="100", project="shop")
                for command in remedies.commands(replace(made, vm=vm, holder=match)):
                    yield reason, command


def test_a_shell_takes_every_command() -> None:
    runs = sorted({command.run for _, command in all_commands()})
    assert len(runs) > 30
    for run in runs:
        done = subprocess.run(["bash", "-n", "-c", run], capture_output=True, check=False)
        assert done.returncode == 0, (run, done.stderr)
        assert run == " ".join(run.split())


def test_commands_have_the_numbers_of_the_failure() -> None:
    runs = [command.run for command in remedies.commands(documents.typical(R.RLIMIT_MEMLOCK))]
    assert runs == ["virsh memtune web-01 --hard-limit 5242880 --config"]  # 4 GiB and one more
    by_hand = replace(documents.typical(R.RLIMIT_MEMLOCK), vm=HOST)
    assert remedies.commands(by_hand)[0].run == "ulimit -l 5242880"
    (pool,) = remedies.commands(documents.typical(R.HUGETLB_UNSUPPORTED))
    assert pool.run == "hugepagesz=2M hugepages=32"


HOSTILE = ("$(reboot)", "a;reboot", "`x`", "-rf", "a b", "a\nb", "é", "", "a'b", "x" * 999 + " ")


@pytest.mark.parametrize("name", HOSTILE)
@every_reason
def test_a_name_that_a_shell_would_read_is_in_no_command(reason: FailureReason, name: str) -> None:
    for platform in (Platform.LIBVIRT, Platform.OPENSTACK, Platform.PROXMOX, Platform.KUBEVIRT):
        vm = Vm(name=name, uuid=name, alias=name, project=name, platform=platform)
        made = replace(documents.typical(reason), vm=vm)
        assert not any(name and name in one.run for one in remedies.commands(made))


def test_trying_again_is_offered_where_it_may_work() -> None:
    offered = {reason for reason, command in all_commands() if command.what == "try again"}
    assert offered == {reason for reason in FailureReason if reason.severity is Severity.TRANSIENT}


# ---- stories --------------------------------------------------------------------------------


def at(time_s: float, reason: FailureReason = R.EXTRA_REF_PLAIN, **changes: Any) -> Failure:
    """A failure of 10 ms; `tgid` and `vm` say whose."""
    tgid, vm = changes.pop("tgid", 1), changes.pop("vm", "web-01")
    task = replace(TASK, key=TaskKey(tgid, 1))
    return replace(
        failure(pin(task=task, duration_ns=10_000_000)), time_s=time_s, reason=reason,
        vm=Vm(name=vm), **changes,
    )  # fmt: skip


def test_of_a_burst_the_first_is_told() -> None:
    burst = [at(10), at(10.1, R.DST_ALLOC_FAILED), at(10.2, R.DST_ALLOC_FAILED), at(10.3)]
    (story,) = stories(burst)
    assert (story.failure, story.count, story.bursts) == (burst[0], 2, 1)
    assert story.followed_by == ((R.DST_ALLOC_FAILED, 2),)
    assert (story.since_s, story.last_s) == (10, 10.3)


def test_one_cause_is_told_once() -> None:
    tries = [at(10.0 * n + part, tgid=n) for n in range(1, 6) for part in (0, 0.1)]
    (story,) = stories(tries)
    assert (story.count, story.bursts) == (10, 5)
    assert (story.since_s, story.last_s) == (10, 50.1)
    assert story.failure is tries[-2], "the first of the newest"


def test_other_vms_reasons_and_holders_are_other_stories() -> None:
    pipe = HolderMatch(holder=Holder.PIPE)
    found = stories([at(1), at(9, vm="db"), at(19, R.HWPOISON), at(29, holder=pipe), at(39)])
    assert [story.failure.time_s for story in found] == [39, 29, 19, 9]
    assert [story.count for story in found] == [2, 1, 1, 1]


def test_a_burst_ends_with_a_pause_and_with_its_process() -> None:
    assert [s.bursts for s in stories([at(1), at(1.1, tgid=2)])] == [2]
    assert [s.bursts for s in stories([at(1), at(1 + BURST_S)])] == [1]
    assert [s.bursts for s in stories([at(1), at(1.1 + BURST_S)])] == [2]
    slow = at(9)
    slow = replace(slow, pin=replace(slow.pin, duration_ns=7_000_000_000))
    assert [s.bursts for s in stories([at(1), slow])] == [1], "it began right after the first"


def test_bursts_of_two_processes_may_interleave() -> None:
    both = [at(1), at(1.1, tgid=2, vm="db"), at(1.2), at(1.3, tgid=2, vm="db")]
    assert [(s.failure.vm.name, s.count) for s in stories(both)] == [("db", 2), ("web-01", 2)]
    assert stories([]) == ()


def test_counts_are_words() -> None:
    story = Story(failure=at(1), count=1, bursts=1, since_s=1, last_s=1)
    assert why.counts({"count": story.count}) == ""
    many = {"count": 20, "bursts": 3, "since_s": 0.0, "last_s": 60.0,
            "followed_by": {"dst_alloc_failed": 4}}  # fmt: skip
    assert re.fullmatch(
        r"20 failures of this cause in 3 tries between ..:..:.. and ..:..:..; after this one the "
        r"same process failed with 4 dst_alloc_failed; the first explains best",
        why.counts(many),
    )


# ---- the command and the documents ----------------------------------------------------------


def test_why_of_a_recording(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = str(REPLAY / "6.12-fragmented.jsonl.gz")
    assert cli.main(["why", "--replay", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(lines)
    assert "A process that is no VM needed 256 MiB" in text
    assert "echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled" in text, "whole"
    assert "https://pinwatch.example/docs/why.md#thp_split_refs" in text
    assert not any(line != line.rstrip() for line in lines)
    assert cli.main(["why", "--replay", path, "nobody"]) == 0
    assert "pinwatch knows no pin of a VM 'nobody'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("web-01", "no long-term pin of web-01 has failed"),
        (VM.uuid, f"no long-term pin of {VM.uuid} has failed"),
        ("web one", "no long-term pin of web one has failed"),
        ("", "no long-term pin of any VM has failed"),
        ("web", "pinwatch knows no pin of a VM 'web'; VMs that it watches: web-01"),
    ],
)
def test_a_vm_without_failures_is_known_by_all_its_names(
    asked: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ledger = Ledger()
    ledger.name_task(TASK.key, replace(VM, alias="web one"))
    arguments = argparse.Namespace(vm=asked, slow=False, json=False)
    why._show_all(stories_document(ledger.snapshot(), asked), arguments)
    assert told in capsys.readouterr().out


def test_the_page_of_every_reason_is_what_why_says() -> None:
    assert documents.WHY.read_text() == documents.why_document(), "run `make documents`"
    text = documents.WHY.read_text()
    for reason in FailureReason:
        assert f"\n## {reason}\n" in text, "the link of `why` ends here"


def test_the_picture_is_of_what_why_says() -> None:
    def shown(svg: str) -> list[str]:
        return re.findall(r"<text[^>]*>([^<]*)</text>", svg)

    for path, made in (
        (documents.PICTURE, documents.picture()),
        (documents.TOP, documents.picture_of_top()),
    ):
        assert shown(path.read_text()) == shown(made), "run `make documents`"
