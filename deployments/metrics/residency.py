"""What has happened between two of the policy's tables, and how models stand: the pure part of the keeper's metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from deployments.memory import MB
from deployments.metrics import names
from deployments.metrics.meters import Sample
from deployments.residency.board import Report, Row, Table

SAME_S = 0.01

_REASONS = (
    (r"requested", "requested"),
    (r"started with the server", "auto_start"),
    (r"started by an operator|stopped by an operator", "operator"),
    (r"min_replicas", "min_replicas"),
    (r"moves|no node can hold it", "node_lost"),
    (r"idle for", "idle"),
    (r"made room for", "evicted"),
    (r"its turn is over", "turn_over"),
    (r"over the cap", "cap"),
    (r"memory is short", "memory"),
    (r"did not start", "failed"),
)
"""What the policy's reasons begin with, and the few words that a label may be."""


def reason_of(text: str) -> str:
    return next((word for begin, word in _REASONS if re.match(begin, text)), "other")


def happened(old: Table, new: Table, public: Mapping[str, str]) -> Iterator[Sample]:
    """Starts and ends of models, and loads that are done. public: each model's name, by that of its row."""
    for name, row in new.rows.items():
        before, model = old.row(name), public.get(name, name)
        if row.started_at not in (None, before.started_at):
            yield Sample(names.SWAPS, 1, (model, "start", reason_of(row.started_why)))
        if row.ended_at not in (None, before.ended_at):
            yield Sample(names.SWAPS, 1, (model, "end", reason_of(row.ended_why)))
        if (load_s := _loaded_in(row)) is not None and row.up_since != before.up_since:
            yield Sample(names.LOAD, load_s, (model,))


def standing(table: Table, public: Mapping[str, str]) -> Iterator[Sample]:
    """How each model is, those of which nothing is known included."""
    for name, model in public.items():
        row = table.row(name)
        up = row.up_since is not None and row.running > 0
        yield Sample(names.RESIDENT, float(up), (model,))
        yield Sample(names.RESERVED, _bytes(row.reserved_mb, row.replicas), (model,))
        yield Sample(names.MEASURED, _bytes(row.measured_mb, row.running), (model,))
        yield Sample(names.QUEUED, row.queued, (model,))


def members(reports: Iterable[Report], known: Iterable[str]) -> Iterator[Sample]:
    """Whether each model that shares processes with others is loaded in one of them."""
    up = {name for report in reports for name, shown in report.members.items() if shown.get("phase") == "up"}
    for name in known:
        yield Sample(names.RESIDENT, float(name in up), (name,))


def _loaded_in(row: Row) -> float | None:
    """Seconds that its start took; None if it is not up since then, but came back after a crash."""
    if row.load_s is None or row.up_since is None or row.started_at is None:
        return None
    return row.load_s if abs(row.up_since - row.started_at - row.load_s) < SAME_S else None


def _bytes(mb: float, replicas: int) -> float:
    return mb * MB * replicas
