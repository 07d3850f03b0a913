"""What a person may look at, as no Grafana can be had here: a picture of each dashboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.monitoring.pictures import draw
from tests.monitoring.queries import BOARDS, Prometheus


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_panel_can_be_drawn(fleet: Prometheus, path: Path, tmp_path: Path) -> None:
    draw(path, fleet, tmp_path)
    picture = (tmp_path / f"{path.stem}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 50_000
