"""HTTP: /metrics and health over TCP, the same and the local API over a Unix socket.

Takes a function that gives the newest snapshot: a request never waits for the kernel's events, nor
they for a request.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import socket
import socketserver
import ssl
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from html import escape
from io import BufferedIOBase
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import gzip_accepted
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from pinwatch import __version__
from pinwatch.errors import CannotRunError
from pinwatch.expose import as_json, state, stories
from pinwatch.expose.exposition import OPENMETRICS, TEXT, Exposition, Format, expose
from pinwatch.expose.stories import is_called
from pinwatch.host import clock
from pinwatch.model.kernel import KernelFacts
from pinwatch.model.snapshot import Snapshot
from pinwatch.settings import listen_address

REQUEST_TIMEOUT_S = 10  # a stuck client must not hold a thread
REQUEST_S = 30.0  # nor one that sends a byte now and then: for all of a request, of TCP
MAX_REQUESTS = 16  # at once, of each server, unless configured
GZIP_LEVEL = 1  # the default takes thirty times as long, and saves a third
DEFAULT_LIMIT = 100
MAX_DIGITS = 18  # of a number in a query
_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START

Own = Iterable[Metric]  # that no snapshot has
Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Response = Iterable[bytes]
WsgiApp = Callable[[Environ, StartResponse], Response]

_PAGE = """<!doctype html><title>pinwatch</title><h1>pinwatch {version}</h1>
<p>Which VM failed to pin memory for the long term, and why.</p>
<ul><li><a href="/metrics">metrics</a><li><a href="/-/healthy">healthy</a>
<li><a href="/-/ready">ready</a></ul>
"""

_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\ntoo many requests\n"


class Scrapes:
    """/metrics: rendered once for each snapshot and format, whoever asks and however often."""

    def __init__(
        self, latest: Callable[[], Snapshot], facts: KernelFacts, own: Callable[[], Own]
    ) -> None:
        self._latest = latest
        self._facts = facts
        self._own = own
        self._daemon = CollectorRegistry()  # what it costs
        ProcessCollector(namespace="", registry=self._daemon)
        PlatformCollector(registry=self._daemon)
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._exposition = Exposition((), ())
        self._answers: dict[tuple[str, bool], list[bytes]] = {}

    def __call__(self, environ: Environ, start: StartResponse) -> Response:
        openmetrics = "application/openmetrics-text" in environ.get("HTTP_ACCEPT", "")
        form = OPENMETRICS if openmetrics else TEXT
        zipped = gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", ""))
        parts = self._answer(form, zipped)
        headers = [
            ("Content-Type", form.content_type),
            ("Content-Length", str(sum(map(len, parts)))),
        ]
        start("200 OK", headers + [("Content-Encoding", "gzip")] * zipped)
        return parts

    def _answer(self, form: Format, zipped: bool) -> list[bytes]:
        """Who comes while another renders waits for it, and gets the same."""
        with self._lock:
            snapshot = self._latest()
            if snapshot is not self._snapshot:
                self._render(snapshot)
            key = (form.content_type, zipped)
            if key not in self._answers:
                parts = self._exposition.encode(form)
                whole = [gzip.compress(b"".join(parts), GZIP_LEVEL)] if zipped else parts
                self._answers[key] = whole
            return self._answers[key]

    def _render(self, snapshot: Snapshot) -> None:
        also = (*self._own(), *self._daemon.collect())
        self._exposition = expose(snapshot, self._facts, also)
        self._snapshot = snapshot
        self._answers.clear()


class App:
    """The WSGI application: paths to answers."""

    def __init__(
        self,
        *,
        latest: Callable[[], Snapshot],
        facts: KernelFacts,
        ready: Callable[[], bool],
        own: Callable[[], Own] = tuple,
        record: Callable[[float], Iterable[bytes]] = lambda _seconds: (),
    ) -> None:
        self._metrics = Scrapes(latest, facts, own)
        self._record = record
        self._latest = latest
        self._ready = ready

    def __call__(self, environ: Environ, start: StartResponse) -> Response:
        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            return _answer(start, "405 Method Not Allowed", "only GET\n")
        body = self._route(environ, start)
        return body if method == "GET" else []

    def _route(self, environ: Environ, start: StartResponse) -> Response:
        path = environ["PATH_INFO"]
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
        if path == "/api/v1/why" and environ.get("pinwatch.local"):
            return self._why(environ, start)
        if path == "/api/v1/event" and environ.get("pinwatch.local"):
            return self._event(environ, start)
        if path == "/api/v1/state" and environ.get("pinwatch.local"):
            body = json.dumps(state.document(self._latest()))
            return _answer(start, "200 OK", body, "application/json")
        if path == "/api/v1/recording" and environ.get("pinwatch.local"):
            return self._recording(environ, start)
        return _answer(start, "404 Not Found", "not found\n")

    def _recording(self, environ: Environ, start: StartResponse) -> Response:
        """A recording as lines, of ?seconds=N from now on; it begins with what is kept."""
        seconds = parse_qs(environ.get("QUERY_STRING", "")).get("seconds", ["0"])[0]
        if not _is_number(seconds):
            return _answer(start, "400 Bad Request", "seconds is not a number\n")
        start("200 OK", [("Content-Type", "application/x-ndjson")])
        # Nobody would ever end one that is not read.
        return self._record(float(seconds)) if environ["REQUEST_METHOD"] == "GET" else []

    def _why(self, environ: Environ, start: StartResponse) -> Response:
        """Failures as stories; ?vm=NAME, ?limit=N of them."""
        query = parse_qs(environ.get("QUERY_STRING", ""))
        limit = query.get("limit", ["1"])[0]
        if not _is_number(limit):
            return _answer(start, "400 Bad Request", "limit is not a number\n")
        body = stories.document(self._latest(), query.get("vm", [""])[0], int(limit))
        return _answer(start, "200 OK", json.dumps(body), "application/json")

    def _event(self, environ: Environ, start: StartResponse) -> Response:
        """The failed or slow pin of ?id=ID, if it is among the newest; else null."""
        wanted = parse_qs(environ.get("QUERY_STRING", "")).get("id", [""])[0]
        snapshot = self._latest()
        told = [as_json.failure(f) for f in snapshot.failures if f.id == wanted]
        told += [as_json.slow_pin(s) for s in snapshot.slow_pins if s.id == wanted]
        body = json.dumps({"event": told[0] if told else None})
        return _answer(start, "200 OK", body, "application/json")

    def _failures(self, environ: Environ, start: StartResponse) -> Response:
        """Failed, slow and stuck pins, newest first; ?vm=NAME for the VMs of that name, alias or
        UUID, ?limit=N of each."""
        query = parse_qs(environ.get("QUERY_STRING", ""))
        vm = query.get("vm", [""])[0]
        limit = query.get("limit", [str(DEFAULT_LIMIT)])[0]
        if not _is_number(limit):
            return _answer(start, "400 Bad Request", "limit is not a number\n")
        snapshot = self._latest()
        found = [f for f in reversed(snapshot.failures) if is_called(f.vm, vm)]
        slow = [s for s in reversed(snapshot.slow_pins) if is_called(s.vm, vm)]
        body = {
            "failures": [as_json.failure(f) for f in found[: int(limit)]],
            "slow": [as_json.slow_pin(s) for s in slow[: int(limit)]],
            "stuck": [as_json.stuck_pin(s) for s in snapshot.stuck if is_called(s.vm, vm)],
            "vms": [vm.name for vm in snapshot.vms],
            "losses": snapshot.losses,
        }
        return _answer(start, "200 OK", json.dumps(body), "application/json")


def _is_number(text: str) -> bool:
    """Of so few digits that it is any: isdigit() holds for "²" as well, int() does not."""
    return text.isdecimal() and len(text) <= MAX_DIGITS


def _answer(
    start: StartResponse, status: str, body: str, content_type: str = "text/plain"
) -> Response:
    data = body.encode()
    start(
        status,
        [("Content-Type", f"{content_type}; charset=utf-8"), ("Content-Length", str(len(data)))],
    )
    return [data]


class _ToClient(BufferedIOBase):
    """Writes all of it. wsgiref passes over a client that has had enough and is gone, and makes a
    traceback of any other error: of one that is too slow, of what TLS calls a broken connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.is_broken = False

    def write(self, data: Any) -> int:
        try:
            self._connection.sendall(data)
        except ConnectionError:
            raise
        except OSError as error:
            self.is_broken = True
            raise ConnectionAbortedError(str(error)) from error
        return len(data)


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def setup(self) -> None:
        super().setup()
        self.wfile = self._client = _ToClient(self.connection)

    def handle(self) -> None:
        super().handle()
        if self._client.is_broken:
            raise ConnectionAbortedError  # to handle_error(), which counts it

    def address_string(self) -> str:
        return "local" if not isinstance(self.client_address, tuple) else self.client_address[0]

    def log_message(self, format: str, *args: object) -> None:
        """Not one line for each scrape."""

    def get_environ(self) -> Environ:
        environ = super().get_environ()
        environ["pinwatch.local"] = isinstance(self.server, _UnixServer)
        return environ


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each request, up to a limit; who comes then gets a 503 at once. `contexts` gives
    the TLS context for a connection. `inherited` is a socket that listens already."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: Any,
        *,
        max_requests: int = MAX_REQUESTS,
        contexts: Callable[[], ssl.SSLContext] | None = None,
        inherited: int | None = None,
        request_s: float | None = REQUEST_S,
    ) -> None:
        self.refused = 0
        self.broken = 0
        self._contexts = contexts
        self._request_s = request_s
        self._ends: dict[socket.socket, float] = {}  # connections, and when they have had enough
        self._free = threading.BoundedSemaphore(max_requests)
        super().__init__(address, _Handler, bind_and_activate=inherited is None)
        if inherited is not None:
            self.socket.close()
            self.socket = socket.socket(fileno=inherited)
            self.server_address = self.socket.getsockname()
            self._name_ourselves()

    def server_bind(self) -> None:
        """As HTTPServer does it, but without asking the DNS, which may be down, for our name."""
        socketserver.TCPServer.server_bind(self)
        self._name_ourselves()

    def _name_ourselves(self) -> None:
        self.server_name = "localhost"
        self.server_port = 0 if isinstance(self.server_address, str) else self.server_address[1]
        self.setup_environ()

    @property
    def scheme(self) -> str:
        return "http" if self._contexts is None else "https"

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except RuntimeError:  # no thread is to be had
                self._free.release()
                raise
        else:
            self.refused += 1
            _refuse(request)
            self.shutdown_request(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the request's own thread: a client that stalls in its handshake holds up nobody."""
        if self._contexts is None:
            with self._bounded(request):
                super().finish_request(request, client_address)
            return
        request.settimeout(REQUEST_TIMEOUT_S)
        made = self._contexts().wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        )
        with made as encrypted, self._bounded(encrypted):
            encrypted.do_handshake()
            super().finish_request(encrypted, client_address)

    @contextmanager
    def _bounded(self, connection: socket.socket) -> Iterator[None]:
        """It ends with the block, or when its time is over."""
        if self._request_s is not None:
            self._ends[connection] = clock.monotonic_s() + self._request_s
        try:
            yield
        finally:
            self._ends.pop(connection, None)

    def service_actions(self) -> None:
        """Each half second, in the thread that accepts: end what takes too long. What waits for it
        in its own thread then sees the connection broken."""
        now = clock.monotonic_s()
        for connection, end in self._ends.copy().items():  # other threads go on with it
            if now > end:
                with suppress(OSError):  # it has just ended by itself
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS has no say

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that broke off, or speaks no TLS: counted, and nothing for the journal."""
        self.broken += 1

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def _refuse(request: socket.socket) -> None:
    """Without waiting for the client; one that is slow may not get to read it."""
    request.setblocking(False)
    with suppress(OSError):
        request.recv(65536)  # closing a socket with unread data would reset the connection
    with suppress(OSError):
        request.sendall(_BUSY)


class _Tcp6Server(Server):
    address_family = socket.AF_INET6


class _UnixServer(Server):
    address_family = socket.AF_UNIX

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, "local"


def bind_tcp(
    listen: str,
    *,
    max_requests: int = MAX_REQUESTS,
    contexts: Callable[[], ssl.SSLContext] | None = None,
    request_s: float = REQUEST_S,
) -> Server:
    """A server on HOST:PORT, or on the socket that systemd listens on for us, not yet answering.
    CannotRunError when the address cannot be had."""
    host, port = listen_address(listen)
    kind = _Tcp6Server if ":" in host else Server
    try:
        return kind(
            (host, port),
            max_requests=max_requests,
            contexts=contexts,
            inherited=_inherited(),
            request_s=request_s,
        )
    except OSError as error:
        raise CannotRunError(
            f"cannot listen on {listen}: {error.strerror}",
            hint="does another pinwatch run? Choose another address with --listen",
        ) from None


def _inherited() -> int | None:
    """sd_listen_fds(3): the first descriptor, if it is meant for this process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    return _FIRST_DESCRIPTOR if os.environ.get("LISTEN_FDS", "0") != "0" else None


def local_address(server: Server) -> str:
    """HOST:PORT at which a server can be reached from this host."""
    host, port = str(server.server_address[0]), server.server_port
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_unix(path: str) -> Server:
    """A server on a Unix socket of mode 0660. A socket that nobody serves is replaced. There a
    request may take as long as it likes: a recording does."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        _remove_stale(path)
        server = _UnixServer(path, request_s=None)
        os.chmod(path, 0o660)
    except OSError as error:
        raise CannotRunError(
            f"cannot make the socket {path}: {error.strerror or error}",  # a long path has no errno
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
            if not stat.S_ISSOCK(os.stat(path).st_mode):  # connect(2) says the same of any file
                raise FileExistsError(errno.EEXIST, "it is a file of another kind") from None
            os.unlink(path)
            return
    raise CannotRunError(
        f"another pinwatch serves {path}", hint="stop it, or choose another path with --socket"
    )


def answers(socket_path: str, path: str) -> bool:
    """Does our own Unix socket give that page? OSError when nobody answers at all."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(30)
        client.connect(socket_path)
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        with client.makefile("rb") as answer:
            status = answer.readline().split()[1:2]
            answer.read()
    return status == [b"200"]


def start(server: Server, app: WsgiApp) -> threading.Thread:
    """Answer requests from now on, in the background."""
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return thread
