"""Pins that no distribution's kernel has: iommufd and vhost-vdpa on a kernel that is built here.

They run inside the guest (tests/lab/inside/built_sources.py); here they are judged.  Only with
--full (make test-full).
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import matrix
from tests.lab.conftest import LabRun, as_json, in_guest
from tests.lab.inside.built_sources import SIZE, SOURCES
from tests.lab.inside.memory import PAGE
from tests.lab.outcome import Status

ENOMEM, EFAULT = 12, 14
PAGES = SIZE // PAGE
# A write to vhost's file ends in EFAULT for any reason (drivers/vhost/vhost.c).
ERRNO = {"iommufd_map": ENOMEM, "iommufd_attach": ENOMEM, "vhost_vdpa": EFAULT}

pytestmark = [pytest.mark.full, in_guest("built", matrix.BUILT)]
every_source = pytest.mark.parametrize("source", SOURCES)


def moved(result: dict[str, Any]) -> tuple[int, int]:
    """Pages that left ZONE_MOVABLE, as their frames say, and what the kernel counted."""
    movable = result["in_movable"]
    return movable["before"] - movable["after"], result["vmstat"]["pgmigrate_success"]


def pins_kept(result: dict[str, Any]) -> int:
    """How many pins the call left behind."""
    counted: dict[str, int] = result["vmstat"]
    return counted["nr_foll_pin_acquired"] - counted["nr_foll_pin_released"]


def test_guest_ran_to_its_end(run: LabRun) -> None:
    assert run.outcome.status is Status.FINISHED, str(run.outcome)
    assert run.event("stopped")["code"] == 0


@every_source
def test_all_pages_leave_movable_and_are_pinned(run: LabRun, source: str) -> None:
    result = run.result(f"{source} ok")
    assert result["errno"] == 0, as_json(result)
    assert result["in_movable"] == {"before": PAGES, "after": 0}, as_json(result)
    assert result["vmstat"]["pgmigrate_success"] == PAGES, as_json(result)
    assert result["vmstat"]["pgmigrate_fail"] == 0, as_json(result)
    assert pins_kept(result) == result["unpinned"] == PAGES, as_json(result)


@every_source
def test_one_held_page_is_enough_to_fail(run: LabRun, source: str) -> None:
    result = run.result(f"{source} fails")
    assert result["errno"] == ERRNO[source], as_json(result)
    left, migrated = moved(result)
    assert left == migrated < PAGES, as_json(result)
    assert result["vmstat"]["pgmigrate_fail"] == 1, as_json(result)
    if source == "vhost_vdpa":
        # vhost_vdpa_pa_map leaks what it pinned but had not mapped yet, the frames after the last
        # gap of the portion before the one that failed.  Seen: 0, 1, 23 and 123 pages.
        assert 0 <= pins_kept(result) < PAGE // 8, as_json(result)
    else:
        assert pins_kept(result) == 0, as_json(result)


@every_source
@pytest.mark.parametrize("way", ["ok", "fails"])
def test_pinwatch_names_it(run: LabRun, source: str, way: str) -> None:
    row = matrix.rows(run.outcome.events)["source", f"{source}-{way}"]
    assert matrix.verdict(row).right, as_json(row)[:6000]
