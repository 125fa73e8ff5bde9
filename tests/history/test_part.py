from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from deployments.config import Settings, parse
from deployments.history import part as module
from deployments.history.part import PATH, HistoryPart
from deployments.keeper import keeper
from deployments.memory import Memory
from deployments.residency.board import Report, Row, Table

SETTINGS = parse({"models": [{"name": "org/a", "engine": "echo"}]})


class World:
    """fails: whether the board cannot be read."""

    def __init__(self) -> None:
        self.since = time.time()
        up = Row(replicas=1, running=1, started_at=self.since, up_since=self.since, started_why="requested")
        self.rows = {"org--a": up}
        self.fails = False
        self._looks = 0
        self._looked = threading.Condition()

    def look(self) -> tuple[Table, Sequence[Report]]:
        with self._looked:
            self._looks += 1
            self._looked.notify_all()
        if self.fails:
            raise ConnectionError("no control service")
        return Table(rows=self.rows), ()

    def part(self, folder: Path) -> HistoryPart:
        return HistoryPart(SETTINGS, folder, self.look, lambda: {"org/a": 7.0}, lambda: {"10.0.0.1": Memory(1000, 400)})

    async def seen(self, times: int = 3) -> None:
        """Returns when the board was looked at so often."""

        def wait() -> None:
            with self._looked:
                wanted = self._looks + times
                assert self._looked.wait_for(lambda: self._looks >= wanted, timeout=10)

        await asyncio.to_thread(wait)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINE", SimpleNamespace(step_s=0.01))


@pytest.fixture
def world() -> World:
    return World()


async def told(part: HistoryPart, models: Sequence[str] | None = None) -> Any:
    transport = httpx.ASGITransport(keeper.app([part]))
    async with httpx.AsyncClient(transport=transport, base_url="http://keeper") as client:
        answer = await client.post(PATH, json={"range": "1m", "models": models})
    assert answer.status_code == 200
    return answer.json()


async def test_board_is_looked_at_and_told(world: World, tmp_path: Path) -> None:
    part = world.part(tmp_path)
    await part.start()
    await world.seen()
    (interval,) = (await told(part, ["org/a"]))["residency"]
    assert interval == {
        **{"model": "org/a", "state": "running", "reason": "requested"},
        **{"from": world.since, "until": None},
    }
    others = await told(part, ["b"])
    assert (others["success"], others["residency"], others["models"]) == (True, [], {})
    await part.stop()


async def test_board_that_was_away_is_looked_at_again(world: World, tmp_path: Path) -> None:
    part = world.part(tmp_path)
    world.fails = True
    await part.start()
    await world.seen()
    assert (await told(part))["residency"] == []
    world.fails = False
    await world.seen()
    assert len((await told(part))["residency"]) == 1
    await part.stop()


async def test_what_was_is_known_to_the_next_keeper(world: World, tmp_path: Path) -> None:
    first = world.part(tmp_path)
    await first.start()
    await world.seen()
    await first.stop()
    world.fails = True
    second = world.part(tmp_path)
    await second.start()
    assert [one["from"] for one in (await told(second))["residency"]] == [world.since]
    await second.stop()


async def test_swap_is_on_disk_at_once(world: World, tmp_path: Path) -> None:
    """A keeper may be killed."""
    first = world.part(tmp_path)
    await first.start()
    await world.seen()
    world.rows = {"org--a": Row(ended_at=world.since + 1, ended_why="made room for b")}
    await world.seen()
    second = world.part(tmp_path)
    second._open()
    assert [one["reason"] for one in (await told(second))["residency"]] == ["made room for b"]
    await first.stop()


async def test_folder_that_cannot_be_written_costs_the_disk_only(world: World) -> None:
    part = world.part(Path("/proc/no"))
    await part.start()
    await world.seen()
    assert len((await told(part))["residency"]) == 1
    await part.stop()


async def test_keeper_has_the_part() -> None:
    assert any(isinstance(part, HistoryPart) for part in keeper.parts(Settings(models=()), "app"))
