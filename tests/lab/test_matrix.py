"""Every cause that can be made to happen is named as what it is (tests/lab/matrix.py judges).

Ten minutes a kernel, so only with --full (make test-full).
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.lab import matrix
from tests.lab.conftest import RSS_KIB, LabRun, as_json, in_guest
from tests.lab.inside.causes import CAUSES
from tests.lab.inside.holders import HOLDERS
from tests.lab.inside.sources import SOURCES
from tests.lab.outcome import Status


def _cases() -> list[object]:
    """A test for each row and kernel where it can happen."""
    names: dict[str, dict[str, Iterable[str]]] = {
        "cause": {c.name: c.kernels for c in CAUSES.values()},
        "source": {f"{s.name}-{case}": s.kernels for s in SOURCES.values() for case in s.cases},
        "holder": {name: h.kernels for name, h in HOLDERS.items()},
    }
    return [
        pytest.param(
            (kernel, "matrix"), kind, name,
            id=f"{kernel}-{kind}-{name}",
            marks=pytest.mark.full,
        )
        for kernel in matrix.KERNELS
        for kind, kernels in names.items()
        for name, possible in kernels.items()
        if kernel in possible
    ]  # fmt: skip


@pytest.mark.parametrize(("run", "kind", "name"), _cases(), indirect=["run"])
def test_row(run: LabRun, kind: str, name: str) -> None:
    found = matrix.rows(run.outcome.events)
    assert (kind, name) in found, f"the guest never ran it: {run.outcome}"
    judged = matrix.verdict(found[kind, name])
    assert judged.right, f"{judged}\n{as_json(found[kind, name])[:6000]}"


@pytest.mark.full
@in_guest("matrix", *matrix.KERNELS)
def test_nothing_was_lost(run: LabRun) -> None:
    assert run.outcome.status is Status.FINISHED, str(run.outcome)
    stopped = run.event("stopped")
    assert stopped["code"] == 0
    # How often a holder that advises without a pause does so is chance; 64 of a process are told.
    assert run.lost(stopped["metrics"]).keys() <= {'pinwatch_losses_total{kind="hints_full"}'}
    assert stopped["memory"]["rss_kib"] < RSS_KIB


def test_the_matrix_is_as_wide_as_it_should_be() -> None:
    assert len({cause.reason for cause in CAUSES.values() if cause.reason}) >= 20
    assert len({source.label for source in SOURCES.values()}) >= 5
    assert len({holder.name for holder in HOLDERS.values()}) >= 8
