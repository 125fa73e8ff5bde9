from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from deployments.config import parse
from deployments.metrics import names
from deployments.metrics import part as module
from deployments.metrics.meters import Sample
from deployments.metrics.part import MetricsPart, names_of
from deployments.residency.board import Report, Row, Table

SETTINGS = parse(
    {"models": [{"name": "org/a", "engine": "echo"}, {"name": "p1", "engine": "echo", "pool": "many"}]},
)
UP = Row(replicas=1, running=1, started_at=10, started_why="requested", up_since=13, load_s=3)


class Meters:
    def __init__(self) -> None:
        self.told: list[Sample] = []

    def tell(self, samples: Iterable[Sample]) -> None:
        self.told += samples


class Sequel:
    """The board's tables, one after the other, an exception among them; the last one for ever."""

    def __init__(self, *tables: Table | Exception) -> None:
        self._tables = list(tables)
        self.over = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> tuple[Table, Sequence[Report]]:
        if len(self._tables) == 1:
            self._loop.call_soon_threadsafe(self.over.set)
        table = self._tables.pop(0) if len(self._tables) > 1 else self._tables[0]
        if isinstance(table, Exception):
            raise table
        return table, [Report("pool--many", "r1", "n", members={"p1": {"phase": "up"}})]


async def told_of(monkeypatch: pytest.MonkeyPatch, *tables: Table | Exception) -> list[Sample]:
    monkeypatch.setattr(module, "PERIOD_S", 0.0)
    look, meters = Sequel(*tables), Meters()
    part = MetricsPart(SETTINGS, "app", look, meters)
    await part.start()
    await asyncio.wait_for(look.over.wait(), 10)
    await part.stop()
    return meters.told


async def test_change_is_told_though_the_board_was_away_between(monkeypatch: pytest.MonkeyPatch) -> None:
    up = Table(rows={"org--a": UP})
    told = await told_of(monkeypatch, Table(), ConnectionError(), up, up)
    assert [s.labels for s in told if s.metric is names.SWAPS] == [("org/a", "start", "requested")]
    assert {s.labels for s in told if s.metric is names.RESIDENT and s.value} == {("org/a",), ("p1",)}


async def test_keeper_that_begins_tells_nothing_of_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    up = Table(rows={"org--a": UP})
    told = await told_of(monkeypatch, up, up, up)
    assert [s for s in told if s.metric is names.SWAPS] == []


def test_rows_have_public_names_and_pools_their_own() -> None:
    assert names_of(SETTINGS) == ({"org--a": "org/a", "pool--many": "pool--many"}, ("p1",))
