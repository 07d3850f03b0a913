"""`pinwatch run`: watch this host and serve metrics until stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from pinwatch import settings
from pinwatch.daemon import Daemon, Roots
from pinwatch.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for row in settings.TABLE:
        kind = float if isinstance(row.default, float) else str
        default = f"{row.default:g}" if isinstance(row.default, float) else row.default
        shown = f" (default: {default})" if default else ""
        parser.add_argument(
            *row.flags, dest=row.name, type=kind, metavar=row.metavar, help=row.help + shown
        )


def read_config(path: str) -> dict[str, object]:
    """The configuration file; the default one may be absent."""
    try:
        text = Path(path or settings.DEFAULT_CONFIG).read_text()
    except FileNotFoundError:
        if path:
            raise UsageError(f"{path}: no such file", hint="check --config") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}", hint="check --config") from None
    return settings.parse_config(text, path or settings.DEFAULT_CONFIG)


def run(arguments: argparse.Namespace) -> int:
    flags = {row.name: getattr(arguments, row.name) for row in settings.TABLE}
    chosen = settings.make(flags, read_config(arguments.config))
    Daemon(chosen, Roots.default()).run()
    return 0
