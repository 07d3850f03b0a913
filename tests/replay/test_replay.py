"""What the lab saw once is understood in the same way today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.replay.keep import HERE, replay

RECORDINGS = sorted(HERE.glob("*.jsonl.gz"))


def test_there_are_recordings_of_every_kernel() -> None:
    kernels = {path.name.partition("-")[0] for path in RECORDINGS}
    assert kernels == {"6.1", "6.12", "7.2"}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_replay(path: Path) -> None:
    expected = json.loads((HERE / path.name.replace(".jsonl.gz", ".expected.json")).read_text())
    assert replay(path) == expected
    assert expected["failures"]
