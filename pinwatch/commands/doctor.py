"""`pinwatch doctor`: what works on this host and what does not, why, and what to do about it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pinwatch.daemon import Roots
from pinwatch.host import checks
from pinwatch.host.checks import Check, Verdict

_MARKS = {
    Verdict.OK: ("ok", "green"),
    Verdict.LIMITED: ("limited", "yellow"),
    Verdict.FAILED: ("failed", "red"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    roots = Roots.default()
    found = checks.all_checks(procfs=roots.proc, sysfs=roots.sys, bpf_dir=roots.bpf)
    if arguments.json:
        print(json.dumps([asdict(check) for check in found], indent=2))
    else:
        show(found)
    return int(any(check.verdict is Verdict.FAILED for check in found))


def show(found: list[Check]) -> None:
    """A row for each check; a remedy under what is not well."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in found:
        word, style = _MARKS[check.verdict]
        table.add_row(Text(word, style=style), Text(check.name), Text(check.detail))
        if check.remedy:
            table.add_row("", "", Text("→ " + check.remedy))
    Console(highlight=False, emoji=False, markup=False).print(table)
