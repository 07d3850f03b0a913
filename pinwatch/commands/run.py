"""`pinwatch run`: watch this host and serve metrics until stopped."""

from __future__ import annotations

import argparse

from pinwatch import settings
from pinwatch.commands.config import read_config
from pinwatch.daemon import Daemon, Roots


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for row in settings.TABLE:
        kind = float if isinstance(row.default, float) else str
        default = f"{row.default:g}" if isinstance(row.default, float) else row.default
        shown = f" (default: {default})" if default else ""
        parser.add_argument(
            *row.flags, dest=row.name, type=kind, metavar=row.metavar, help=row.help + shown
        )


def run(arguments: argparse.Namespace) -> int:
    flags = {row.name: getattr(arguments, row.name) for row in settings.TABLE}
    chosen = settings.make(flags, read_config(arguments.config))
    Daemon(chosen, Roots.default()).run()
    return 0
