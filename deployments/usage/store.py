"""Records of usage in an SQL database. All calls block."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event

from deployments.usage.ranges import GroupBy
from deployments.usage.record import Record

_META = sql.MetaData()
_ROWS = sql.Table(
    "llm_manager_usage",
    _META,
    sql.Column("id", sql.String(64), primary_key=True),
    sql.Column("application", sql.String(200), nullable=False),
    sql.Column("time_ms", sql.BigInteger, nullable=False),
    sql.Column("model", sql.String(200), nullable=False),
    sql.Column("key", sql.String(200), nullable=False),
    sql.Column("path", sql.String(100), nullable=False),
    sql.Column("status", sql.Integer, nullable=False),
    sql.Column("prompt_tokens", sql.BigInteger, nullable=False),
    sql.Column("completion_tokens", sql.BigInteger, nullable=False),
    sql.Column("cached_tokens", sql.BigInteger, nullable=False),
    sql.Column("queue_ms", sql.Float, nullable=False),
    sql.Column("ttft_ms", sql.Float),
    sql.Column("total_ms", sql.Float, nullable=False),
    sql.Column("request_id", sql.String(200), nullable=False),
    sql.Column("replica", sql.String(200), nullable=False),
    sql.Column("streamed", sql.Boolean, nullable=False),
    sql.Column("from_cache", sql.Boolean, nullable=False),
    sql.Index("llm_manager_usage_by_time", "application", "time_ms"),
)
_C = _ROWS.c
RECENT = 1000
"""Records that are looked at where only the last ones are asked for."""
_TIMES: dict[str, int] = {"hour": 3_600_000, "day": 86_400_000}

_FIGURES = (
    sql.func.count().label("requests"),
    sql.func.coalesce(sql.func.sum(sql.case((_C.status >= 400, 1), else_=0)), 0).label("errors"),
    *(sql.func.coalesce(sql.func.sum(_C[name]), 0).label(name) for name in ("prompt_tokens", "completion_tokens")),
    sql.func.coalesce(sql.func.sum(_C.cached_tokens), 0).label("cached_tokens"),
    sql.func.avg(_C.queue_ms).label("avg_queue_ms"),
    sql.func.avg(_C.ttft_ms).label("avg_ttft_ms"),
    sql.func.avg(_C.total_ms).label("avg_total_ms"),
)


@dataclass(frozen=True)
class Question:
    """since: in seconds since 1970. model, key: only theirs."""

    since: float
    model: str | None = None
    key: str | None = None


class Store:
    def __init__(self, url: str, application: str) -> None:
        """url: SQLAlchemy's. The database of a file is made, and its folder."""
        parsed = sql.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).expanduser().parent.mkdir(parents=True, exist_ok=True)
        self._application = application
        self._engine = sql.create_engine(parsed, pool_pre_ping=True)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _readers_do_not_wait)
        _META.create_all(self._engine)

    def add(self, records: Sequence[Record]) -> int:
        """Those that are not there yet. Returns how many they were."""
        by_id = {record.id: record for record in records}
        with self._engine.begin() as connection:
            there = set(connection.scalars(sql.select(_C.id).where(_C.id.in_(list(by_id)))))
            rows = [_row(record, self._application) for id_, record in by_id.items() if id_ not in there]
            if rows:
                connection.execute(sql.insert(_ROWS), rows)
        return len(rows)

    def forget(self, before: float) -> int:
        """Returns how many records were older."""
        old = (_C.application == self._application) & (_C.time_ms < int(before * 1000))
        with self._engine.begin() as connection:
            return int(connection.execute(sql.delete(_ROWS).where(old)).rowcount)

    def totals(self, question: Question) -> dict[str, Any]:
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(*_FIGURES).where(self._asked(question))).mappings().one()
        return _figures(row)

    def grouped(self, question: Question, by: GroupBy) -> list[dict[str, Any]]:
        """The figures of each group: times in their order, others by their requests. Times are seconds since 1970."""
        group = _start(_TIMES[by]) if by in _TIMES else _C[by]
        rows = sql.select(group.label("group"), *_FIGURES).where(self._asked(question)).group_by(group)
        rows = rows.order_by("group" if by in _TIMES else sql.desc("requests"), "group")
        with self._engine.connect() as connection:
            found = connection.execute(rows).mappings().all()
        return [{by: row["group"] // 1000 if by in _TIMES else row["group"], **_figures(row)} for row in found]

    def series(self, question: Question, bucket_s: int) -> list[Mapping[str, Any]]:
        """`model`, `time` (of the bucket's start, in seconds since 1970) and figures, of buckets with requests."""
        start = _start(bucket_s * 1000).label("start")
        rows = sql.select(_C.model, start, *_FIGURES).where(self._asked(question)).group_by(_C.model, "start")
        with self._engine.connect() as connection:
            found = connection.execute(rows.order_by(_C.model, "start")).mappings().all()
        return [{"model": row["model"], "time": row["start"] // 1000, **_figures(row)} for row in found]

    def recent(self, limit: int, models: Collection[str] | None = None) -> list[Record]:
        """The last that ended, the newest first; of these models, those among the last RECENT of all."""
        rows = sql.select(_ROWS).where(_C.application == self._application)
        last = rows.order_by(_C.time_ms.desc()).limit(RECENT).subquery()
        asked = sql.select(last).order_by(last.c.time_ms.desc()).limit(limit)
        if models is not None:
            asked = asked.where(last.c.model.in_(models))
        with self._engine.connect() as connection:
            return [_record(row) for row in connection.execute(asked).mappings()]

    def close(self) -> None:
        self._engine.dispose()

    def _asked(self, question: Question) -> sql.ColumnElement[bool]:
        told = [_C.application == self._application, _C.time_ms >= int(question.since * 1000)]
        if question.model is not None:
            told.append(_C.model == question.model)
        if question.key is not None:
            told.append(_C.key == question.key)
        return sql.and_(*told)


def _start(bucket_ms: int) -> sql.ColumnElement[int]:
    return _C.time_ms - _C.time_ms % bucket_ms


_OWN = [field.name for field in fields(Record) if field.name != "time"]


def _row(record: Record, application: str) -> dict[str, Any]:
    own = {name: getattr(record, name) for name in _OWN}
    return {**own, "application": application, "time_ms": int(record.time * 1000)}


def _record(row: sql.RowMapping) -> Record:
    return Record(time=row["time_ms"] / 1000, **{name: row[name] for name in _OWN})


def _figures(row: sql.RowMapping) -> dict[str, Any]:
    """Sums are whole numbers; some databases say so otherwise."""
    sums = ("requests", "errors", "prompt_tokens", "completion_tokens", "cached_tokens")
    found: dict[str, Any] = {name: int(row[name]) for name in sums}
    found["total_tokens"] = found["prompt_tokens"] + found["completion_tokens"]
    for name in ("avg_queue_ms", "avg_ttft_ms", "avg_total_ms"):
        found[name] = None if row[name] is None else round(float(row[name]), 1)
    return found


def _readers_do_not_wait(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing
    cursor.close()
