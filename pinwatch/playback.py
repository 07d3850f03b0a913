"""A recording through the same stages as live."""

from __future__ import annotations

from collections.abc import Iterator

from pinwatch.errors import UsageError
from pinwatch.host import recordings
from pinwatch.model.snapshot import Snapshot
from pinwatch.pipeline import Pipeline
from pinwatch.recording import Counted, Header, Item, Published, RecordingError, read


class Playback:
    """One recording. UsageError when it cannot be read at all; damage further on ends it early, and
    `damage` says so once it has been met."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.damage = ""
        self._read = 0
        try:
            self.header, self._items = read(recordings.lines(path))
        except (OSError, RecordingError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot replay {path}: {reason}") from None

    @property
    def items(self) -> Iterator[Item]:
        """Those before the damage. There is one pass."""
        try:
            for item in self._items:
                self._read += 1
                yield item
        except (OSError, RecordingError) as error:
            self.damage = f"{self.path}: {error}; used what came before, {self._read} items"

    def moments(self) -> Iterator[Snapshot]:
        """What views showed, one after the other; the last is the end. Recordings of format 2 do
        not say when a snapshot was taken: each reading of the counters begins another."""
        pipeline = pipeline_of(self.header)
        fresh = False  # something came since the last of them
        for item in self.items:
            if fresh and isinstance(item, Counted) and not self.header.marks_snapshots:
                yield pipeline.snapshot()
            pipeline.feed(item)
            fresh = not isinstance(item, Published)
            if not fresh:
                yield pipeline.snapshot()
        if fresh:
            yield pipeline.snapshot()

    def end(self) -> Snapshot:
        """What is known at its end."""
        pipeline = pipeline_of(self.header)
        for item in self.items:
            pipeline.feed(item)
        return pipeline.snapshot()

    def check(self) -> None:
        """UsageError when the recording was damaged: at the end, when what it has was shown."""
        if self.damage:
            raise UsageError(self.damage)


def pipeline_of(header: Header) -> Pipeline:
    return Pipeline(header.facts, header.wall_offset_ns, header.series)
