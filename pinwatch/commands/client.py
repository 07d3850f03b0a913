"""Ask the daemon over its Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from pinwatch.errors import NoDaemonError

TIMEOUT_S = 30  # a thousand failures are told in a second or two, of a busy host in more


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get(
    socket_path: str, path: str, *, timeout_s: float = TIMEOUT_S, **query: str
) -> dict[str, Any]:
    """A JSON answer. NoDaemonError when nothing answers there."""
    with _answer(socket_path, path, timeout_s, query) as answer:
        result: dict[str, Any] = json.loads(answer.read())
        return result


def page(socket_path: str, path: str, *, accept: str, timeout_s: float = TIMEOUT_S) -> bytes:
    """A page as the daemon gives it in that format. NoDaemonError as for `get`."""
    with _answer(socket_path, path, timeout_s, {}, accept) as answer:
        return answer.read()


def lines(socket_path: str, path: str, *, timeout_s: float, **query: str) -> Iterator[str]:
    """The whole lines of an answer as they come, until it ends. NoDaemonError as for `get`."""
    with _answer(socket_path, path, timeout_s, query) as answer:
        while (line := answer.readline()).endswith(b"\n"):
            yield line.decode()


@contextmanager
def _answer(
    socket_path: str, path: str, timeout_s: float, query: dict[str, str], accept: str = "*/*"
) -> Iterator[http.client.HTTPResponse]:
    connection = _UnixConnection(socket_path, timeout_s)
    try:
        connection.request("GET", f"{path}?{urlencode(query)}", headers={"Accept": accept})
        answer = connection.getresponse()
        if answer.status != 200:
            raise NoDaemonError(
                f"{socket_path}: {answer.status} {answer.read().decode(errors='replace').strip()}",
                hint="it answers as many as it may: try again"
                if answer.status == http.client.SERVICE_UNAVAILABLE
                else "is the daemon of another version? Restart it",
            )
        yield answer
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoDaemonError(
            f"no pinwatch daemon answers on {socket_path}: {reason}",
            hint="start it with `systemctl start pinwatch` or `pinwatch run`; are you root?",
        ) from None
    finally:
        connection.close()
