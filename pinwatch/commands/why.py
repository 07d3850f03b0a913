"""`pinwatch why [VM]`: explain the last failed or slow pin, of all VMs or of one, and say which are
stuck now."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pinwatch.commands import client
from pinwatch.settings import TABLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = next(row.default for row in TABLE if row.name == "socket")
    parser.add_argument("vm", nargs="?", default="", metavar="VM", help="name of a VM")
    parser.add_argument("--json", action="store_true", help="all evidence, as JSON")
    parser.add_argument("--last", type=_positive, default=1, metavar="N", help="explain N of them")
    parser.add_argument("--slow", action="store_true", help="pins that worked, but took too long")
    parser.add_argument("--socket", default=default, metavar="PATH", help="socket of the daemon")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    answer = client.get(
        arguments.socket, "/api/v1/failures", vm=arguments.vm, limit=str(arguments.last)
    )
    pins: list[dict[str, Any]] = answer["slow" if arguments.slow else "failures"]
    if arguments.json:
        print(json.dumps(pins, indent=2))
        return 0
    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=False)
    for stuck in answer["stuck"]:
        console.print("now: " + stuck["explanation"]["headline"])
    if not pins:
        console.print(nothing(arguments.vm, answer["vms"], slow=arguments.slow))
        return 0
    for pin in pins:
        show(console, pin)
    lost = sum(answer["losses"].values())
    if lost:
        console.print(f"{lost} records were lost; there may be more failures than these.")
    return 0


def nothing(vm: str, known: list[str], *, slow: bool = False) -> str:
    """None of them: say whether that VM has been seen at all."""
    if vm and vm not in known:
        names = ", ".join(name for name in known if not name.startswith("~")) or "none"
        return f"pinwatch knows no pin of a VM {vm!r}; VMs that it watches: {names}"
    what = "been slow" if slow else "failed"
    return f"no long-term pin of {vm or 'any VM'} has {what} since pinwatch started"


def show(console: Console, failure: dict[str, Any]) -> None:
    """One failed or slow pin: when, the headline, then a row for each paragraph."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(failure["time_s"]))
    table = Table.grid(padding=(0, 2), pad_edge=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, paragraph in failure["explanation"]["paragraphs"].items():
        table.add_row(Text(label), Text(paragraph))
    with console.capture() as capture:
        console.print(Text(f"{when}  {failure['explanation']['headline']}", style="bold"))
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())  # rich fills each row with spaces
