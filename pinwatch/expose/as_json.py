"""Values as JSON for people's scripts: the fields of the frozen values, and the words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pinwatch.expose.words import Explanation, explain, explain_slow, stuck_words
from pinwatch.model.failure import Failure, SlowPin, StuckPin


def failure(value: Failure) -> dict[str, Any]:
    """A failure with its evidence and its explanation. The command line stays out: it may hold
    secrets."""
    fields = asdict(value)
    del fields["pin"]["cmdline"]
    reason = value.reason
    fields["severity"], fields["reference"] = reason.severity, reason.reference
    return fields | {"explanation": _explanation(explain(value))}


def slow_pin(value: SlowPin) -> dict[str, Any]:
    """A slow pin, in the same way."""
    fields = asdict(value)
    del fields["pin"]["cmdline"]
    return fields | {"explanation": _explanation(explain_slow(value))}


def stuck_pin(value: StuckPin) -> dict[str, Any]:
    """A pin that has not returned, in the same way."""
    return asdict(value) | {"explanation": {"headline": stuck_words(value), "paragraphs": {}}}


def _explanation(value: Explanation) -> dict[str, Any]:
    return {
        "headline": value.headline,
        "summary": value.summary,
        "paragraphs": dict(value.paragraphs),
        "commands": [asdict(command) for command in value.commands],
        "document": value.document,
        "link": value.link,
    }
