"""TLS, client certificates and passwords, with curl and the real Prometheus as clients; and clients
that mean no good."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import bcrypt
import pytest

from pinwatch import serve, web
from pinwatch.errors import UsageError
from pinwatch.host import clock
from pinwatch.web import Web
from tests.lab import tools
from tests.unit.test_serve import Host

PASSWORD = "correct horse"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


@dataclass(frozen=True, slots=True)
class Files:
    """A certificate authority, a server's and a client's certificate, made by openssl."""

    top: Path

    def __getitem__(self, name: str) -> str:
        return str(self.top / name)


def openssl(top: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=top, check=True, capture_output=True)


def certify(top: Path, name: str) -> None:
    subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(top, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", *subject)
    ca = ("-CA", "ca.crt", "-CAkey", "ca.key", "-copy_extensions", "copy")
    openssl(top, "x509", "-req", "-in", f"{name}.csr", *ca, "-out", f"{name}.crt")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    top = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(top, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca")
    for name in ("server", "client"):
        certify(top, name)
    return Files(top)


def configured(files: Files, text: str) -> str:
    path = files.top / "web.yaml"
    path.write_text(text)
    return str(path)


TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key"
MUTUAL = f"{TLS}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt}}\n"
USERS = f"basic_auth_users: {{prometheus: {HASH}}}\n"
HEADERS = "http_server_config: {http2: true, headers: {X-Frame-Options: deny}}\n"


@contextmanager
def serving(path: str, **options: int) -> Iterator[serve.Server]:
    """A server of a snapshot, guarded as the file says."""
    settings = Web(path, print)
    host = Host()
    server = serve.bind_tcp("127.0.0.1:0", contexts=settings.contexts, **options)
    serve.start(server, settings.guard(host.app))
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        host.server.server_close()


def curl(
    server: serve.Server, files: Files, *words: str, page: str = "/metrics"
) -> tuple[int, str]:
    """The HTTP status (0: none), and headers with body."""
    url = f"{server.scheme}://127.0.0.1:{server.server_port}{page}"
    command = ["curl", "-sS", "-i", "--max-time", "10", "--cacert", files["ca.crt"], *words, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    first = done.stdout.partition("\n")[0].split()
    return (int(first[1]) if first else 0), done.stdout


# ---- who gets in ----------------------------------------------------------------------------


def test_tls_with_a_password_and_headers(files: Files) -> None:
    with serving(configured(files, TLS + "}\n" + USERS + HEADERS)) as server:
        status, text = curl(server, files, "-u", f"prometheus:{PASSWORD}")
        assert status == 200
        assert "pinwatch_build_info{" in text
        assert "X-Frame-Options: deny" in text
        for wrong in ("prometheus:wrong", f"nobody:{PASSWORD}", "prometheus:", f":{PASSWORD}"):
            assert curl(server, files, "-u", wrong)[0] == 401
        status, text = curl(server, files)
        assert status == 401
        assert "WWW-Authenticate: Basic" in text
        assert "pinwatch_" not in text


@pytest.mark.parametrize("page", ["/-/ready", "/-/healthy", "/", "/none"])
def test_every_page_wants_the_password(files: Files, page: str) -> None:
    """So probes ask the Unix socket (systemd/kubernetes-tls)."""
    with serving(configured(files, USERS)) as server:
        assert curl(server, files, page=page)[0] == 401
        known = curl(server, files, "-u", f"prometheus:{PASSWORD}", page=page)[0]
        assert known == (404 if page == "/none" else 200)


def test_a_client_needs_a_certificate(files: Files) -> None:
    own = ("--cert", files["client.crt"], "--key", files["client.key"])
    with serving(configured(files, MUTUAL)) as server:
        assert curl(server, files)[0] == 0
        assert curl(server, files, *own)[0] == 200
        assert server.broken == 1


def test_what_is_older_than_the_least_version_is_refused(files: Files) -> None:
    with serving(configured(files, TLS + ", min_version: TLS13}\n")) as server:
        assert curl(server, files, "--tls-max", "1.2")[0] == 0
        assert curl(server, files)[0] == 200


def test_a_new_certificate_is_taken_without_a_restart(files: Files) -> None:
    def serial(port: int) -> int:
        context = ssl.create_default_context(cafile=files["ca.crt"])
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
        ):
            return int(str((encrypted.getpeercert() or {})["serialNumber"]), 16)

    with serving(configured(files, TLS + "}\n")) as server:
        before = serial(server.server_port)
        (files.top / "server.crt").write_text("half of a")
        assert serial(server.server_port) == before
        certify(files.top, "server")
        assert serial(server.server_port) != before


def test_a_certificate_that_stays_bad_is_told_once(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: now[0])
    with serving(configured(files, TLS + "}\n")) as server:

        def said_at(*times: float) -> str:
            for now[0] in times:
                assert curl(server, files)[0] == 200
            return capsys.readouterr().out

        (files.top / "server.crt").write_text("of somebody else")
        assert said_at(100, 130) == "", "its key may be on the way"
        assert said_at(161, 300).count("the certificate from before is still used") == 1
        certify(files.top, "server")
        assert said_at(301) == ""
        (files.top / "server.crt").write_text("of somebody else")
        assert said_at(400) == ""
        assert "is still used" in said_at(461), "another one"
        certify(files.top, "server")


def test_prometheus_scrapes_it(files: Files, tmp_path: Path) -> None:
    """With TLS, a password and a certificate of its own."""
    with serving(configured(files, MUTUAL + USERS)) as server:
        (tmp_path / "password").write_text(PASSWORD)
        job = {
            "job_name": "pinwatch", "scrape_interval": "1s", "scheme": "https",
            "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}],
            "basic_auth": {"username": "prometheus", "password_file": str(tmp_path / "password")},
            "tls_config": {"ca_file": files["ca.crt"], "cert_file": files["client.crt"],
                           "key_file": files["client.key"]},
        }  # fmt: skip
        (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [job]}))
        with prometheus(tmp_path) as port:
            assert wait_for(port, "up == 1")
            assert wait_for(port, "pinwatch_build_info")


@contextmanager
def prometheus(home: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(tools.tool("prometheus")), f"--config.file={home}/prometheus.yml",
               f"--storage.tsdb.path={home}/data",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with (home / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield port
        finally:
            process.terminate()


def wait_for(port: int, query: str) -> list[object]:
    """What a query gives, as soon as it gives something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        url = f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found: list[object] = json.load(answer)["data"]["result"]
            if found:
                return found
        except OSError:
            pass
        time.sleep(0.3)
    return []


# ---- what the file may say ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tls_server_confg: {}", "unknown key 'tls_server_confg' in the file"),
        (USERS + "auth_excluded_paths: [/-/ready]", "unknown key 'auth_excluded_paths'"),
        ("[1]", "the file is not a mapping"),
        ("a: [", "YAML"),
        (TLS + ", cipher_suites: [x]}", "unknown key 'cipher_suites' in tls_server_config"),
        ("tls_server_config: {cert_file: server.crt}", "has no key_file"),
        (TLS + ", client_auth_type: RequireAnyClientCert}", "is not supported"),
        (TLS + ", client_auth_type: RequireAndVerifyClientCert}", "need each other"),
        (TLS + ", client_ca_file: ca.crt}", "need each other"),
        (TLS + ", min_version: TLS10}", "min_version 'TLS10' is not supported"),
        (TLS + ", min_version: TLS13, max_version: TLS12}", "min_version is above max_version"),
        (TLS + ", min_version: [TLS12]}", "min_version ['TLS12'] is not supported"),
        ("tls_server_config: {cert_file: none.crt, key_file: server.key}", "No such file"),
        ("tls_server_config: {cert_file: server.crt, key_file: ca.crt}", "PEM"),
        ("basic_auth_users: {me: secret}", "the password of 'me' is no bcrypt hash"),
        ("http_server_config: {headers: {Server: x}}", "unknown key 'Server' in headers"),
    ],
)
def test_what_is_not_understood_is_an_error(files: Files, text: str, words: str) -> None:
    path = configured(files, text)
    with pytest.raises(UsageError) as error:
        Web(path, print)
    assert words in error.value.message + error.value.hint
    assert path in error.value.message
    assert "\n" not in error.value.message


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        web.load(str(tmp_path / "none"))


def test_an_empty_file_asks_for_nothing(files: Files) -> None:
    with serving(configured(files, "")) as server:
        assert server.scheme == "http"
        assert curl(server, files)[0] == 200


# ---- clients that mean no good --------------------------------------------------------------


def test_clients_that_stall_in_the_handshake_hold_up_nobody(files: Files) -> None:
    with ExitStack() as stalled, serving(configured(files, TLS + "}\n")) as server:
        for _ in range(serve.MAX_REQUESTS - 1):
            stalled.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
        began = time.monotonic()
        assert curl(server, files)[0] == 200
        assert time.monotonic() - began < 8  # what stalls has 10 seconds


def test_a_handshake_of_a_byte_now_and_then_ends(files: Files) -> None:
    with serving(configured(files, TLS + "}\n"), max_requests=1, request_s=1) as server:
        hello = iter(b"\x16\x03\x01\x02\x00" + bytes(200))
        with socket.create_connection(("127.0.0.1", server.server_port)) as client:
            client.settimeout(0.1)
            began = time.monotonic()
            with suppress(OSError):
                while client.send(bytes([next(hello)])) and not _ended(client):
                    assert time.monotonic() - began < 8
            assert curl(server, files)[0] == 200
        assert server.broken == 1


def _ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False


def test_garbage_is_counted_and_nothing_is_printed(
    files: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(configured(files, TLS + "}\n")) as server:
        for number in range(20):
            with socket.create_connection(("127.0.0.1", server.server_port)) as client:
                client.sendall(os.urandom(50) if number % 2 else b"GET /metrics HTTP/1.0\r\n\r\n")
                client.settimeout(5)
                try:
                    while client.recv(4096):
                        pass
                except OSError:
                    pass
        assert curl(server, files)[0] == 200
        assert server.broken == 20
    assert capfd.readouterr() == ("", "")


def test_a_password_that_bcrypt_refuses_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """bcrypt 3.2, which Debian 12 has, raises ValueError for NUL: a traceback for who has none."""

    def checkpw(password: bytes, _hashed: bytes) -> bool:
        if b"\0" in password:
            raise ValueError("password and hashed_password may not contain NUL bytes")
        return True

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    auth = web.BasicAuth(lambda _environ, _start: [b"in"], {"me": b"hash"})
    said: list[str] = []
    for password, answer in (("a\0b", b"unauthorized\n"), ("ab", b"in")):
        header = "Basic " + b64encode(f"me:{password}".encode()).decode()
        environ = {"HTTP_AUTHORIZATION": header}
        assert list(auth(environ, lambda status, _headers: said.append(status))) == [answer]
    assert said == ["401 Unauthorized"]


def test_a_password_that_was_right_is_not_computed_again(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    real = bcrypt.checkpw

    def checkpw(password: bytes, hashed: bytes) -> bool:
        computed.append(hashed)
        return real(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    with serving(configured(files, USERS)) as server:
        computed.clear()
        for _ in range(5):
            assert curl(server, files, "-u", f"prometheus:{PASSWORD}")[0] == 200
        assert computed == [HASH.encode()]
        for _ in range(2):
            assert curl(server, files, "-u", "nobody:x")[0] == 401
        assert len(computed) == 3, "an unknown name must take as long as a known one"


def test_the_socket_may_come_from_systemd(tmp_path: Path) -> None:
    program = tmp_path / "served.py"
    program.write_text(
        "from pinwatch import serve\n"
        "server = serve.bind_tcp('127.0.0.1:1')\n"
        "server.set_app(lambda environ, start: (start('200 OK', []), [b'given'])[1])\n"
        "server.serve_forever()\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-E", "PYTHONPATH",
               sys.executable, str(program)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
                        assert answer.read() == b"given"
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
        finally:
            process.kill()
