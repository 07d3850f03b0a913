"""HTTP: /metrics and health over TCP, the same and the local API over a Unix socket.

Takes a function that gives the newest snapshot; a request never waits for the kernel.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from html import escape
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from pinwatch import __version__
from pinwatch.errors import CannotRunError
from pinwatch.expose import as_json
from pinwatch.expose.metrics import SnapshotCollector
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.snapshot import Snapshot
from pinwatch.model.vm import Vm
from pinwatch.settings import listen_address

REQUEST_TIMEOUT_S = 10  # a stuck client must not hold a thread
DEFAULT_LIMIT = 100

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Response = Iterable[bytes]
WsgiApp = Callable[[Environ, StartResponse], Response]

_PAGE = """<!doctype html><title>pinwatch</title><h1>pinwatch {version}</h1>
<p>Which VM failed to pin memory for the long term, and why.</p>
<ul><li><a href="/metrics">metrics</a><li><a href="/-/healthy">healthy</a>
<li><a href="/-/ready">ready</a></ul>
"""


class App:
    """The WSGI application: paths to answers."""

    def __init__(
        self, *, latest: Callable[[], Snapshot], facts: KernelFacts, ready: Callable[[], bool]
    ) -> None:
        registry = CollectorRegistry()
        registry.register(SnapshotCollector(latest, facts))
        ProcessCollector(namespace="", registry=registry)
        PlatformCollector(registry=registry)
        self._metrics: WsgiApp = make_wsgi_app(registry)
        self._latest = latest
        self._ready = ready

    def __call__(self, environ: Environ, start: StartResponse) -> Response:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answer(start, "405 Method Not Allowed", "only GET\n")
        if path == "/metrics":
            return self._metrics(environ, start)
        if path == "/-/healthy":
            return _answer(start, "200 OK", "healthy\n")
        if path == "/-/ready":
            ready = self._ready()
            status = "200 OK" if ready else "503 Service Unavailable"
            return _answer(start, status, "ready\n" if ready else "not ready\n")
        if path == "/":
            return _answer(start, "200 OK", _PAGE.format(version=escape(__version__)), "text/html")
        if path == "/api/v1/failures" and environ.get("pinwatch.local"):
            return self._failures(environ, start)
        return _answer(start, "404 Not Found", "not found\n")

    def _failures(self, environ: Environ, start: StartResponse) -> Response:
        """Failed, slow and stuck pins, newest first; ?vm=NAME for the VMs of that name, alias or
        UUID, ?limit=N of each."""
        query = parse_qs(environ.get("QUERY_STRING", ""))
        vm = query.get("vm", [""])[0]
        limit = query.get("limit", [str(DEFAULT_LIMIT)])[0]
        if not limit.isdigit():
            return _answer(start, "400 Bad Request", "limit is not a number\n")
        snapshot = self._latest()
        found = [f for f in reversed(snapshot.failures) if _is_called(f.vm, vm)]
        slow = [s for s in reversed(snapshot.slow_pins) if _is_called(s.vm, vm)]
        body = {
            "failures": [as_json.failure(f) for f in found[: int(limit)]],
            "slow": [as_json.slow_pin(s) for s in slow[: int(limit)]],
            "stuck": [as_json.stuck_pin(s) for s in snapshot.stuck if _is_called(s.vm, vm)],
            "vms": [vm.name for vm in snapshot.vms],
            "losses": snapshot.losses,
        }
        return _answer(start, "200 OK", json.dumps(body), "application/json")


def _is_called(vm: Vm, name: str) -> bool:
    return name in ("", vm.name, vm.alias, vm.uuid)


def _answer(
    start: StartResponse, status: str, body: str, content_type: str = "text/plain"
) -> Response:
    data = body.encode()
    start(
        status,
        [("Content-Type", f"{content_type}; charset=utf-8"), ("Content-Length", str(len(data)))],
    )
    return [data]


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def address_string(self) -> str:
        return "local" if not isinstance(self.client_address, tuple) else self.client_address[0]

    def log_message(self, format: str, *args: object) -> None:
        """Not one line for each scrape."""

    def get_environ(self) -> Environ:
        environ = super().get_environ()
        environ["pinwatch.local"] = isinstance(self.server, _UnixServer)
        return environ


class _TcpServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Tcp6Server(_TcpServer):
    address_family = socket.AF_INET6


class _UnixServer(socketserver.ThreadingMixIn, WSGIServer):
    address_family = socket.AF_UNIX
    daemon_threads = True

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, "local"


def bind_tcp(listen: str) -> WSGIServer:
    """A server on HOST:PORT, not yet answering. CannotRunError when the address cannot be had."""
    host, port = listen_address(listen)
    kind = _Tcp6Server if ":" in host else _TcpServer
    try:
        return kind((host, port), _Handler)
    except OSError as error:
        raise CannotRunError(
            f"cannot listen on {listen}: {error.strerror}",
            hint="does another pinwatch run? Choose another address with --listen",
        ) from None


def local_address(server: WSGIServer) -> str:
    """HOST:PORT at which a server can be reached from this host."""
    host, port = str(server.server_address[0]), server.server_port
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_unix(path: str) -> WSGIServer:
    """A server on a Unix socket of mode 0660. A socket that nobody serves is replaced."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _remove_stale(path)
        server = _UnixServer(path, _Handler)  # type: ignore[arg-type]
        os.chmod(path, 0o660)
    except OSError as error:
        raise CannotRunError(
            f"cannot make the socket {path}: {error.strerror}",
            hint="run as root, or choose another path with --socket",
        ) from None
    return server


def _remove_stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise CannotRunError(
        f"another pinwatch serves {path}", hint="stop it, or choose another path with --socket"
    )


def start(server: WSGIServer, app: App) -> threading.Thread:
    """Answer requests from now on, in the background."""
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return thread
