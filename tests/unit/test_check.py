"""`pinwatch check`: its bars, its words, its JSON."""

from __future__ import annotations

import argparse
import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinwatch.attribute import Programs
from pinwatch.commands import check
from pinwatch.daemon import Roots
from pinwatch.errors import CannotRunError, UsageError
from pinwatch.expose import outlook
from pinwatch.forecast import forecast
from pinwatch.host.survey import Survey
from pinwatch.model.event import MappingKind
from pinwatch.model.forecast import Case, Risk, Verdict
from pinwatch.model.placement import (
    Backing,
    Cma,
    Limits,
    Mapping,
    Mark,
    PageClass,
    Placement,
    Portion,
)
from pinwatch.model.sample import TaskKey
from tests.unit.make import VM, free, placement

MIB, GIB = 1 << 20, 1 << 30


def page(zone: str | None = "Normal", cma: Cma = Cma.NO) -> PageClass:
    return PageClass(node=0, zone=zone, cma=cma, backing=Backing.BASE, kind=MappingKind.SHMEM)


def place(*sizes: tuple[PageClass, int], guest: int) -> Placement:
    mapping = Mapping(start=0, end=guest, kind=MappingKind.SHMEM, shared=True)
    return Placement(mappings=(mapping,), portions=tuple(Portion(*pair) for pair in sizes))


def report(of: Placement, vm: bool = True, want: int | None = None) -> check.Report:
    case = Case(placement=of, free=free(), limits=Limits(), want_bytes=want)
    return check.Report(vm=VM if vm else None, tgid=7, case=case, forecast=forecast(case))


# ---- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096), ("512K", 512 << 10), ("512M", 512 * MIB), ("16G", 16 * GIB),
        ("16g", 16 * GIB), ("16GiB", 16 * GIB), ("16 GB", 16 * GIB), ("1.5T", 3 << 39),
        (" 2 MiB ", 2 * MIB), ("7B", 7),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert check._size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "16X", "0", "0.1", "16 GiB RAM", "1e9", "nan", "9" * 400]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        check._size(text)


# ---- bars ------------------------------------------------------------------------------------

SIZES = st.tuples(*[st.just(0) | st.integers(1, 1 << 41)] * 5)


@given(SIZES)
def test_the_bar_has_its_width_and_shows_whatever_there_is(sizes: tuple[int, ...]) -> None:
    stays, moves, cma, doubtful, _ = sizes
    drawn = check.bar(
        place(
            (page(), stays), (page("Movable"), moves), (page(cma=Cma.YES), cma),
            (page(cma=Cma.UNKNOWN), doubtful), guest=sum(sizes),
        ),
        ascii_only=True,
    ).plain  # fmt: skip
    assert len(drawn) == (check.BAR_WIDTH if sum(sizes) else 0)
    for size, part in zip(sizes, check.PARTS, strict=True):
        assert (part.plain in drawn) is bool(size)
    assert list(drawn) == sorted(drawn, key="#=%?.".index)


@given(SIZES)
def test_cells_are_fair_to_a_cell_for_each_part(sizes: tuple[int, ...]) -> None:
    cells = check._cells(list(sizes))
    for size, count in zip(sizes, cells, strict=True):
        assert abs(count - size * check.BAR_WIDTH / (sum(sizes) or 1)) <= len(sizes)


def test_a_bar_in_both_alphabets() -> None:
    mixed = place((page(), GIB), (page("Movable"), GIB), (page(cma=Cma.YES), MIB), guest=4 * GIB)
    assert check.bar(mixed, ascii_only=False).plain == "█" * 15 + "▓" * 15 + "▒" + "·" * 29
    assert check.bar(mixed, ascii_only=True).plain == "#" * 15 + "=" * 15 + "%" + "." * 29


def test_cma_counts_as_cma_in_any_zone() -> None:
    assert check.part_of(page("Movable", Cma.YES)) is check.IN_CMA
    assert check.part_of(page("Movable")) is check.MOVES
    assert check.part_of(page(None, Cma.UNKNOWN)) is check.DOUBTFUL
    assert check.part_of(page(cma=Cma.UNKNOWN)) is check.DOUBTFUL


# ---- words -----------------------------------------------------------------------------------


def told(of: Placement, **changes: object) -> str:
    case = replace(Case(placement=of, free=free(), limits=Limits()), **changes)  # type: ignore[arg-type]
    said = outlook.explain(VM, case, forecast(case))
    return "\n".join((said.headline, *(f"{label}: {words}" for label, words in said.paragraphs)))


def test_a_fine_vm_in_words() -> None:
    assert told(placement(96 * MIB, 32 * MIB)) == (
        "VM web-01: a pin should work (128 MiB)\n"
        "memory: 128 MiB of guest memory, 128 MiB of it there: 96 MiB in ZONE_MOVABLE on node 0, "
        "32 MiB in ZONE_NORMAL on node 0; 128 MiB as 4 KiB pages (to within 1.0%)\n"
        "told: not read: it would hold the lock of the VM's memory for long (--exact reads it)\n"
        "needs: 94.7 MiB to 97.3 MiB must move first and up to 256 KiB must be allocated\n"
        "free: 248 MiB where pins may lie, 256 MiB if all that can be is reclaimed; 128 free "
        "blocks of 2 MiB"
    )


def test_a_risk_in_words_has_its_remedy() -> None:
    text = told(placement(GIB))
    assert text.startswith("VM web-01: a pin will fail (1 GiB)")
    assert f"stops it: {Risk.SHORT_OF_MEMORY.meaning} [short_of_memory]" in text
    assert f"change: {Risk.SHORT_OF_MEMORY.remedy}" in text


def test_all_that_is_unusual_is_said() -> None:
    marked = replace(page("Movable", Cma.YES), marks=frozenset({Mark.SHARED, Mark.WRITEBACK}))
    text = told(
        replace(
            place((marked, GIB), (page(None, Cma.UNKNOWN), MIB), (page(cma=Cma.UNKNOWN), MIB),
                  guest=2 * GIB),
            swapped_bytes=3 * MIB, unreadable=4, samples=100,
        )
    )  # fmt: skip
    for words in (
        "1 GiB in ZONE_MOVABLE in CMA on node 0",
        "1 MiB in a zone that is not known",
        "1 MiB in ZONE_NORMAL, maybe in CMA on node 0",
        "(every page)",
        "1 GiB is mapped more than once",
        "1 GiB is being written back",
        "3 MiB swapped out or on the move",
        "of 4 of 100 pages the kernel told nothing",
    ):
        assert words in text


def test_advice_in_words() -> None:
    one = Mapping(start=0, end=GIB, kind=MappingKind.SHMEM, shared=True,
                  advice=frozenset({"rd", "hg", "lo"}), policy="bind:1")  # fmt: skip
    said = outlook.advice_words(Placement(mappings=(one, replace(one, policy="default")),
                                          portions=()))  # fmt: skip
    assert set(said.split(", ")) == {
        "huge pages wanted (MADV_HUGEPAGE): 2 GiB", "locked (mlock): 2 GiB", "policy bind:1: 1 GiB",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"), (4096, "4 KiB"), (1 << 20, "1 MiB"), (1289748, "1.23 MiB"),
        (1023 * MIB, "1023 MiB"), (int(1.25 * GIB), "1.25 GiB"), (-2 * GIB, "-2 GiB"),
        (3 << 40, "3 TiB"), (5000 << 40, "5000 TiB"),
    ],
)  # fmt: skip
def test_bytes_in_words(count: int, text: str) -> None:
    assert outlook.about(count) == text


# ---- all of it -------------------------------------------------------------------------------


def test_the_worst_is_shown_last(capsys: pytest.CaptureFixture[str]) -> None:
    check.show([report(placement(GIB)), report(placement(96 * MIB, 32 * MIB))])
    lines = capsys.readouterr().out.splitlines()
    headlines = [line for line in lines if line.startswith("VM ")]
    assert [line.split(": ")[1].split(" (")[0] for line in headlines] == [
        Verdict.FINE.words, Verdict.WILL_FAIL.words,
    ]  # fmt: skip
    assert not [line for line in lines if line != line.rstrip()]
    assert "ZONE_MOVABLE" in lines[-1]


def test_no_vm_and_a_new_vm(capsys: pytest.CaptureFixture[str]) -> None:
    check.show([])
    assert "no VM runs on this host" in capsys.readouterr().out
    check.show([report(Placement(mappings=(), portions=()), vm=False, want=64 * MIB)])
    said = capsys.readouterr().out
    assert said.startswith("a new VM: a pin should work (64 MiB)\n")
    assert "ZONE_MOVABLE" not in said


def test_a_hostile_kernel_word_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich markup in what the kernel printed is shown, not obeyed."""
    check.show([report(place((page("[bold]Movable[/]"), GIB), guest=GIB))])
    assert "[BOLD]MOVABLE[/]" in capsys.readouterr().out


def test_json_has_all_of_it() -> None:
    one = report(placement(GIB))
    value = json.loads(json.dumps(outlook.as_json(one.vm, one.tgid, one.case, one.forecast)))
    assert (value["vm"]["name"], value["tgid"], value["verdict"]) == ("web-01", 7, "will_fail")
    assert [risk["risk"] for risk in value["risks"]] == ["short_of_memory"]
    assert value["headroom_bytes"] == one.forecast.headroom_bytes < 0
    assert value["forecast"]["must_move"] == {"least": GIB - int(0.01 * GIB), "most": GIB}
    assert value["limits"]["nodes"] is None
    (portion,) = value["placement"]["portions"]
    assert portion == {
        "node": 0, "zone": "Movable", "cma": "no", "backing": "4k", "kind": "shmem", "marks": [],
        "must_move": True, "bytes": GIB,
    }  # fmt: skip
    assert value["placement"]["mappings"][0]["advice"] is None
    assert value["explanation"]["headline"].startswith("VM web-01")


def test_every_risk_is_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs/forecast.md").read_text()
    text = text.partition("## Risks")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:5] for line in text.splitlines() if line.startswith("| `")]
    table = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}
    assert table == {
        str(risk): [risk.verdict.words.removeprefix("a pin "), risk.meaning, risk.remedy]
        for risk in Risk
    }


def test_what_is_pinned_already_is_told() -> None:
    limits = Limits(locked_bytes=3 << 30, pinned_bytes=1 << 20)
    words = "pinned: 3 GiB by mlock or VFIO's type1 (VmLck), 1 MiB by others (VmPin)"
    assert words in told(placement(), limits=limits).splitlines()
    assert "pinned:" not in told(placement())


def test_dirty_memory_is_told() -> None:
    dirty = replace(page("Movable"), marks=frozenset({Mark.DIRTY}))
    assert "1 MiB is dirty" in told(place((dirty, MIB), guest=GIB))


def test_the_free_side_is_in_the_json() -> None:
    case = Case(placement=placement(), free=free(), limits=Limits(nodes=frozenset({1, 0})))
    said = json.loads(json.dumps(outlook.as_json(VM, 7, case, forecast(case))))
    assert [zone["name"] for zone in said["free"]["zones"]] == ["Normal", "Movable"]
    assert said["limits"]["nodes"] == [0, 1]


def test_how_long_was_waited_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    came = threading.Event()
    survey = cast(Survey, SimpleNamespace(look=lambda *_, **__: came.wait()))
    monkeypatch.setattr(check, "PATIENCE_S", 0.01)
    monkeypatch.setattr(check, "EXACT_PATIENCE_S", 1.01)
    for exact, seconds in ((False, 0), (True, 1)):
        arguments = argparse.Namespace(vfio=None, exact=exact)
        with pytest.raises(CannotRunError, match=f"no answer .* in {seconds} s"):
            check._look(survey, TaskKey(7, 7), VM, arguments)
    came.set()


def test_a_vm_that_ends_meanwhile_is_not_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "Survey", lambda **_: None)
    monkeypatch.setattr(check, "_select", lambda *_: [(TaskKey(7, 7), VM)])
    monkeypatch.setattr(check, "_look", lambda *_: None)
    arguments = argparse.Namespace(config="", vm="web-01", vfio=None, json=True)
    with pytest.raises(UsageError, match="VM 'web-01' has just ended"):
        check.run(arguments)


@pytest.mark.parametrize("wanted", ["²", "9" * 5000])
def test_what_is_no_process_s_number_is_a_name(wanted: str, tmp_path: Path) -> None:
    roots = Roots(root=tmp_path, proc=tmp_path, sys=tmp_path, bpf=tmp_path)
    with pytest.raises(UsageError, match="runs here"):
        check._select(roots, Programs(), wanted)
