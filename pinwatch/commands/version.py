"""`pinwatch version`: the version of pinwatch."""

from __future__ import annotations

import argparse

from pinwatch import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(_arguments: argparse.Namespace) -> int:
    print(f"pinwatch {__version__}")
    return 0
