"""What happened on this host, in a file: every failed and slow pin, and the state once a minute.

One thread writes; whoever gives it something never waits. A disk that is full costs what comes
meanwhile, which is counted, and nothing else. Readers open the file beside it (docs/history.md).
"""

from __future__ import annotations

import json
import os
import queue
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pinwatch.aggregate.ledger import errno_name
from pinwatch.errors import CannotRunError
from pinwatch.expose import as_json, state
from pinwatch.host import clock
from pinwatch.model.failure import Failure, SlowPin
from pinwatch.model.snapshot import Snapshot

FILE = "history.db"
SCHEMA = 1  # user_version
WAITING = 2000  # entries that may wait for the disk
BATCH = 200  # entries in one transaction
STEP = 200  # that are deleted in one
PRUNE_S = 5.0
AGAIN_S = 10.0  # after the disk refused
DAY_S = 86400

_TABLES = """
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, time_s REAL NOT NULL, kind TEXT NOT NULL, vm TEXT NOT NULL,
    alias TEXT NOT NULL, uuid TEXT NOT NULL, source TEXT NOT NULL, reason TEXT NOT NULL,
    holder TEXT NOT NULL, errno TEXT NOT NULL, headline TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS events_time ON events (time_s);
CREATE TABLE IF NOT EXISTS moments (time_s REAL PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""
_INSERT = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OLDEST = "SELECT time_s FROM {} ORDER BY time_s LIMIT {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is kept."""

    size_bytes: int = 200 << 20
    age_s: float = 30 * DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How the history does."""

    writable: bool = False
    size_bytes: int = 0
    events: int = 0
    lost: int = 0  # entries that no history has


Document = dict[str, Any]
Entry = Failure | SlowPin | Snapshot  # a snapshot is kept as a moment


class History:
    """The writer. `log` is told when the disk refuses, and when it does no more."""

    def __init__(self, directory: str, limits: Limits, log: Callable[[str], None]) -> None:
        self._path = Path(directory) / FILE
        self._limits = limits
        self._log = log
        self._waiting: queue.Queue[Entry | None] = queue.Queue(WAITING)
        self._state = State()
        self._lost_waiting = 0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def state(self) -> State:
        return self._state

    @property
    def lost(self) -> int:
        return self._state.lost + self._lost_waiting

    def add(self, entry: Entry) -> None:
        """Have it written soon."""
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            self._lost_waiting += 1

    def close(self) -> None:
        """Write what waits, for a second or two."""
        if self._thread.is_alive():
            with suppress(queue.Full):  # the disk hangs
                self._waiting.put(None, timeout=1)
            self._thread.join(2)

    # ---- the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        book: Book | None = None
        prune_at = retry_at = 0.0
        going, told = True, False
        while going:
            batch, going = self._next()
            now = clock.monotonic_s()
            try:
                if book is None and now >= retry_at:
                    book = Book(self._path, self._log)
                if book is None:
                    self._note(lost=len(batch))
                    continue
                self._write(book, batch)
                batch = []  # they are safe, whatever comes
                if now >= prune_at:
                    book.prune(self._limits, clock.wall_s())
                    prune_at = now + PRUNE_S
                self._note(book, writable=True)
                told = False
            except Exception as error:  # an entry that cannot be written ends no history either
                if not told:
                    self._log(f"no history is written to {self._path}: {error}")
                told = True
                self._note(lost=len(batch))
                _close(book)
                book, retry_at = None, now + AGAIN_S
        _close(book)

    def _next(self) -> tuple[list[Entry], bool]:
        """What waits, after a second at the latest; False: nothing comes any more."""
        batch: list[Entry] = []
        try:
            entry = self._waiting.get(timeout=1.0)
            while entry is not None:
                batch.append(entry)
                if len(batch) == BATCH:
                    return batch, True
                entry = self._waiting.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    def _write(self, book: Book, batch: list[Entry]) -> None:
        if not batch:
            return
        pins = (pin for pin in batch if not isinstance(pin, Snapshot))
        moments = (one for one in batch if isinstance(one, Snapshot))
        book.add(map(row, pins), ((one.time_s, state.document(one)) for one in moments))

    def _note(self, book: Book | None = None, *, writable: bool = False, lost: int = 0) -> None:
        if writable and not self._state.writable:
            self._log(f"history: {self._path}")
        self._state = State(
            writable=writable,
            size_bytes=book.size_bytes if book else self._state.size_bytes,
            events=book.events if book else self._state.events,
            lost=self._state.lost + lost,
        )


def _close(book: Book | None) -> None:
    if book is not None:
        book.close()


class Book:
    """The file, open for writing. sqlite3.Error or OSError when that cannot be."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            self._db = _open(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"{FILE}.damaged-{int(clock.wall_s())}")
            path.rename(aside)
            for more in ("-wal", "-shm"):
                Path(f"{path}{more}").unlink(missing_ok=True)
            log(f"the history was damaged ({error}): it lies in {aside}, and a new one begins")
            self._db = _open(path)
        self.events = self._count()

    def _count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM events").fetchone()[0])

    def add(
        self, events: Iterable[tuple[Any, ...]], moments: Iterable[tuple[float, Document]]
    ) -> None:
        """All of it or nothing."""
        rows = [(time_s, _pack(document)) for time_s, document in moments]
        with self._db:
            self.events += self._db.executemany(_INSERT, events).rowcount
            self._db.executemany("INSERT OR REPLACE INTO moments VALUES (?, ?)", rows)

    @property
    def size_bytes(self) -> int:
        """Without what is free inside."""
        pages, free, size = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def prune(self, limits: Limits, now_s: float) -> None:
        """Let go of the oldest, in steps that hold up nobody."""
        gone = False
        while self._delete(now_s - limits.age_s):
            gone = True
        while self.size_bytes > limits.size_bytes and self._delete(inf):
            gone = True
        if gone:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")  # so the file becomes shorter now

    def _delete(self, before_s: float) -> bool:
        """The oldest of both, STEP of them; False when there was none so old."""
        oldest = sorted(
            time_s
            for table in ("events", "moments")
            for (time_s,) in self._db.execute(_OLDEST.format(table, STEP))
        )[:STEP]
        old = [time_s for time_s in oldest if time_s < before_s]
        if not old:
            return False
        with self._db:
            for table in ("events", "moments"):
                done = self._db.execute(f"DELETE FROM {table} WHERE time_s <= ?", (old[-1],))
                self.events -= done.rowcount if table == "events" else 0
        # execute() would take one step of it only, which frees one page
        self._db.executescript("PRAGMA incremental_vacuum")
        return True

    def close(self) -> None:
        self._db.close()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise sqlite3.OperationalError(f"schema {version} is of a newer pinwatch")
        if not version:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -512")  # KiB: it is written, and hardly ever read
        db.execute(f"PRAGMA journal_size_limit = {16 << 20}")
        db.executescript(_TABLES)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("it fails its own check")
    except BaseException:
        db.close()
        raise
    return db


def row(pin: Failure | SlowPin) -> tuple[Any, ...]:
    """A pin as a row of `events`."""
    if isinstance(pin, Failure):
        document = as_json.failure(pin)
        errno = errno_name(pin.pin.errno)
        said = ("failed", str(pin.reason), str(pin.holder.holder), errno)
    else:
        document = as_json.slow_pin(pin)
        said = ("slow", str(pin.cause), "", "")
    kind, reason, holder, errno = said
    vm, headline = pin.vm, document["explanation"]["headline"]
    return (
        pin.id, pin.time_s, kind, vm.name, vm.alias, vm.uuid, str(pin.pin.source), reason, holder,
        errno, headline, _pack(document),
    )  # fmt: skip


def _pack(document: Document) -> bytes:
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode())


# ---- reading --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events; empty: any. `vm` is a name, an alias or a uuid."""

    vm: str = ""
    kind: str = ""
    reason: str = ""
    source: str = ""
    since_s: float | None = None
    until_s: float | None = None
    after: int = 0  # of rowid
    limit: int = 100

    @property
    def where(self) -> tuple[str, dict[str, Any]]:
        """A condition, and its values."""
        tests = {
            "vm": ":vm IN (vm, alias, uuid)", "kind": "kind = :kind", "reason": "reason = :reason",
            "source": "source = :source", "after": "rowid > :after",
        }  # fmt: skip
        values = {name: getattr(self, name) for name in tests if getattr(self, name)}
        found = [tests[name] for name in values]
        for name, test in (("since_s", "time_s >= :since_s"), ("until_s", "time_s <= :until_s")):
            if (bound := getattr(self, name)) is not None:
                values[name] = bound
                found.append(test)
        return " AND ".join(found) or "1", values


class Reader:
    """The file, beside its writer. CannotRunError when there is none to read."""

    def __init__(self, directory: str) -> None:
        self._path = path = Path(directory) / FILE
        try:
            self._db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5.0)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise CannotRunError(
                f"cannot read the history {path}: {error}",
                hint="it is root's; does the daemon run with this state_dir (--state-dir)?",
            ) from None
        if version != SCHEMA:
            raise CannotRunError(
                f"the history {path} is of another version of pinwatch ({version})",
                hint="use that version, or move the file away and restart the daemon",
            )
        self._db.row_factory = sqlite3.Row

    def _ask(self, query: str, values: Any = ()) -> list[sqlite3.Row]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise CannotRunError(
                f"cannot read the history {self._path}: {error}",
                hint="if it is damaged, the daemon sets it aside by itself and begins a new one",
            ) from None

    def events(self, wanted: Wanted) -> Iterator[Document]:
        """The newest of them, the oldest first: the columns, `row` and the whole `body`."""
        condition, values = wanted.where
        found = self._ask(
            f"SELECT rowid AS row, * FROM events WHERE {condition} "
            f"ORDER BY time_s DESC, rowid DESC LIMIT {int(wanted.limit)}",
            values,
        )
        for one in reversed(found):
            yield {**dict(one), "body": _unpack(one["body"])}

    @property
    def last_row(self) -> int:
        """The greatest there is; a row's number is used again when all above it are gone."""
        return int(self._ask("SELECT coalesce(max(rowid), 0) FROM events")[0][0])

    def event(self, id_: str) -> Document | None:
        """By its id, or the beginning of one that no other has."""
        found = self._ask(
            "SELECT body FROM events WHERE substr(id, 1, ?) = ? LIMIT 2", (len(id_), id_)
        )
        return _unpack(found[0]["body"]) if len(found) == 1 else None

    def moments(self, since_s: float, until_s: float) -> list[Document]:
        """The states of the host in that time, in order."""
        found = self._ask(
            "SELECT body FROM moments WHERE time_s BETWEEN ? AND ? ORDER BY time_s",
            (since_s, until_s),
        )
        return [_unpack(one["body"]) for one in found]


def _unpack(body: bytes) -> Document:
    document: Document = json.loads(zlib.decompress(body))
    return document
