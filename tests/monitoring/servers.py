"""A Prometheus, an Alertmanager and those who wait for its messages, each on a port of its own."""

from __future__ import annotations

import json
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.lab.tools import tool

START_S = 30
REPLAY_S = 300  # what a large Prometheus may take to read its log again


def free_port() -> int:
    """One that the kernel gives to nobody by itself (ip_local_port_range). It is the caller's until
    this process ends: a socket that never listens keeps it from all that ask here, in any process,
    and lets in a server that sets SO_REUSEADDR (socket(7)), as Go's and QEMU's do."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.detach()
            return port
    raise AssertionError("no port is free")


@contextmanager
def running(
    command: Sequence[str | Path], ready: str, log: Path, seconds: float = START_S
) -> Iterator[None]:
    """A server, from when `ready` answers until the end of the block."""
    with log.open("ab") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(lambda: _answers(ready), f"{command[0]} does not start: {log}", seconds)
        yield
    finally:
        server.terminate()
        server.wait(timeout=seconds)


def wait_for(done: Any, otherwise: str, seconds: float = START_S) -> Any:
    """The first true value of `done()`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := done():
            return value
        time.sleep(0.1)
    raise AssertionError(otherwise)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


@contextmanager
def prometheus(home: Path, config: dict[str, Any], *flags: str) -> Iterator[str]:
    """Prometheus with the data below `home`; gives its URL."""
    path = home / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command: tuple[str | Path, ...] = (
        tool("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={home / 'data'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
        *flags,
    )
    ready, log = f"http://{address}/-/ready", home / "prometheus.log"
    with running(command, ready, log, REPLAY_S):
        yield f"http://{address}"


@contextmanager
def alertmanager(home: Path, config: dict[str, Any], *templates: Path) -> Iterator[str]:
    """Alertmanager; gives its URL. Debian's reads templates of its own below /usr/share, where it
    is not installed: it gets a root of its own, with no more in it than it needs."""
    program, root = tool("prometheus-alertmanager"), home / "root"
    own = program.parents[1] / "share/prometheus/alertmanager"
    shutil.copytree(
        own, root / "usr/share/prometheus/alertmanager", ignore=shutil.ignore_patterns("ui")
    )
    for file in (program, *_libraries(program)):
        (root / file.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / file.relative_to("/"))
    for template in templates:
        shutil.copy(template, root)
    (root / "alertmanager.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = (
        "chroot", root, program,
        "--config.file=/alertmanager.yaml",
        "--storage.path=/data",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    )  # fmt: skip
    with running(command, f"http://{address}/-/ready", home / "alertmanager.log"):
        yield f"http://{address}"


def _libraries(program: Path) -> list[Path]:
    """Shared objects that a program loads."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", told)]


class Mailbox:
    """What was posted, by path, as JSON; and what is given to those who get, by path."""

    def __init__(self) -> None:
        self.posted: dict[str, list[Any]] = {}
        self.pages: dict[str, bytes] = {}


@contextmanager
def mailbox() -> Iterator[tuple[str, Mailbox]]:
    """A server on the loopback for what others send and scrape; gives its URL."""
    box = Mailbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            box.posted.setdefault(self.path, []).append(json.loads(body))
            self._answer(b"ok")

        def do_GET(self) -> None:
            self._answer(box.pages[self.path])

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", box
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
