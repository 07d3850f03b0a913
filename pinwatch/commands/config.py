"""The configuration file, and what of it those want who ask the daemon."""

from __future__ import annotations

import argparse
from pathlib import Path

from pinwatch import settings
from pinwatch.errors import UsageError


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


def add_socket(parser: argparse._ActionsContainer) -> None:
    """The flag; `socket_of` has its value."""
    parser.add_argument("--socket", metavar="PATH", help="socket of the daemon")


def socket_of(arguments: argparse.Namespace) -> str:
    """Where the daemon answers, which has it from the same file."""
    return arguments.socket or settings.make({}, read_config(arguments.config)).socket
