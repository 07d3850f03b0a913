"""What `pinwatch doctor` makes of the capabilities that a process has."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinwatch.host import checks
from pinwatch.host.checks import Verdict

SYS_PTRACE, DAC_READ_SEARCH, SYS_ADMIN = 1 << 19, 1 << 2, 1 << 21
FAILED, TRACING = Verdict.FAILED, 1 << 39 | 1 << 38


def proc(root: Path, held: int) -> Path:
    (root / "self").mkdir()
    (root / "self/status").write_text(f"Name:\tpinwatch\nCapEff:\t{held:016x}\nSeccomp:\t2\n")
    return root


@pytest.mark.parametrize(
    ("held", "verdict"),
    [(0, FAILED), (SYS_ADMIN, Verdict.OK), (TRACING, Verdict.OK), (1 << 39, FAILED)],
)
def test_it_must_be_allowed_to_trace(tmp_path: Path, held: int, verdict: Verdict) -> None:
    assert checks.capabilities(proc(tmp_path, held)).verdict is verdict


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        (SYS_PTRACE | DAC_READ_SEARCH, ()),
        (SYS_ADMIN | SYS_PTRACE, ("CAP_DAC_READ_SEARCH",)),
        (SYS_ADMIN | TRACING, ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")),
    ],
)
def test_what_keeps_it_from_vms_memory_is_named(
    tmp_path: Path, held: int, missing: tuple[str, ...]
) -> None:
    found = checks.memory(proc(tmp_path, held))
    assert found.verdict is (Verdict.LIMITED if missing else Verdict.OK)
    assert tuple(word for word in found.detail.split() if word.startswith("CAP_")) == missing
    assert bool(found.remedy) is bool(missing)
