"""`pinwatch metrics`: the page that Prometheus scrapes, of this host, whatever stands before it."""

from __future__ import annotations

import argparse
import sys

from pinwatch.commands import client
from pinwatch.settings import TABLE

PLAIN, OPENMETRICS = "text/plain", "application/openmetrics-text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = next(row.default for row in TABLE if row.name == "socket")
    parser.description = (
        "Print /metrics of the running daemon, asked over its Unix socket: whatever address it "
        "listens on, and without TLS and password."
    )
    parser.add_argument("--openmetrics", action="store_true", help="with exemplars, as OpenMetrics")
    parser.add_argument("--socket", default=default, metavar="PATH", help="socket of the daemon")


def run(arguments: argparse.Namespace) -> int:
    accept = OPENMETRICS if arguments.openmetrics else PLAIN
    page = client.page(arguments.socket, "/metrics", accept=accept)
    sys.stdout.buffer.write(page)  # UTF-8, whatever the terminal's locale is
    return 0
