"""`pinwatch metrics` against a server that answers as the daemon's does."""

from __future__ import annotations

import http.client
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pinwatch import cli, serve
from pinwatch.aggregate.ledger import Ledger
from tests.unit.make import FACTS, TASK, VM, failure

ROOT = Path(__file__).resolve().parents[2]
UMLAUT = replace(VM, name="wäb-01", uuid="")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, serve.Server]]:
    """The daemon's socket, and beside it its TCP server."""
    ledger = Ledger()
    ledger.name_task(TASK.key, UMLAUT)
    ledger.add_failure(failure(id="new1", vm=UMLAUT))
    app = serve.App(latest=ledger.snapshot, facts=FACTS, ready=lambda: True)
    path = str(tmp_path / "s")
    servers = serve.bind_unix(path), serve.bind_tcp("127.0.0.1:0")
    for server in servers:
        serve.start(server, app)
    yield path, servers[1]
    for server in servers:
        server.shutdown()
        server.server_close()


def scraped(server: serve.Server, accept: str) -> bytes:
    connection = http.client.HTTPConnection(serve.local_address(server), timeout=10)
    connection.request("GET", "/metrics", headers={"Accept": accept})
    body = connection.getresponse().read()
    connection.close()
    return body


def settled(page: bytes) -> bytes:
    """Without what the daemon itself costs, which goes on."""
    return re.sub(rb"(?m)^(process|python)_.*\n", b"", page)


@pytest.mark.parametrize(
    ("flags", "accept"),
    [([], "*/*"), (["--openmetrics"], "application/openmetrics-text;version=1.0.0")],
)
def test_it_is_the_page_that_prometheus_gets(
    served: tuple[str, serve.Server], capfdbinary: pytest.CaptureFixture[bytes],
    flags: list[str], accept: str,
) -> None:  # fmt: skip
    path, tcp = served
    assert cli.main(["metrics", "--socket", path, *flags]) == 0
    out, err = capfdbinary.readouterr()
    assert settled(out) == settled(scraped(tcp, accept))
    assert 'vm="wäb-01"'.encode() in out
    assert out.endswith(b"# EOF\n") == bool(flags)
    assert (b'event_id="new1"' in out) == bool(flags), "exemplars are of OpenMetrics only"
    assert err == b""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _Refuses(socketserver.StreamRequestHandler):
    answer = b"HTTP/1.0 503 Service Unavailable\r\n\r\ntoo many requests\n"

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(self.answer)


class _BreaksOff(_Refuses):
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\npinwatch_build_info 1\n"


class _Short(_Refuses):
    answer = b"HTTP/1.0 200 OK\r\n\r\npinwatch_build_info 1\n"


class _Long(_Refuses):
    answer = b"HTTP/1.0 200 OK\r\n\r\n" + b"pinwatch_build_info 1\n" * 10_000


@contextmanager
def answering(path: str, handler: type[_Refuses]) -> Iterator[None]:
    with _Server(path, handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("handler", [_Short, _Long])
def test_a_reader_that_goes_early_is_no_error(handler: type[_Refuses], tmp_path: Path) -> None:
    """As `| head -1` and `| grep -q` do; also where the terminal knows no UTF-8."""
    command = [sys.executable, "-m", "pinwatch", "metrics", "--socket", str(tmp_path / "s")]
    with (
        answering(str(tmp_path / "s"), handler),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env={"LC_ALL": "C"}
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("handler", "says"),
    [(_Refuses, "503 too many requests"), (_BreaksOff, "no pinwatch daemon answers")],
)
def test_half_a_page_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    handler: type[_Refuses], says: str,
) -> None:  # fmt: skip
    """What is piped to `grep -c` must not pass for a whole page."""
    with answering(str(tmp_path / "s"), handler):
        assert cli.main(["metrics", "--socket", str(tmp_path / "s")]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
