"""`pinwatch replay FILE`: read a recording through the same stages as live, and show the result."""

from __future__ import annotations

import argparse
import json

from pinwatch import recording
from pinwatch.errors import UsageError
from pinwatch.expose import as_json, exposition, words
from pinwatch.pipeline import Pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="made by `pinwatch run --record FILE`")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="the failures, as JSON")
    shown.add_argument("--metrics", action="store_true", help="the metrics at its end")


def run(arguments: argparse.Namespace) -> int:
    try:
        with open(arguments.file, encoding="utf-8") as lines:
            facts, wall_offset_ns, items = recording.read(lines)
            pipeline = Pipeline(facts, wall_offset_ns)
            for item in items:
                pipeline.feed(item)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot replay {arguments.file}: {error}") from None
    snapshot = pipeline.snapshot()
    if arguments.metrics:
        print(exposition.text(snapshot, facts), end="")
    elif arguments.json:
        print(json.dumps([as_json.failure(failure) for failure in snapshot.failures], indent=2))
    else:
        for failure in snapshot.failures:
            print(words.explain(failure).text)
        for slow in snapshot.slow_pins:
            print(words.explain_slow(slow).text)
    return 0
