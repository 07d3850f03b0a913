"""One guest for each kernel and layout; its results for all tests that ask for them."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab import guest, image, kernels
from tests.lab.layouts import LAYOUTS
from tests.lab.outcome import Outcome, Status, emulator_broke, read
from tests.lab.watched import EVERY, Watched, watched
from tests.monitoring.servers import free_port
from tests.monitoring.watching import watching

TIMEOUT_S = 1800
RSS_KIB = 52 * 1024  # of the daemon, after all that a guest does; the compiler alone has 100 MiB
_OWN_JOBS = {"faults", "built", "matrix", "storm", "libvirt"}  # modules of tests/lab/inside
_FORECASTS = {"forecast", "forecast-cma"}
# By a Prometheus; what is recorded each minute takes the two last ones a minute and a half more.
WATCHED = frozenset(
    {*((name, "plain") for name in ("6.1", "6.12", "7.2")), ("7.2", "fragmented"), ("7.2", "cma")}
)


@dataclass(frozen=True, slots=True)
class Observed:
    """What one scenario did, and what pinwatch and the kernel counted meanwhile (observe())."""

    workload: dict[str, Any]
    metrics: dict[str, float]
    reconciliation: dict[str, float]
    vmstat: dict[str, int]
    failures: list[dict[str, Any]]

    def metric(self, name: str, **labels: str) -> float:
        """How much a series grew."""
        text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        return self.metrics.get(f"{name}{{{text}}}", 0)

    def total(self, name: str) -> float:
        """How much all series of a metric grew."""
        return sum(n for series, n in self.metrics.items() if series.startswith(name + "{"))


@dataclass(frozen=True, slots=True)
class LabRun:
    """A guest that has run all scenarios of its layout."""

    series: str  # of its kernel
    outcome: Outcome
    watched: Watched | None = None  # by a Prometheus, if its layout is one of those

    def event(self, name: str) -> dict[str, Any]:
        """The one line of that name; the console's end is shown when there is none."""
        found = [event for event in self.outcome.events if event.get("event") == name]
        assert found, f"the guest never said {name!r}: {self.outcome}"
        return dict(found[-1])

    def result(self, name: str) -> dict[str, Any]:
        """A scenario's result. A broken or missing one fails the test that asks for it."""
        for event in self.outcome.events:
            if event.get("event") == "scenario" and event["name"] == name:
                result: Any = event["result"]
                assert "broken" not in result, result["broken"] + result.get("log", "")
                return dict(result)
        raise AssertionError(f"the guest never ran {name!r}: {self.outcome}")

    def lost(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What was lost, without what is chance: 7.2 preempts BPF programs, and runs the same one
        for nobody else on that CPU until it goes on."""
        by_chance = {'pinwatch_losses_total{kind="missed"}'} if self.series == "7.2" else set()
        return {
            name: n for name, n in metrics.items()
            if n and name.startswith("pinwatch_losses_total{") and name not in by_chance
        }  # fmt: skip

    def scenario(self, name: str) -> Observed:
        """The result of one of tests/lab/inside/scenarios.py."""
        result = self.result(name)
        fields = ("workload", "metrics", "reconciliation", "vmstat", "failures")
        return Observed(*(result[field] for field in fields))

    @property
    def recording(self) -> Path:
        return self.outcome.directory / "share" / "recording.jsonl.gz"


def _job(layout: str) -> tuple[str, ...]:
    """A module of tests/lab/inside, with its arguments."""
    if layout == "oci":
        return ("oci", str(image.fetch().directory))
    if layout in _OWN_JOBS:
        return (layout,)
    return ("forecast" if layout in _FORECASTS else "scenarios", layout)


def in_guest(layout: str, *names: str, full: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """The test takes a `run`: of that layout, on each of these kernels; of `full` with --full."""
    cases = [pytest.param((name, layout), id=name) for name in names]
    cases += [pytest.param((name, layout), id=name, marks=pytest.mark.full) for name in full]
    return pytest.mark.parametrize("run", cases, indirect=True)


@pytest.fixture(scope="session")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], LabRun]]:
    """booted(kernel, layout) boots a guest, once. Who watches it stays until all have asked."""
    with ExitStack() as watches:

        @functools.cache
        def boot(name: str, layout: str) -> LabRun:
            results = tmp_path_factory.mktemp("lab")
            if (name, layout) not in WATCHED:
                return LabRun(name, _boot(name, layout, results))
            # A Prometheus that saw the failures of a guest that broke would take those of the next
            # for the same: each try has its own.
            for _ in range(guest.EMULATOR_TRIES):
                port, home = free_port(), tmp_path_factory.mktemp("watch")
                watch = watches.enter_context(
                    watching(home, f"127.0.0.1:{port}", instance=f"lab-{name}", every=EVERY)
                )
                outcome = _boot(name, layout, results, port)
                if not emulator_broke(outcome.status, read(outcome.console)):
                    break
            return LabRun(name, outcome, watched(watch, outcome.seconds, time.time()))

        yield boot


def _boot(name: str, layout: str, results: Path, metrics_port: int | None = None) -> Outcome:
    job = _job(layout)
    return guest.boot(
        kernels.fetch(kernels.series(name)),
        LAYOUTS[layout],
        [sys.executable, "-m", f"tests.lab.inside.{job[0]}", *job[1:]],
        results=results,
        timeout_s=TIMEOUT_S,
        metrics_port=metrics_port,
        tries=guest.EMULATOR_TRIES if metrics_port is None else 1,
    )


@pytest.fixture
def run(request: pytest.FixtureRequest, booted: Callable[[str, str], LabRun]) -> LabRun:
    """The guest of that kernel and layout, which has run for all tests."""
    return booted(*request.param)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full`, for what `make test-full` adds."""
    parser.addoption("--full", action="store_true", help="also what needs a kernel built here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Guests last: what is quick to fail comes first. What needs `--full` is deselected without it,
    which pytest's last line counts: it is left out, and never looks like a pass."""
    items.sort(key=lambda item: "tests/lab" in str(item.path))
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def as_json(value: object) -> str:
    """For messages of assertions."""
    return json.dumps(value, indent=1, default=str)


__all__ = ["LabRun", "Observed", "Status", "as_json"]
