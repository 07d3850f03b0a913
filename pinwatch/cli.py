"""The command list, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from types import ModuleType

from pinwatch.errors import PinwatchError
from pinwatch.settings import DEFAULT_CONFIG

# Each is a module of pinwatch.commands with add_arguments() and run(); imported when it is used,
# because the daemon has no need of what draws tables.
COMMANDS = {
    "run": "watch this host and serve metrics until stopped",
    "top": "show VMs, their failures and what the host has left, as it changes",
    "why": "explain the last failed pin, of all VMs or of one",
    "events": "list failed and slow pins of the past, or follow them",
    "check": "say where VMs' memory lies, and whether a VFIO pin of it would work now",
    "doctor": "say what works on this host, what does not, and what to do",
    "metrics": "print the page that Prometheus scrapes",
    "record": "write what the running daemon sees to a file",
    "replay": "read a recording as if it happened now",
    "version": "print the version",
}


def command_module(name: str) -> ModuleType:
    return importlib.import_module(f"pinwatch.commands.{name}")


def make_parser(argv: list[str]) -> argparse.ArgumentParser:
    """The parser; only the command that argv names is imported."""
    parser = argparse.ArgumentParser(
        prog="pinwatch",
        description="Which VM failed to pin memory for the long term, why, and what to do.",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and compiler output")
    parser.add_argument(
        "--config", default="", metavar="FILE", help=f"TOML (default: {DEFAULT_CONFIG})"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help_ in COMMANDS.items():
        sentence = f"{help_[0].upper()}{help_[1:]}."
        sub = commands.add_parser(name, help=help_, description=sentence)
        if name in argv:
            command_module(name).add_arguments(sub)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit codes: 0 fine, 1 found a problem, 2 usage, 3 cannot run here."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = make_parser(argv).parse_args(argv)
    if arguments.debug:
        os.environ["PINWATCH_DEBUG"] = "1"  # for the loader, which is a process of its own
    try:
        code = int(command_module(arguments.command).run(arguments))
        sys.stdout.flush()  # a pipe that `head` has closed is met here, not when Python ends
        return code
    except PinwatchError as error:
        if arguments.debug:
            raise
        print(f"pinwatch: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"pinwatch: {error.hint}", file=sys.stderr)
        return error.exit_code
    except (BrokenPipeError, SystemExit):  # rich makes the second of the first
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
