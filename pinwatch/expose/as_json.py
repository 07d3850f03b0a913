"""Values as JSON for people's scripts: the fields of the frozen values, and the words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pinwatch.expose.words import explain
from pinwatch.model.failure import Failure


def failure(value: Failure) -> dict[str, Any]:
    """A failure with its evidence and its explanation. The command line stays out: it may hold
    secrets."""
    fields = asdict(value)
    del fields["pin"]["cmdline"]
    explanation = explain(value)
    fields["explanation"] = {
        "headline": explanation.headline,
        "paragraphs": dict(explanation.paragraphs),
    }
    return fields
