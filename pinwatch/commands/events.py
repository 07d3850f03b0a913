"""`pinwatch events`: failed and slow pins of the past, listed or followed."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pinwatch import history, settings
from pinwatch.attribute.names import printable
from pinwatch.commands import times
from pinwatch.commands.config import read_config
from pinwatch.history import Document, Reader, Wanted
from pinwatch.model.failure import SlowCause
from pinwatch.model.pin import PinSource
from pinwatch.model.reason import FailureReason

POLL_S = 1.0
MAX_LINE = 500
COLUMNS = ("id", "time_s", "kind", "vm", "alias", "uuid", "source", "reason", "holder", "errno",
           "headline")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    reasons = sorted({*map(str, FailureReason), *map(str, SlowCause)})
    parser.add_argument("--vm", default="", metavar="VM", help="name, other name or uuid of a VM")
    parser.add_argument(
        "--kind", choices=("failed", "slow"), default="", help="those that failed, or were slow"
    )
    parser.add_argument("--reason", choices=reasons, default="", metavar="REASON",
                        help="of a failure, or cause of a slow pin (docs/reasons.md)")  # fmt: skip
    parser.add_argument("--source", choices=list(map(str, PinSource)), default="", metavar="SOURCE",
                        help=f"who asked for the pin: {', '.join(PinSource)}")  # fmt: skip
    parser.add_argument("--since", type=times.argument, metavar="TIME", help="03:12, 2h, or ISO")
    parser.add_argument("--until", type=times.argument, metavar="TIME", help="the same")
    parser.add_argument("--limit", type=positive, default=100, metavar="N", help="the newest N")
    parser.add_argument("--follow", action="store_true", help="go on with what comes")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="all evidence, a JSON object a line")
    shape.add_argument("--csv", action="store_true", help="the columns, as CSV")
    parser.add_argument("--state-dir", metavar="PATH", help="where the history lies")


def positive(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def reader(arguments: argparse.Namespace) -> Reader:
    """The history of this host."""
    flags = {"state_dir": arguments.state_dir}
    return Reader(settings.make(flags, read_config(arguments.config)).state_dir)


def run(arguments: argparse.Namespace) -> int:
    wanted = Wanted(
        vm=arguments.vm,
        kind=arguments.kind,
        reason=arguments.reason,
        source=arguments.source,
        since_s=arguments.since,
        until_s=arguments.until,
        limit=arguments.limit,
    )
    book = reader(arguments)
    found = list(book.events(wanted))
    if arguments.json:
        _lines(found, arguments, book, wanted)
    elif arguments.csv:
        csv.writer(sys.stdout).writerow(COLUMNS)
        _rows(found, arguments, book, wanted)
    elif arguments.follow:
        for one in _all(found, arguments, book, wanted):
            print(line(one), flush=True)
    else:
        show(found)
    return 0


def _all(
    found: list[Document], arguments: argparse.Namespace, book: Reader, wanted: Wanted
) -> Iterator[Document]:
    yield from found
    last = max((one["row"] for one in found), default=0)
    while arguments.follow:
        time.sleep(POLL_S)
        if book.last_row < last:  # all that were there are too old by now: rows begin again
            last = 0
        for one in book.events(replace(wanted, after=last, limit=history.WAITING)):
            last = max(last, one["row"])
            yield one


def _lines(
    found: list[Document], arguments: argparse.Namespace, book: Reader, wanted: Wanted
) -> None:
    for one in _all(found, arguments, book, wanted):
        print(json.dumps({"kind": one["kind"], **one["body"]}), flush=True)


def _rows(
    found: list[Document], arguments: argparse.Namespace, book: Reader, wanted: Wanted
) -> None:
    writer = csv.writer(sys.stdout)
    for one in _all(found, arguments, book, wanted):
        writer.writerow([printable(str(one[column]), MAX_LINE) for column in COLUMNS])
        sys.stdout.flush()


def line(one: Document) -> str:
    """For a terminal that is followed."""
    holder = f", holder {one['holder']}" if one["holder"] not in ("", "none") else ""
    text = f"{_when(one['time_s'])}  {one['headline']}: {one['reason']}{holder}  [{one['id']}]"
    return printable(text, MAX_LINE)


def show(found: Iterable[Document]) -> None:
    """A row for each, the newest last, where the eye is."""
    table = Table(box=None, pad_edge=False)
    for title in ("time", "vm", "source", "what", "reason", "holder", "id"):
        table.add_column(title, overflow="fold", no_wrap=title in ("time", "id"))
    rows = 0
    for one in found:
        rows += 1
        words = (
            _when(one["time_s"]), one["vm"], one["source"],
            one["errno"] or one["kind"], one["reason"], one["holder"], one["id"],
        )  # fmt: skip
        table.add_row(*(Text(printable(word)) for word in words))
    console = Console(highlight=False, emoji=False, markup=False)
    if rows:
        console.print(table)
        console.print("`pinwatch why --event ID` tells all of one", style="dim")
    else:
        console.print("the history has no such event")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
