"""The history on disk: what a new keeper goes on with. Blocks its caller, and belongs to one thread."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

from deployments.history.intervals import Interval
from deployments.history.samples import Sample

_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
    step_s INTEGER NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (step_s, at)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS intervals (
    model TEXT NOT NULL, state TEXT NOT NULL, since REAL NOT NULL, until REAL, reason TEXT NOT NULL,
    PRIMARY KEY (model, state, since)) WITHOUT ROWID;
"""


@dataclass
class Kept:
    """samples: by their step in seconds, the oldest first. intervals: in the order of their beginnings."""

    samples: dict[int, list[Sample]] = field(default_factory=dict)
    intervals: list[Interval] = field(default_factory=list)


class Store:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError:  # it is of no use to anybody
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                with suppress(FileNotFoundError):
                    path.with_name(name).unlink()
            self._db = _open(path)

    def read(self) -> Kept:
        kept = Kept()
        for step_s, at, body in self._db.execute("SELECT step_s, at, body FROM samples ORDER BY at"):
            kept.samples.setdefault(step_s, []).append(Sample.of(at, json.loads(body)))
        rows = self._db.execute("SELECT model, state, since, until, reason FROM intervals ORDER BY since")
        kept.intervals = [Interval(*row) for row in rows]
        return kept

    def write(self, samples: Iterable[tuple[int, Sample]], intervals: Iterable[Interval]) -> None:
        """samples: each with its step."""
        rows = [(step_s, sample.at, json.dumps(sample.plain())) for step_s, sample in samples]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", rows)
            self._db.executemany("INSERT OR REPLACE INTO intervals VALUES (?, ?, ?, ?, ?)", map(astuple, intervals))

    def forget(self, step_s: int, before: float) -> None:
        with self._db:
            self._db.execute("DELETE FROM samples WHERE step_s = ? AND at < ?", (step_s, before))

    def forget_intervals(self, before: float) -> None:
        with self._db:
            self._db.execute("DELETE FROM intervals WHERE until < ?", (before,))

    def close(self) -> None:
        self._db.close()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing
    db.executescript(_SCHEMA)
    return db
