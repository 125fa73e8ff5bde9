"""When models were starting, running and stopping, and why: told from what lies on the board at each look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from deployments.residency.board import Report, Row, Table

Kind = Literal["starting", "running", "stopping"]

_PHASES: dict[str, Kind] = {"waiting": "starting", "loading": "starting", "up": "running", "leaving": "stopping"}
_ORDER: tuple[Kind, ...] = ("running", "starting", "stopping")


@dataclass(frozen=True)
class Interval:
    """since, until: seconds since 1970; until is None as long as it lasts. reason: why it began, or ended so."""

    model: str
    state: Kind
    since: float
    until: float | None = None
    reason: str = ""

    def plain(self) -> dict[str, Any]:
        """As `/api/history` tells it."""
        said = {"model": self.model, "state": self.state, "from": self.since, "until": self.until}
        return {**said, "reason": self.reason}


def standing(table: Table, reports: Iterable[Report], public: Mapping[str, str]) -> dict[str, Interval]:
    """What each model is at now; of one that is down, nothing. public: each model's name, by that of its row."""
    living = [report for report in reports if not report.failure]
    left = {report.model for report in living}
    found = {
        public[name]: interval
        for name, row in table.rows.items()
        if name in public and (interval := _of_row(public[name], row, has_process=name in left))
    }
    for report in living:
        for name, shown in report.members.items():
            found.update(_inside(found, name, shown))
    return found


def _of_row(model: str, row: Row, *, has_process: bool) -> Interval | None:
    if row.replicas and row.up_since is not None:
        return Interval(model, "running", row.up_since, reason=row.started_why)
    if row.replicas and row.started_at is not None:
        return Interval(model, "starting", row.started_at, reason=row.started_why)
    if not row.replicas and has_process and row.ended_at is not None:
        return Interval(model, "stopping", row.ended_at, reason=row.ended_why)
    return None


def _inside(found: Mapping[str, Interval], name: str, shown: Mapping[str, Any]) -> dict[str, Interval]:
    """A model in one of a pool's processes, or an adapter; the furthest state of all its places counts."""
    state = _PHASES.get(shown.get("phase", ""))
    if state is None or (name in found and _ORDER.index(found[name].state) <= _ORDER.index(state)):
        return {}
    return {name: Interval(name, state, shown["since"])}


def follow(
    before: Mapping[str, Interval], now: Mapping[str, Interval], ends: Mapping[str, tuple[float, str]], seen_at: float
) -> tuple[dict[str, Interval], list[Interval]]:
    """What goes on, and what has ended.

    before: what went on at the last look, at `seen_at`. ends: of models that are to be down, since when and why.
    """
    going: dict[str, Interval] = {}
    ended: list[Interval] = []
    for name, new in now.items():
        old = before.get(name)
        if old is None or (old.state, old.since) == (new.state, new.since):
            going[name] = new
        elif old.state == new.state and new.since < old.since:  # it began again with what it was before
            going[name] = old
        else:
            since = max(new.since, old.since) if new.since >= old.since else seen_at
            going[name] = replace(new, since=since)
            ended.append(_ended(old, since, ends.get(name)))
    for name, old in before.items():
        if name not in now:
            ended.append(_ended(old, seen_at, ends.get(name)))
    return going, ended


def _ended(old: Interval, at: float, end: tuple[float, str] | None) -> Interval:
    """at: if it is not known better."""
    if end is None or end[0] < old.since or old.state == "stopping":
        return replace(old, until=max(at, old.since))
    return replace(old, until=end[0], reason=end[1])


def ends_of(table: Table, public: Mapping[str, str]) -> dict[str, tuple[float, str]]:
    return {
        public[name]: (row.ended_at, row.ended_why)
        for name, row in table.rows.items()
        if name in public and row.ended_at is not None and not row.replicas
    }
