"""The hosts of simulated.py over HTTP, in a process of its own: `/HOST/metrics` on some ports, and
`/fleet`, which says what has happened and what this has cost.

`python -m tests.monitoring.serving HOSTS VMS SPEED` writes where as a line of JSON, and ends with
its standard input.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pinwatch.expose.exposition import OPENMETRICS, TEXT, Format
from pinwatch.serve import GZIP_LEVEL
from tests.monitoring.simulated import Fleet, Host, Shape

ROOT = Path(__file__).resolve().parents[2]
LISTENERS = 4


class _Handler(BaseHTTPRequestHandler):
    """Negotiates as pinwatch/serve.py does."""

    fleet: Fleet
    scrapes = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        name = self.path.split("/")[1]
        if name == "fleet":
            self._answer(json.dumps(self._said()).encode(), "application/json")
            return
        host = self.fleet.hosts[name]
        body = self._metrics(host)
        time.sleep(host.late_s)
        if body is not None:
            self._answer(body, self._form.content_type)

    @property
    def _form(self) -> Format:
        accepted = self.headers.get("Accept", "")
        return OPENMETRICS if "application/openmetrics-text" in accepted else TEXT

    def _metrics(self, host: Host) -> bytes | None:
        with self.lock:  # many threads at once would only wait for each other
            type(self).scrapes += 1
            return host.answer(time.time(), self._form)

    def _answer(self, body: bytes, content_type: str) -> None:
        zipped = "gzip" in self.headers.get("Accept-Encoding", "")
        body = gzip.compress(body, GZIP_LEVEL) if zipped else body
        with suppress(BrokenPipeError):  # who asked has ended
            self._send(body, content_type, zipped)

    def _send(self, body: bytes, content_type: str, zipped: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if zipped:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def _said(self) -> dict[str, Any]:
        hosts = self.fleet.hosts.values()
        return {
            "failures": [[h.name, *of, n] for h in hosts for of, n in h.happened.items()],
            "dead": [host.name for host in hosts if host.dies],
            "cpu_s": time.process_time(),
            "scrapes": self.scrapes,
        }

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main(arguments: list[str]) -> int:
    hosts, vms, speed = arguments
    _Handler.fleet = Fleet(Shape(int(hosts), int(vms), float(speed)), time.time())
    servers = [_Server(("127.0.0.1", 0), _Handler) for _ in range(LISTENERS)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps([server.server_port for server in servers]), flush=True)
    sys.stdin.read()
    return 0


@dataclass(frozen=True, slots=True)
class Served:
    """A fleet that answers."""

    shape: Shape
    ports: tuple[int, ...]
    pid: int
    began_s: float

    def said(self) -> dict[str, Any]:
        """What has happened."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}/fleet") as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def job(self) -> dict[str, Any]:
        """The scrape configuration: a target is a host's name, which becomes `instance`; where it
        is answered follows from that."""
        names = [f"compute-{number:04}" for number in range(self.shape.hosts)]
        whole = {"source_labels": ["__address__"]}
        path = {"target_label": "__metrics_path__", "replacement": "/$1/metrics"}
        spread = {"action": "hashmod", "modulus": len(self.ports), "target_label": "__tmp_port"}
        to_port = [
            {"source_labels": ["__tmp_port"], "regex": str(number), "target_label": "__address__",
             "replacement": f"127.0.0.1:{port}"}
            for number, port in enumerate(self.ports)
        ]  # fmt: skip
        return {
            "job_name": "pinwatch",
            "static_configs": [{"targets": names}],
            "relabel_configs": [
                {**whole, "target_label": "instance"}, {**whole, **path}, {**whole, **spread},
                *to_port,
            ],
        }  # fmt: skip


@contextmanager
def serving(shape: Shape) -> Iterator[Served]:
    """A fleet until the end of the block."""
    sizes = (str(shape.hosts), str(shape.vms), str(shape.speed))
    command = (sys.executable, "-m", "tests.monitoring.serving", *sizes)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) as process:
        assert process.stdin
        assert process.stdout
        try:
            began_s = time.time()
            ports = tuple(json.loads(process.stdout.readline()))
            yield Served(shape, ports, process.pid, began_s)
        finally:
            process.stdin.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
