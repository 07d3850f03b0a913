"""`pinwatch why [VM]`: explain the last failed or slow pin, of all VMs or of one, and say which are
stuck now. Failures of one cause are told once."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pinwatch.commands import client, events, times
from pinwatch.commands.config import add_socket, socket_of
from pinwatch.errors import CannotRunError, NoDaemonError, UsageError
from pinwatch.expose import stories
from pinwatch.history import Wanted
from pinwatch.model.loss import LossKind
from pinwatch.playback import Playback

NO_FAILURE_LOST = (
    LossKind.VM_EVIDENCE,
    LossKind.PLACEMENT,
    LossKind.HINTS_FULL,
    LossKind.RECORDING,
    LossKind.HISTORY,
)
MAX_WIDTH = 110  # lines that are longer are hard to read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vm", nargs="?", default="", metavar="VM", help="name, other name or uuid")
    parser.add_argument("--json", action="store_true", help="all evidence, as JSON")
    parser.add_argument(
        "--last", type=events.positive, default=1, metavar="N", help="explain N of them"
    )
    parser.add_argument("--slow", action="store_true", help="pins that worked, but took too long")
    add_socket(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--replay", metavar="FILE", help="at the end of this recording")
    source.add_argument(
        "--at", type=times.argument, metavar="TIME", help="the last before 03:12, 2h ago, or ISO"
    )
    source.add_argument(
        "--event", metavar="ID", help="one of `pinwatch events`, or the event_id of an exemplar"
    )
    parser.add_argument("--state-dir", metavar="PATH", help="where the history lies")


def run(arguments: argparse.Namespace) -> int:
    if arguments.event or arguments.at is not None:
        _show_pins(list(_past(arguments)), arguments)
        return 0
    if not arguments.replay:
        _show_all(_ask(arguments), arguments)
        return 0
    playback = Playback(arguments.replay)
    _show_all(stories.document(playback.end(), arguments.vm, arguments.last), arguments)
    playback.check()
    return 0


def _ask(arguments: argparse.Namespace) -> dict[str, Any]:
    return client.get(
        socket_of(arguments), "/api/v1/why", vm=arguments.vm, limit=str(arguments.last)
    )


def _past(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Of the history, the newest first."""
    if arguments.event:
        yield _event(arguments)
        return
    wanted = Wanted(
        vm=arguments.vm,
        kind="slow" if arguments.slow else "failed",
        until_s=arguments.at,
        limit=arguments.last,
    )
    book = events.reader(arguments)
    yield from (one["body"] for one in reversed(list(book.events(wanted))))


def _event(arguments: argparse.Namespace) -> dict[str, Any]:
    """From the history, or from the daemon, which has the newest even where no disk takes them."""
    try:
        found = events.reader(arguments).event(arguments.event)
    except CannotRunError:
        found = _newest(arguments)
        if found is None:
            raise
    found = found or _newest(arguments)
    if found is None:
        raise UsageError(
            f"the history has no event {arguments.event!r}, or several that begin so",
            hint="`pinwatch events` lists them",
        )
    return found


def _newest(arguments: argparse.Namespace) -> dict[str, Any] | None:
    try:
        answer = client.get(socket_of(arguments), "/api/v1/event", id=arguments.event)
    except NoDaemonError:
        return None
    found: dict[str, Any] | None = answer["event"]
    return found


def _show_pins(pins: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(pins, indent=2))
        return
    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=False)
    for pin in pins:
        show(console, pin)
    if not pins:
        console.print("the history has nothing of that time")


def _show_all(answer: dict[str, Any], arguments: argparse.Namespace) -> None:
    pins: list[dict[str, Any]] = answer["slow" if arguments.slow else "stories"]
    if arguments.json:
        print(json.dumps(pins, indent=2))
        return
    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=False)
    for stuck in answer["stuck"]:
        console.print("now: " + stuck["explanation"]["headline"])
    if not pins:
        is_unknown = arguments.vm and not answer["is_known"]
        said = unknown(arguments.vm, answer["vms"]) if is_unknown else nothing(arguments)
        console.print(said)
        return
    for pin in pins:
        show(console, pin)
    others = 0 if arguments.slow else answer["more_stories"]
    if others:
        console.print(f"{others} more causes: `pinwatch why --last {arguments.last + others}`")
    lost = sum(n for kind, n in answer["losses"].items() if kind not in NO_FAILURE_LOST)
    if lost:
        console.print(f"{lost} records were lost; there may be more failures than these.")


def unknown(vm: str, known: list[str]) -> str:
    """That VM has not been seen at all."""
    names = ", ".join(name for name in known if not name.startswith("~")) or "none"
    return f"pinwatch knows no pin of a VM {vm!r}; VMs that it watches: {names}"


def nothing(arguments: argparse.Namespace) -> str:
    """None of them."""
    what = "been slow" if arguments.slow else "failed"
    return f"no long-term pin of {arguments.vm or 'any VM'} has {what} since pinwatch started"


def show(console: Console, pin: dict[str, Any]) -> None:
    """One story on the terminal."""
    with console.capture() as capture:
        console.print(told(pin), width=min(console.width, MAX_WIDTH))
    for row in capture.get().splitlines():
        print(row.rstrip())  # rich fills each row with spaces
    for line in end(pin["explanation"]):
        console.print(line, soft_wrap=True)


def told(pin: dict[str, Any]) -> RenderableType:
    """When, the headline, a summary for everyone, then a row for each paragraph."""
    explanation = pin["explanation"]
    table = Table.grid(padding=(0, 2), pad_edge=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, paragraph in _rows(pin):
        table.add_row(Text(label), Text(paragraph))
    return Group(
        Text(f"{_time('%Y-%m-%d %H:%M:%S', pin['time_s'])}  {explanation['headline']}", "bold"),
        Padding(Text(explanation["summary"]), (1, 2)),
        table,
    )


def _rows(pin: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if counted := counts(pin.get("story", {})):
        yield "count", counted
    yield from pin["explanation"]["paragraphs"].items()


def counts(story: dict[str, Any]) -> str:
    """How many failures this one stands for; nothing for one alone."""
    words = []
    if story.get("count", 1) > 1:
        tries = story["bursts"]
        times = f"{_time('%H:%M:%S', story['since_s'])} and {_time('%H:%M:%S', story['last_s'])}"
        words.append(
            f"{story['count']} failures of this cause"
            + (f" in {tries} tries" if tries > 1 else "")
            + f" between {times}"
        )
    if after := story.get("followed_by"):
        kinds = ", ".join(f"{count} {reason}" for reason, count in after.items())
        words.append(
            f"after this one the same process failed with {kinds}; the first explains best"
        )
    return "; ".join(words)


def end(explanation: dict[str, Any]) -> Iterator[Text]:
    """What to type, each with what it is for, and where to read on: whole lines, however narrow the
    terminal is, because they are there to be copied."""
    yield Text()
    for command in explanation["commands"]:
        yield Text(f"  # {command['what']}", "dim")
        yield Text(f"  {command['run']}", "bold cyan")
    path, _, section = explanation["document"].partition("#")
    yield Text(f"  more: {explanation['link']}", "dim")
    yield Text(f"        (docs/{path} in the source, section {section})", "dim")
    yield Text()


def _time(form: str, seconds: float) -> str:
    return time.strftime(form, time.localtime(seconds))
