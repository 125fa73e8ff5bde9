"""The logs of all models on disk, in blocks: the lines that came together, as they are told to readers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.logs.batch import Batch, Source, Span

TRIM_TO = 0.9  # of what a model may have, so that not every line costs a deletion
_NO_ROOM = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY}
)
"""SQLite's words for a file that may be as it should be."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (model TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL, at REAL NOT NULL,
    size INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS blocks_in_order ON blocks (model, first, count, size);
CREATE TABLE IF NOT EXISTS sources (
    replica TEXT PRIMARY KEY, model TEXT NOT NULL, node TEXT NOT NULL, pid INTEGER NOT NULL, born REAL NOT NULL,
    ended REAL);
CREATE TABLE IF NOT EXISTS files (
    replica TEXT NOT NULL, path TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (replica, path)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Block:
    """first: the number of its first line in the model's log, which counts from the model's first line ever. body: a
    JSON object a line."""

    first: int
    count: int
    body: bytes

    @property
    def next(self) -> int:
        return self.first + self.count


@dataclass
class Total:
    """What is kept of a model's log. next: the number that its next line gets."""

    count: int = 0
    size: int = 0
    next: int = 0


@dataclass(frozen=True)
class Taken:
    """fits: whether the batch was taken. block: its lines, if it had any. offsets: up to where the batch's files are
    known now."""

    fits: bool
    block: Block | None
    offsets: dict[str, int]


class Store:
    """Blocks its caller, and belongs to one thread at a time. What cannot be written is as if nobody had asked."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """max_bytes: of each model. A file that is of no use to anybody is put aside.

        Raises: OSError, sqlite3.OperationalError, as long as the disk takes nothing.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in _NO_ROOM:
                raise
            path.replace(path.with_suffix(".broken"))
            for side in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + side).unlink()
            self._db = _open(path)
        self.totals = self._count()

    def add(self, batch: Batch, now: float) -> Taken:
        """Takes the batch unless its parts of the files are known, or others are missing before them, or the replica
        has ended."""
        source = batch.source
        total = self.totals.get(source.model, Total())
        with self._transaction() as db:
            offsets = self._offsets(source.replica)
            fits = all(offsets.get(path, span.start) == span.start for path, span in batch.files.items())
            if not fits or self._has_ended(source.replica):
                return Taken(False, None, {path: offsets.get(path, span.start) for path, span in batch.files.items()})
            self._move(source, {p: s for p, s in batch.files.items() if p not in offsets or not s.empty})
            if batch.ended:
                db.execute("UPDATE sources SET ended = ? WHERE replica = ?", (now, source.replica))
            block = None
            if batch.count:
                block = Block(total.next, batch.count, batch.body)
                db.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (source.model, block.next))
                db.execute(
                    "INSERT INTO blocks (model, first, count, at, size, body) VALUES (?, ?, ?, ?, ?, ?)",
                    (source.model, block.first, block.count, now, len(block.body), block.body),
                )
        if block is not None:
            self.totals[source.model] = Total(total.count + block.count, total.size + len(block.body), block.next)
            if self.totals[source.model].size > self._max_bytes:
                self._trim(source.model)
        return Taken(True, block, {path: span.end for path, span in batch.files.items()})

    def read(self, model: str, first: int, max_bytes: int) -> list[Block]:
        """Blocks from the line `first` on, about so many bytes together; at least one if there is any."""
        rows = self._db.execute(
            "SELECT first, count, body FROM blocks WHERE model = ? AND first >= ? ORDER BY first", (model, first)
        )
        found: list[Block] = []
        with closing(rows):
            for row in rows:
                found.append(Block(*row))
                max_bytes -= len(found[-1].body)
                if max_bytes <= 0:
                    break
        return found

    def oldest(self, model: str) -> int:
        """The number of the oldest line that is kept; the next one's if none is."""
        row = self._db.execute("SELECT min(first) FROM blocks WHERE model = ?", (model,)).fetchone()
        return self.totals.get(model, Total()).next if row[0] is None else int(row[0])

    def clear(self, model: str, before: float) -> int:
        """Deletes the lines that came before that time. Returns how many."""
        had = self.totals.get(model, Total()).count
        with self._transaction() as db:
            db.execute("DELETE FROM blocks WHERE model = ? AND at < ?", (model, before))
        self.totals = self._count()
        return had - self.totals.get(model, Total()).count

    def expire(self, before: float) -> None:
        """Deletes what came and who ended before that time."""
        with self._transaction() as db:
            db.execute("DELETE FROM blocks WHERE at < ?", (before,))
            db.execute("DELETE FROM sources WHERE ended < ?", (before,))
            db.execute("DELETE FROM files WHERE replica NOT IN (SELECT replica FROM sources)")
        self.totals = self._count()

    def sources(self) -> dict[Source, dict[str, int]]:
        """Replicas that have not ended, and up to where each one's files are known."""
        rows = self._db.execute("SELECT model, replica, node, pid, born FROM sources WHERE ended IS NULL").fetchall()
        return {source: self._offsets(source.replica) for source in (Source(*row) for row in rows)}

    def close(self) -> None:
        self._db.close()

    def _trim(self, model: str) -> None:
        total = self.totals[model]
        excess, lines, last = total.size - TRIM_TO * self._max_bytes, 0, -1
        freed = 0
        rows = self._db.execute("SELECT first, count, size FROM blocks WHERE model = ? ORDER BY first", (model,))
        with closing(rows):
            for first, count, size in rows:
                if freed >= excess:
                    break
                last, lines, freed = first, lines + count, freed + size
        with self._transaction() as db:
            db.execute("DELETE FROM blocks WHERE model = ? AND first <= ?", (model, last))
        self.totals[model] = Total(total.count - lines, total.size - freed, total.next)

    def _count(self) -> dict[str, Total]:
        rows = self._db.execute(
            "SELECT models.model, coalesce(sum(count), 0), coalesce(sum(size), 0), next"
            " FROM models LEFT JOIN blocks USING (model) GROUP BY models.model"
        )
        return {model: Total(count, size, next_) for model, count, size, next_ in rows}

    def _offsets(self, replica: str) -> dict[str, int]:
        return dict(self._db.execute("SELECT path, offset FROM files WHERE replica = ?", (replica,)).fetchall())

    def _move(self, source: Source, files: dict[str, Span]) -> None:
        if not files:
            return
        self._db.execute(
            "INSERT OR IGNORE INTO sources VALUES (:replica, :model, :node, :pid, :born, NULL)", asdict(source)
        )
        moved = [(source.replica, path, span.end) for path, span in files.items()]
        self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", moved)

    def _has_ended(self, replica: str) -> bool:
        rows = self._db.execute("SELECT 1 FROM sources WHERE replica = ? AND ended IS NOT NULL", (replica,))
        return rows.fetchone() is not None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite may have rolled back by itself
                self._db.execute("ROLLBACK")
            raise


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # a process that is killed loses nothing
        db.execute(f"PRAGMA journal_size_limit = {16 * 2**20}")
        db.executescript(_SCHEMA)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db
