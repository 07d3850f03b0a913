"""Recordings as files: gzip, written so that one whose writer was killed can be read up to then.

A recording holds command lines, which may hold secrets; so only its owner may read a new one.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator

from pinwatch.recording import RecordingError

_GZIP = b"\x1f\x8b"


class Writer:
    """Writes lines. OSError when that fails; nothing more is written then."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # that was there, and others could read it
            os.fchmod(descriptor, 0o600)
        try:
            self._zip = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, mtime=0)
        except OSError:
            self._file.close()
            raise

    def write(self, line: str) -> None:
        self._zip.write(line.encode())

    def flush(self) -> None:
        """What was written so far can be read from now on, whatever happens."""
        self._zip.flush(zlib.Z_SYNC_FLUSH)

    def close(self) -> None:
        try:
            self._zip.close()
        finally:
            self._file.close()


def lines(path: str) -> Iterator[str]:
    """The lines of a recording, zipped or not. OSError; RecordingError where it is damaged."""
    with open(path, "rb") as file:
        zipped = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        try:
            for number, line in enumerate(gzip.GzipFile(fileobj=file) if zipped else file, start=1):
                yield _text(line, number)
        except EOFError:
            raise RecordingError(
                "the file has no end: it is being written, or was cut off"
            ) from None
        except (zlib.error, gzip.BadGzipFile) as error:
            raise RecordingError(f"the compressed data is damaged ({error})") from None


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise RecordingError(f"line {number} is no text") from None
