"""Where the time of a slow pin went, and when an open one is stuck."""

from __future__ import annotations

from pinwatch.classify.rules import is_livelock
from pinwatch.model.event import PinEnded
from pinwatch.model.failure import SlowCause

STUCK_S = 1.0  # an open pin older than this is shown
_MOST_OF_IT = 0.5


def cause(pin: PinEnded) -> SlowCause:
    """The wait that took most of the time; without one, a page that could not be isolated."""
    if pin.in_place:
        return SlowCause.IN_PLACE
    wait, ns = max(pin.waits_ns.items(), key=lambda item: item[1])
    if is_livelock(pin):
        return SlowCause.ISOLATION
    if ns > _MOST_OF_IT * pin.duration_ns:
        return SlowCause[wait.name]
    return SlowCause.WORK
