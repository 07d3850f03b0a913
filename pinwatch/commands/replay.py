"""`pinwatch replay FILE`: read a recording through the same stages as live, and show the result."""

from __future__ import annotations

import argparse
import json
import os

from pinwatch.commands import record
from pinwatch.errors import UsageError
from pinwatch.expose import as_json, exposition, stories, words
from pinwatch.playback import Playback


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="made by `pinwatch record` or `pinwatch run --record FILE`")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="the failures, as JSON")
    shown.add_argument("--metrics", action="store_true", help="the metrics at its end")
    shown.add_argument(
        "--redact", metavar="OUT", default="",
        help="write it to OUT without names of VMs, command lines, addresses of devices",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    playback = Playback(arguments.file)
    if arguments.redact:
        if os.path.exists(arguments.redact) and os.path.samefile(arguments.file, arguments.redact):
            raise UsageError(f"{arguments.redact} is the recording itself", hint="name another")
        record.write(arguments.redact, playback.header, playback.items, redact=True)
    else:
        _show(playback, arguments)
    playback.check()
    return 0


def _show(playback: Playback, arguments: argparse.Namespace) -> None:
    snapshot = playback.end()
    if arguments.metrics:
        print(exposition.text(snapshot, playback.header.facts), end="")
    elif arguments.json:
        print(json.dumps([as_json.failure(failure) for failure in snapshot.failures], indent=2))
    else:
        for story in reversed(stories.stories(snapshot.failures)):
            print(words.explain(story.failure).text)
            print(f"  {story.count} of this cause in {story.bursts} tries")
        for slow in snapshot.slow_pins:
            print(words.explain_slow(slow).text)
