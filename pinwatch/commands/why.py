"""`pinwatch why [VM]`: explain the last failed pin, of all VMs or of one."""

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
    parser.add_argument("--last", type=_positive, default=1, metavar="N", help="explain N failures")
    parser.add_argument("--socket", default=default, metavar="PATH", help="socket of the daemon")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    answer = client.get(
        arguments.socket, "/api/v1/failures", vm=arguments.vm, limit=str(arguments.last)
    )
    failures: list[dict[str, Any]] = answer["failures"]
    if arguments.json:
        print(json.dumps(failures, indent=2))
        return 0
    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=False)
    if not failures:
        console.print(nothing(arguments.vm, answer["vms"]))
        return 0
    for failure in failures:
        show(console, failure)
    lost = sum(answer["losses"].values())
    if lost:
        console.print(f"{lost} records were lost; there may be more failures than these.")
    return 0


def nothing(vm: str, known: list[str]) -> str:
    """No failure: say whether that VM has been seen at all."""
    if vm and vm not in known:
        names = ", ".join(name for name in known if not name.startswith("~")) or "none"
        return f"no VM {vm!r} has pinned memory since pinwatch started; known VMs: {names}"
    return f"no long-term pin of {vm or 'any VM'} has failed since pinwatch started"


def show(console: Console, failure: dict[str, Any]) -> None:
    """One failure: when, the headline, then a row for each paragraph."""
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
