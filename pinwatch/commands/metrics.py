"""`pinwatch metrics`: the page that Prometheus scrapes, of this host, whatever stands before it."""

from __future__ import annotations

import argparse
import sys

from pinwatch.commands import client
from pinwatch.commands.config import add_socket, socket_of

PLAIN, OPENMETRICS = "text/plain", "application/openmetrics-text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print /metrics of the running daemon, asked over its Unix socket: whatever address it "
        "listens on, and without TLS and password."
    )
    parser.add_argument("--openmetrics", action="store_true", help="with exemplars, as OpenMetrics")
    add_socket(parser)


def run(arguments: argparse.Namespace) -> int:
    accept = OPENMETRICS if arguments.openmetrics else PLAIN
    page = client.page(socket_of(arguments), "/metrics", accept=accept)
    sys.stdout.buffer.write(page)  # UTF-8, whatever the terminal's locale is
    return 0
