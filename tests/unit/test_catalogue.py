"""A reason is complete: rule, words, series, documents, a recording of a kernel that gave it or
a sentence why none can be made to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pinwatch.aggregate.series import usual_errno
from pinwatch.classify import rules
from pinwatch.model.holder import Holder
from pinwatch.model.reason import FailureReason, Severity
from tests.lab.inside import holders
from tests.lab.inside.causes import CAUSES, WITHOUT_RECIPE
from tests.unit.test_classify import FOLIOS, MERGED, OF_SUCCESS, PINS

ROOT = Path(__file__).resolve().parents[2]
REPLAYED = {
    reason
    for path in (ROOT / "tests/replay").glob("*.expected.json")
    for reason in json.loads(path.read_text())["first_of_each_reason"]
}
# The founding report has a layout and a scenario of its own.
INDUCED = {cause.reason for cause in CAUSES.values() if cause.reason} | {"thp_split_refs"}

every_reason = pytest.mark.parametrize("reason", FailureReason)


def first_cells(document: str) -> set[str]:
    """What the first columns of a document's tables name."""
    lines = (ROOT / "docs" / document).read_text().splitlines()
    return {name for line in lines if line.startswith("| ")
            for name in re.findall(r"`([a-z0-9_]+)`", line.split("|")[1])}  # fmt: skip


@every_reason
def test_has_a_rule_and_a_record_made_by_hand(reason: FailureReason) -> None:
    if reason in OF_SUCCESS | MERGED:
        return
    made = {given for _, given in (*FOLIOS, *PINS)}
    ruled = {rule.reason for rule in (*rules.PIN_RULES, *rules.FOLIO_RULES)}
    assert reason in made
    assert reason in ruled | {FailureReason.UNKNOWN}


@every_reason
def test_has_words(reason: FailureReason) -> None:
    assert reason.meaning[0].islower()
    assert not reason.meaning.endswith(".")
    assert reason.remedy.endswith(".")
    assert reason.reference
    assert reason.severity in Severity
    assert re.fullmatch(r"E[A-Z0-9]+", usual_errno(reason))


@every_reason
def test_is_in_the_documents(reason: FailureReason) -> None:
    assert reason in first_cells("reasons.md")
    matrix = (ROOT / "docs/matrix.md").read_text()
    assert f"| `{reason}` |" in matrix


@every_reason
def test_was_seen_on_a_kernel_or_is_said_why_not(reason: FailureReason) -> None:
    assert (reason in INDUCED) != (reason in WITHOUT_RECIPE)
    assert reason in REPLAYED or reason in WITHOUT_RECIPE


@pytest.mark.parametrize("holder", sorted(set(Holder) - {Holder.NONE, Holder.UNKNOWN}))
def test_a_holder_was_met_or_is_said_why_not(holder: Holder) -> None:
    met = {known.name for known in holders.HOLDERS.values()}
    assert (holder in met) != (holder in holders.WITHOUT_RECIPE)
    assert holder in first_cells("reasons.md")


def test_documents_name_nothing_else() -> None:
    known = {str(reason) for reason in FailureReason}
    text = (ROOT / "docs/reasons.md").read_text().partition("## Reasons")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == known
