"""Failures told as stories: several of one cause are told once, with counts.

A VMM that fails to map one region often maps the others all the same, and these fail for reasons of
their own, or because the first left the memory half moved. So of a burst of failures of one process
the first is the one that explains. Takes failures, gives Stories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pinwatch.expose import as_json
from pinwatch.model.failure import Failure
from pinwatch.model.holder import Holder
from pinwatch.model.pin import PinSource
from pinwatch.model.reason import FailureReason
from pinwatch.model.sample import TaskKey
from pinwatch.model.snapshot import Snapshot
from pinwatch.model.vm import Vm

BURST_S = 2.0  # of one process; a VMM maps its regions one after the other

Cause = tuple[str, PinSource, FailureReason, Holder]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A cause: its newest telling failure, and all that it stands for."""

    failure: Failure
    count: int  # failures of this cause
    bursts: int  # tries of which it was the first failure
    since_s: float
    last_s: float
    followed_by: tuple[tuple[FailureReason, int], ...] = ()  # in the newest burst

    @property
    def cause(self) -> Cause:
        it = self.failure
        return (it.vm.name, it.pin.source, it.reason, it.holder.holder)


def stories(failures: Iterable[Failure]) -> tuple[Story, ...]:
    """The newest first. Failures are given in the order in which they happened."""
    told: dict[Cause, Story] = {}
    for burst in _bursts(failures):
        story = _story(burst)
        before = told.pop(story.cause, None)
        told[story.cause] = story if before is None else _together(before, story)
    return tuple(reversed(told.values()))


def _bursts(failures: Iterable[Failure]) -> list[list[Failure]]:
    """Failures of one process, each soon after the one before; by their ends, the last is last."""
    open_: dict[TaskKey, list[Failure]] = {}
    bursts: list[list[Failure]] = []
    for failure in failures:
        burst = open_.get(failure.pin.task.key)
        if burst is None or failure.time_s - burst[-1].time_s > BURST_S + _took_s(failure):
            burst = open_[failure.pin.task.key] = []
            bursts.append(burst)
        burst.append(failure)
    return sorted(bursts, key=lambda burst: burst[-1].time_s)


def _took_s(failure: Failure) -> float:
    return failure.pin.duration_ns / 1e9


def _story(burst: list[Failure]) -> Story:
    first = burst[0]
    same = [one for one in burst if one.reason is first.reason]
    others = Counter(one.reason for one in burst if one.reason is not first.reason)
    return Story(
        failure=first,
        count=len(same),
        bursts=1,
        since_s=first.time_s,
        last_s=burst[-1].time_s,
        followed_by=tuple(others.most_common()),
    )


def _together(before: Story, story: Story) -> Story:
    return replace(
        story,
        count=before.count + story.count,
        bursts=before.bursts + story.bursts,
        since_s=before.since_s,
    )


def document(snapshot: Snapshot, vm: str = "", limit: int = 1) -> dict[str, Any]:
    """What `pinwatch why` shows, of VMs of that name, alias or uuid, the newest first."""
    failures = [failure for failure in snapshot.failures if is_called(failure.vm, vm)]
    slow = [slow for slow in reversed(snapshot.slow_pins) if is_called(slow.vm, vm)]
    found = stories(failures)
    return {
        "stories": [_told(story) for story in found[:limit]],
        "more_stories": max(len(found) - limit, 0),
        "slow": [as_json.slow_pin(one) for one in slow[:limit]],
        "stuck": [as_json.stuck_pin(one) for one in snapshot.stuck if is_called(one.vm, vm)],
        "vms": [one.name for one in snapshot.vms],
        "is_known": any(is_called(one, vm) for one in snapshot.vms),
        "losses": snapshot.losses,
    }


def _told(story: Story) -> dict[str, Any]:
    """The failure's own document, and what it stands for."""
    return as_json.failure(story.failure) | {
        "story": {
            "count": story.count,
            "bursts": story.bursts,
            "since_s": story.since_s,
            "last_s": story.last_s,
            "followed_by": dict(story.followed_by),
        }
    }


def is_called(vm: Vm, name: str) -> bool:
    """No name is every VM's."""
    return name in ("", vm.name, vm.label, vm.alias, vm.uuid)
