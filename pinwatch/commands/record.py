"""`pinwatch record`: write what the running daemon sees to a file."""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import replace

from pinwatch.commands import client
from pinwatch.commands.config import add_socket, socket_of
from pinwatch.errors import CannotRunError, NoDaemonError
from pinwatch.host import recordings
from pinwatch.recording import (
    Header,
    Item,
    RawRecord,
    RecordingError,
    header_line,
    item_line,
    read,
)
from pinwatch.recording.redact import Redactor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a recording of the running daemon: the failed and slow pins that it remembers, the "
        "VMs that are alive, and what happens in the next seconds. `pinwatch replay` reads it, on "
        "any machine."
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="default: pinwatch-DATE-TIME.jsonl.gz"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=0, metavar="N",
        help="go on for so long; Ctrl-C ends it early (default: only what is remembered)",
    )  # fmt: skip
    parser.add_argument(
        "--redact", action="store_true", help="replace names of VMs, command lines, addresses"
    )
    add_socket(parser)


def _seconds(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    path = arguments.output or time.strftime("pinwatch-%Y%m%d-%H%M%S.jsonl.gz")
    lines = client.lines(
        socket_of(arguments),
        "/api/v1/recording",
        timeout_s=client.TIMEOUT_S + arguments.seconds,
        seconds=str(arguments.seconds),
    )
    began = time.monotonic()
    try:
        header, items = read(lines)
        pins = write(path, header, items, redact=arguments.redact)
    except RecordingError as error:
        raise NoDaemonError(
            f"the daemon's answer is no recording: {error}",
            hint="is the daemon of another version? Restart it",
        ) from None
    took_s = time.monotonic() - began  # less than was asked for when the daemon has ended
    print(f"{path}: {took_s:.0f} s, {pins} failed or slow pins; `pinwatch replay {path}` reads it")
    return 0


def write(path: str, header: Header, items: Iterable[Item], *, redact: bool) -> int:
    """Write a recording; gives how many failed and slow pins it has. Ctrl-C ends it early, and what
    is there is whole."""
    redactor = Redactor(secrets.token_bytes())
    pins = 0
    try:
        with closing(recordings.Writer(path)) as file, suppress(KeyboardInterrupt):
            file.write(header_line(replace(header, redacted=header.redacted or redact)))
            for item in items:
                file.write(item_line(redactor.item(item) if redact else item))
                pins += isinstance(item, RawRecord) and item.is_pin
    except OSError as error:
        raise CannotRunError(
            f"cannot write {path}: {error.strerror}", hint="choose another file"
        ) from None
    return pins
