"""Everything that enters the pipeline, to a file (`run --record`) and to who asks (`record`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pinwatch.errors import CannotRunError
from pinwatch.host.recordings import Writer
from pinwatch.recording import Header, Item, header_line, item_line
from pinwatch.recording.flight import Flight
from pinwatch.taps import Taps


class Recorder:
    """Sees each item before the pipeline does. `log` is told once when the file fails."""

    def __init__(self, header: Header, path: str, log: Callable[[str], None]) -> None:
        self._header = header
        self._path = path
        self._log = log
        self._file = _create(path) if path else None
        self._flight = Flight()
        self._failed = self._told = 0
        self.taps = Taps()
        self._write(header_line(header))

    @property
    def is_to_file(self) -> bool:
        return self._file is not None

    def take(self, item: Item) -> None:
        self._flight.note(item)
        self.taps.write(lambda: item_line(item))
        if self._file is not None:
            self._write(item_line(item))

    def published(self) -> None:
        """A snapshot was taken of all that came so far."""
        self.taps.published(self._beginning)
        self._do(lambda file: file.flush())

    def new_losses(self) -> int:
        """Lines that no recording has, and files that failed, since this was asked last."""
        lost = self.taps.lost + self._failed
        new, self._told = lost - self._told, lost
        return new

    def close(self) -> None:
        self.taps.close()
        self._do(lambda file: file.close())

    def _beginning(self) -> Iterator[str]:
        yield header_line(self._header)
        yield from map(item_line, self._flight.items())

    def _write(self, line: str) -> None:
        self._do(lambda file: file.write(line))

    def _do(self, what: Callable[[Writer], None]) -> None:
        """The daemon goes on when the disk is full."""
        if self._file is None:
            return
        try:
            what(self._file)
        except OSError as error:
            self._file = None
            self._failed += 1
            self._log(f"the recording {self._path} ends here: {error.strerror}")


def _create(path: str) -> Writer:
    try:
        return Writer(path)
    except OSError as error:
        raise CannotRunError(
            f"cannot write {path}: {error.strerror}", hint="choose another file with --record"
        ) from None
