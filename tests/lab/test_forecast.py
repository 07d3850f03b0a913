"""`check` against what really happens, and against what the kernel itself counts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.conftest import LabRun, in_guest
from tests.lab.inside.setups import SETUPS, Expected
from tests.lab.outcome import Status

WITHIN = 95  # of 100 samples

forecast = in_guest("forecast", "7.2", full=("6.1", "6.12"))
cma = in_guest("forecast-cma", "7.2")


def expected(layout: str) -> list[tuple[str, Expected]]:
    return [(setup.__name__, expected) for setup, expected in SETUPS[layout].items()]


def judge(run: LabRun, name: str, wanted: Expected) -> None:
    said = run.result(name)
    verdict = wanted.in_6_1 if run.series == "6.1" and wanted.in_6_1 else wanted.verdict
    worked = said["outcome"] == "0"
    assert said["verdict"] == verdict, said
    assert said["code"] == int(verdict != "fine")
    if verdict == "fine":
        assert worked is not wanted.hidden, said
    if verdict == "will_fail":
        assert not worked, said


@forecast
@pytest.mark.parametrize(("name", "wanted"), expected("forecast"))
def test_what_check_says_comes_true(run: LabRun, name: str, wanted: Expected) -> None:
    judge(run, name, wanted)


@cma
@pytest.mark.parametrize(("name", "wanted"), expected("forecast-cma"))
def test_what_check_says_of_cma_comes_true(run: LabRun, name: str, wanted: Expected) -> None:
    judge(run, name, wanted)


@forecast
def test_guest_ran_to_its_end(run: LabRun) -> None:
    assert run.outcome.status is Status.FINISHED, str(run.outcome)


@forecast
@pytest.mark.parametrize("name", ["placement", "sparse"])
def test_every_page_is_where_the_kernel_has_it(run: LabRun, name: str) -> None:
    seen = run.result(name)
    witness = dict(seen["witness"])
    assert seen["witness_after"] == witness
    exact = with_zero_page_apart(seen["exact"], witness.pop("zero"))
    assert exact == witness | {"all": exact["all"]}
    assert exact["all"] == sum(n for key, n in witness.items() if key.startswith("zone"))


def with_zero_page_apart(sums: dict[str, int], zero: int) -> dict[str, int]:
    """numa_maps and smaps leave it out; it lies on node 0."""
    apart = {"node 0", "size 4k"}
    found = {key: n - (zero if key in apart else 0) for key, n in sums.items()}
    return {key: n for key, n in found.items() if n}


@forecast
def test_samples_keep_to_their_error(run: LabRun) -> None:
    seen = run.result("placement")
    truth = seen["exact"]
    misses = [worst(sample, truth) / sample["error"] for sample in seen["sampled"]]
    assert len(misses) == 100
    assert sum(miss <= 1 for miss in misses) >= WITHIN, sorted(misses)[-10:]
    assert max(misses) <= 2
    assert any(misses), "no sample was off at all: that is no sample"
    for sample in seen["sampled"]:
        assert 0 < sample["error"] <= 0.041
        assert sample["samples"] < truth["all"] / 4096 / 10


def worst(sample: dict[str, Any], truth: dict[str, int]) -> float:
    """The greatest difference of any sum, as a part of all."""
    keys = (sample.keys() | truth.keys()) - {"error", "samples"}
    misses = (abs(float(sample.get(key, 0)) - truth.get(key, 0)) for key in keys)
    return max(misses) / truth["all"]
