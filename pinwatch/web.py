"""TLS, client certificates and passwords for /metrics, from a file in the format of Prometheus's
exporter-toolkit (docs/web-configuration.md there), so that one file serves all exporters of a host.

Imported only when such a file is configured: it brings a YAML parser, bcrypt and OpenSSL along.
"""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import bcrypt
import yaml

from pinwatch.errors import UsageError
from pinwatch.host import clock

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_TLS_KEYS = {
    "cert_file",
    "key_file",
    "client_auth_type",
    "client_ca_file",
    "min_version",
    "max_version",
}
_HEADERS = {
    "Content-Security-Policy", "Strict-Transport-Security", "X-Content-Type-Options",
    "X-Frame-Options", "X-XSS-Protection", "Cross-Origin-Opener-Policy",
}  # fmt: skip
# Compared with when there is no such user, so that the time does not tell who there is.
_NOBODY = b"$2b$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
_KEPT = 64  # credentials that were right
BAD_S = 60.0  # that a new certificate may be bad before it is said

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files and rules of `tls_server_config`."""

    cert_file: Path
    key_file: Path
    client_auth: ssl.VerifyMode = ssl.CERT_NONE
    client_ca_file: Path | None = None
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(filter(None, (self.cert_file, self.key_file, self.client_ca_file)))


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """What the file says. Passwords are bcrypt's."""

    tls: Tls | None = None
    users: Mapping[str, bytes] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


# ---- the file -------------------------------------------------------------------------------


def load(path: str) -> WebConfig:
    """UsageError with the file and the key for whatever is not understood: a key that is passed
    over would be taken for one that protects. Certificates are tried."""
    try:
        text = Path(path).read_text()
        values = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}", hint="check --web-config-file") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {_one_line(error)}", hint="the file is YAML") from None
    reader = _Reader(path)
    whole = reader.mapping(values, "the file", _SECTIONS)
    tls = whole.get("tls_server_config")
    made = WebConfig(
        tls=_tls(reader, tls, Path(path).parent) if tls else None,
        users=_users(reader, whole.get("basic_auth_users") or {}),
        headers=_headers(reader, whole.get("http_server_config") or {}),
    )
    if made.tls is not None:
        _context(made.tls, path)
    return made


_SECTIONS = {"tls_server_config", "http_server_config", "basic_auth_users"}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@dataclass(frozen=True, slots=True)
class _Reader:
    path: str

    def wrong(self, what: str, hint: str) -> UsageError:
        return UsageError(f"{self.path}: {what}", hint=hint)

    def mapping(self, value: Any, where: str, known: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(f"{where} is not a mapping", "key: value")
        for key in value:
            if key not in known:
                raise self.wrong(
                    f"unknown key {key!r} in {where}", f"known keys: {', '.join(sorted(known))}"
                )
        return value

    def choice(self, value: Any, key: str, choices: Mapping[str, Any]) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(f"{key} {value!r} is not supported", f"one of {', '.join(choices)}")
        return choices[value]


def _tls(reader: _Reader, value: Any, beside: Path) -> Tls:
    """Paths are relative to the file, as exporter-toolkit has them."""
    given = reader.mapping(value, "tls_server_config", _TLS_KEYS)
    for key in ("cert_file", "key_file"):
        if not given.get(key):
            raise reader.wrong(
                f"tls_server_config has no {key}", "TLS needs a certificate and its key"
            )
    auth = reader.choice(
        given.get("client_auth_type", "NoClientCert"), "client_auth_type", _CLIENT_AUTH
    )
    authority = given.get("client_ca_file")
    if (auth is not ssl.CERT_NONE) != bool(authority):
        raise reader.wrong("client_auth_type and client_ca_file need each other",
                           "client certificates are verified against client_ca_file")  # fmt: skip
    versions = {
        key: reader.choice(given.get(key, default), key, _VERSIONS)
        for key, default in (("min_version", "TLS12"), ("max_version", "TLS13"))
    }
    if versions["min_version"] > versions["max_version"]:
        raise reader.wrong("min_version is above max_version", "no client could connect")
    return Tls(
        cert_file=beside / str(given["cert_file"]),
        key_file=beside / str(given["key_file"]),
        client_auth=auth,
        client_ca_file=beside / str(authority) if authority else None,
        **versions,
    )


def _users(reader: _Reader, value: Any) -> dict[str, bytes]:
    users = reader.mapping(
        value, "basic_auth_users", set(value) if isinstance(value, dict) else set()
    )
    hint = "make one with `htpasswd -nBC 10 NAME`"
    for name, hashed in users.items():
        try:
            bcrypt.checkpw(b"", str(hashed).encode())
        except ValueError:
            raise reader.wrong(f"the password of {name!r} is no bcrypt hash", hint) from None
    return {str(name): str(hashed).encode() for name, hashed in users.items()}


def _headers(reader: _Reader, value: Any) -> dict[str, str]:
    """HTTP/2 is not spoken, whatever `http2` says: clients fall back to HTTP/1.1."""
    given = reader.mapping(value, "http_server_config", {"http2", "headers"})
    headers = reader.mapping(given.get("headers") or {}, "headers", _HEADERS)
    return {name: str(text) for name, text in headers.items()}


# ---- TLS ------------------------------------------------------------------------------------


def _context(tls: Tls, path: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.minimum_version, context.maximum_version = tls.min_version, tls.max_version
        context.load_cert_chain(tls.cert_file, tls.key_file)
        if tls.client_ca_file is not None:
            context.load_verify_locations(tls.client_ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        names = ", ".join(map(str, tls.files))
        raise UsageError(f"{path}: {_one_line(error)}", hint=f"check {names}") from None
    context.verify_mode = tls.client_auth
    return context


class Contexts:
    """The context for a new connection. Files that have changed are read again; if they are not
    good then, those that were stay, and `tell` is told so when that goes on."""

    def __init__(self, tls: Tls, path: str, tell: Callable[[str], None]) -> None:
        self._tls, self._path, self._tell = tls, path, tell
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._context = _context(tls, path)
        self._bad_since_s: float | None = None

    def __call__(self) -> ssl.SSLContext:
        with self._lock:
            try:
                stamp = self._stamp()
                if stamp != self._seen:
                    self._context = _context(self._tls, self._path)
                    self._seen = stamp
                self._bad_since_s = None
            except (OSError, UsageError) as error:
                self._complain(str(error))
            return self._context

    def _complain(self, error: str) -> None:
        """Once, and not at once: a certificate is written before its key."""
        now_s = clock.monotonic_s()
        if self._bad_since_s is None:
            self._bad_since_s = now_s
        elif now_s - self._bad_since_s > BAD_S:
            self._tell(f"{error}; the certificate from before is still used")
            self._bad_since_s = inf

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        return tuple((s.st_mtime_ns, s.st_ino) for s in map(os.stat, self._tls.files))


# ---- passwords ------------------------------------------------------------------------------


class BasicAuth:
    """An application behind a password. bcrypt is slow, which is its point: only one is computed at
    a time, and one that was right is remembered."""

    def __init__(self, app: WsgiApp, users: Mapping[str, bytes]) -> None:
        self._app = app
        self._users = users
        self._salt = os.urandom(16)
        self._right: set[bytes] = set()
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        if self._is_right(environ.get("HTTP_AUTHORIZATION", "")):
            return self._app(environ, start)
        body = b"unauthorized\n"
        headers = [("WWW-Authenticate", "Basic"), ("Content-Type", "text/plain")]
        start("401 Unauthorized", [*headers, ("Content-Length", str(len(body)))])
        return [body]

    def _is_right(self, header: str) -> bool:
        scheme, _, encoded = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            return False
        if "\0" in password:  # of which bcrypt 3.2 makes an error, and later ones make nothing
            return False
        hashed = self._users.get(name, _NOBODY)
        key = hashlib.blake2b(f"{name}:{password}".encode(), key=self._salt).digest()
        with self._lock:
            if key in self._right:
                return True
            right = bcrypt.checkpw(password.encode()[:72], hashed) and name in self._users
            if right:
                if len(self._right) >= _KEPT:
                    self._right.clear()
                self._right.add(key)
        return right


class Web:
    """All that a configuration file asks for."""

    def __init__(self, path: str, tell: Callable[[str], None]) -> None:
        self._config = load(path)
        tls = self._config.tls
        self.contexts = Contexts(tls, path, tell) if tls else None

    def guard(self, app: WsgiApp) -> WsgiApp:
        """The application behind its passwords, with its headers."""
        if self._config.users:
            app = BasicAuth(app, self._config.users)
        return with_headers(app, self._config.headers) if self._config.headers else app


def with_headers(app: WsgiApp, headers: Mapping[str, str]) -> WsgiApp:
    """The same answers, with these headers as well."""

    def answer(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        def begin(status: str, given: list[tuple[str, str]]) -> object:
            return start(status, [*given, *headers.items()])

        return app(environ, begin)

    return answer
