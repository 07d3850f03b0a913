"""One fleet for all that ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.monitoring.fleet import fleet as running_fleet
from tests.monitoring.queries import Prometheus


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running
