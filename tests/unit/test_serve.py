"""HTTP: what is answered, how often it is rendered, and how many are answered at once."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pinwatch import serve
from pinwatch.aggregate.ledger import Ledger
from pinwatch.errors import CannotRunError
from pinwatch.expose import exposition
from pinwatch.expose.catalogue import REFUSED
from pinwatch.expose.exposition import Exposition
from pinwatch.expose.metrics import counter_family
from pinwatch.model.sample import TaskKey
from pinwatch.model.snapshot import Snapshot
from pinwatch.model.vm import SeriesLimits
from tests.monitoring.servers import wait_for
from tests.unit.make import FACTS, TASK, VM, failure, pin, sample

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
MAX_REQUESTS = 3


class Host:
    """A ledger, and a server that shows its newest snapshot."""

    def __init__(self) -> None:
        self.ledger = Ledger(SeriesLimits(max_vms=1))
        self.ledger.name_task(TASK.key, VM)
        self.publish()
        self.server = serve.bind_tcp("127.0.0.1:0", max_requests=MAX_REQUESTS)
        self.app = serve.App(
            latest=lambda: self.snapshot,
            facts=FACTS,
            ready=lambda: True,
            own=lambda: (counter_family(REFUSED, {(): self.server.refused}),),
        )

    def publish(self) -> None:
        self.snapshot = self.ledger.snapshot()

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(serve.local_address(self.server), timeout=10)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    made.server.set_app(made.app)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.mark.parametrize(
    ("accept", "kind", "end"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", b"\n"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8", b"# EOF\n"),
        ("application/openmetrics-text;version=x", "application/openmetrics-text", b"# EOF\n"),
    ],
)
def test_both_formats_plain_and_zipped(host: Host, accept: str, kind: str, end: bytes) -> None:
    answer, plain = host.get("/metrics", Accept=accept)
    zipped_answer, zipped = host.get("/metrics", Accept=accept, Accept_Encoding="br, gzip")
    assert (answer.status, zipped_answer.status) == (200, 200)
    assert answer.headers["Content-Type"].startswith(kind)
    assert answer.headers["Content-Encoding"] is None
    assert zipped_answer.headers["Content-Encoding"] == "gzip"
    assert int(answer.headers["Content-Length"]) == len(plain)
    assert gzip.decompress(zipped) == plain
    assert plain.endswith(end)
    for name in (b"pinwatch_vm_info{", b"pinwatch_build_info{", b"process_cpu_seconds_total "):
        assert plain.count(b"\n" + name) == 1


def test_a_snapshot_is_rendered_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []

    def expose(snapshot: Snapshot, *rest: Any) -> Exposition:
        rendered.append(snapshot)
        return exposition.expose(snapshot, *rest)

    monkeypatch.setattr(serve, "expose", expose)
    first = [host.get("/metrics", Accept=accept)[1] for accept in ("*/*", OPENMETRICS, "*/*")]
    assert first[0] == first[2]
    assert rendered == [host.snapshot]
    host.ledger.add_failure(failure())
    host.publish()
    assert host.get("/metrics")[1] != first[0]
    assert len(rendered) == 2


def test_too_many_at_once_are_refused_and_counted(host: Host) -> None:
    with ExitStack() as slow:
        for _ in range(MAX_REQUESTS):  # they connect, and say nothing
            slow.enter_context(socket.create_connection(("127.0.0.1", host.server.server_port)))
        assert host.get("/metrics")[0].status == 503
    for _ in range(100):
        answer, body = host.get("/metrics")
        if answer.status == 200:
            break
        time.sleep(0.05)
    refused = host.server.refused
    assert refused > 0
    assert f"\npinwatch_http_requests_refused_total {float(refused)}\n".encode() in body


def trickle(connection: socket.socket) -> bool:
    """One more byte of a request that never ends; False when the server has had enough."""
    try:
        connection.sendall(b"X")
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def is_served(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def test_who_sends_a_byte_now_and_then_holds_no_thread_for_ever() -> None:
    server = serve.bind_tcp("127.0.0.1:0", max_requests=2, request_s=1.0)
    serve.start(server, serve.App(latest=Ledger().snapshot, facts=FACTS, ready=lambda: True))
    with ExitStack() as slow:
        clients = [slow.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
                   for _ in range(2)]  # fmt: skip
        began = time.monotonic()
        while sum(map(trickle, clients)):
            assert time.monotonic() - began < 8
            time.sleep(0.1)
        url = f"http://{serve.local_address(server)}/metrics"
        wait_for(lambda: is_served(url), "their threads are not given back")
    assert server.broken == 2
    server.shutdown()
    server.server_close()


def test_a_client_that_takes_no_answer_is_counted_and_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def long(_environ: Any, start: Any) -> list[bytes]:
        start("200 OK", [])
        return [b"x" * (64 << 20)]  # more than any socket holds

    monkeypatch.setattr(serve._Handler, "timeout", 0.5)
    server = serve.bind_tcp("127.0.0.1:0")
    serve.start(server, long)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.server_port))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        wait_for(lambda: bool(server.broken), "nobody has noticed")
    server.shutdown()
    server.server_close()
    assert server.broken == 1
    assert capsys.readouterr().err == ""


def test_head_has_no_body(host: Host) -> None:
    environ = {"PATH_INFO": "/metrics", "REQUEST_METHOD": "HEAD"}
    assert not b"".join(host.app(environ, lambda _status, _headers: None))
    assert int(host.get("/metrics", method="HEAD")[0].headers["Content-Length"]) > 1000


def test_failures_are_for_the_local_socket_only(host: Host) -> None:
    assert host.get("/api/v1/failures")[0].status == 404


@pytest.mark.parametrize(
    ("vm", "found"), [("", 2), ("web-01", 1), ("~other", 1), ("b", 1), ("c", 0)]
)
def test_a_folded_vm_is_found_by_its_name_and_as_other(host: Host, vm: str, found: int) -> None:
    task = replace(TASK, key=TaskKey(7, 7))
    host.ledger.name_task(task.key, replace(VM, name="b"))
    for one in (TASK, task):
        who = host.ledger.vm_of(one.key)
        host.ledger.add_failure(failure(pin(task=one), vm=who))
    host.ledger.add_sample(sample())
    host.publish()
    environ = {
        "PATH_INFO": "/api/v1/failures", "QUERY_STRING": f"vm={vm}", "REQUEST_METHOD": "GET",
        "pinwatch.local": True,
    }  # fmt: skip
    body = b"".join(host.app(environ, lambda _status, _headers: None))
    assert len(json.loads(body)["failures"]) == found


NOVA = replace(VM, name="instance-0000002a", uuid="0b1c2d3e", alias="web 1")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("instance-0000002a", [NOVA.name]), ("web 1", [NOVA.name]), ("0b1c2d3e", [NOVA.name]),
        ("", [NOVA.name, VM.name]), ("web", []),
    ],
)  # fmt: skip
def test_a_vm_is_found_by_name_alias_and_uuid(asked: str, found: list[str]) -> None:
    ledger = Ledger()
    for one in (VM, NOVA):
        ledger.add_failure(failure(vm=one))
    app = serve.App(latest=ledger.snapshot, facts=FACTS, ready=lambda: True)
    environ = {
        "PATH_INFO": "/api/v1/failures", "REQUEST_METHOD": "GET", "pinwatch.local": True,
        "QUERY_STRING": f"vm={quote(asked)}",
    }  # fmt: skip
    body = b"".join(app(environ, lambda _status, _headers: None))
    assert [one["vm"]["name"] for one in json.loads(body)["failures"]] == found


def test_no_file_but_a_socket_gives_way_to_ours(tmp_path: Path) -> None:
    kept = tmp_path / "pinwatch.toml"
    kept.write_text("max_vms = 7\n")
    with pytest.raises(CannotRunError, match="a file of another kind"):
        serve.bind_unix(str(kept))
    assert kept.read_text() == "max_vms = 7\n"
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(stale))
    serve.bind_unix(str(stale)).server_close()


def test_a_socket_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    serve.bind_unix("here.sock").server_close()
    assert (tmp_path / "here.sock").is_socket()


def test_a_path_too_long_for_a_socket_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match="too long"):
        serve.bind_unix(str(tmp_path / ("x" * 120)))


def test_the_dns_is_not_asked_for_our_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is down, that takes as long as it likes, and the daemon is not ready meanwhile."""
    monkeypatch.setattr(socket, "getfqdn", pytest.fail)
    for listen in ("127.0.0.1:0", "0.0.0.0:0"):
        server = serve.bind_tcp(listen)
        assert server.server_port == server.socket.getsockname()[1]
        server.server_close()


@pytest.mark.parametrize("limit", ["²", "x", "-1", "9" * 5000])
@pytest.mark.parametrize("path", ["/api/v1/failures", "/api/v1/why", "/api/v1/recording"])
def test_what_is_no_number_is_told_so(path: str, limit: str) -> None:
    app = serve.App(latest=Ledger().snapshot, facts=FACTS, ready=lambda: True)
    said: list[str] = []
    environ = {
        "PATH_INFO": path, "REQUEST_METHOD": "GET", "pinwatch.local": True,
        "QUERY_STRING": f"limit={quote(limit)}&seconds={quote(limit)}",
    }  # fmt: skip
    app(environ, lambda status, _headers: said.append(status))
    assert said == ["400 Bad Request"]


def test_who_wants_no_body_begins_no_recording() -> None:
    """Its lines would wait for a reader, 32 MiB of them, and then be losses."""
    begun: list[float] = []

    def record(seconds: float) -> list[bytes]:
        begun.append(seconds)
        return []

    app = serve.App(latest=Ledger().snapshot, facts=FACTS, ready=lambda: True, record=record)
    environ = {
        "PATH_INFO": "/api/v1/recording", "REQUEST_METHOD": "HEAD", "pinwatch.local": True,
        "QUERY_STRING": "seconds=999999",
    }  # fmt: skip
    assert not list(app(environ, lambda _status, _headers: None))
    assert not begun
