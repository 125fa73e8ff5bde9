"""The part behind a keeper's app, asked as ingress replicas ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest

from deployments.activity import part as module
from deployments.activity import wire
from deployments.activity.part import GONE_S, ActivityPart
from deployments.activity.rates import Rates
from deployments.config import Settings
from deployments.keeper import keeper


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Part(ActivityPart):
    """told: set when somebody has asked."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Rates(clock), clock)
        self.told = asyncio.Event()

    async def _tell(self) -> None:
        self.told.set()
        await super()._tell()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():
                self.told.clear()
                await self.told.wait()


class House:
    """A keeper that has been up for long, and those who ask it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.part = Part(self.clock)
        self.clock.now += GONE_S

    async def ask(self, path: str, data: Any) -> Any:
        transport = httpx.ASGITransport(keeper.app([self.part]))
        async with httpx.AsyncClient(transport=transport, base_url="http://keeper") as client:
            answer = await client.post(path, json=data)
        assert answer.status_code == 200
        return answer.json()

    def holds(self, replica: str, **more: Any) -> asyncio.Task[Any]:
        """A replica's exchange."""
        report = {"replica": replica, "tokens": {}, "running": None, "cancelled": {}, **more}
        return asyncio.create_task(self.ask(wire.EXCHANGE, report))

    async def known(self, names: Iterable[str]) -> list[asyncio.Task[Any]]:
        """Exchanges that the keeper holds."""
        held = [self.holds(name) for name in names]
        await self.part.until(lambda: self.part._replicas.keys() >= set(names))
        return held


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs out by itself."""
    monkeypatch.setattr(wire, "HELD_S", 3600.0)
    monkeypatch.setattr(module, "LOOK_S", 3600.0)
    monkeypatch.setattr(module, "CANCEL_S", 3600.0)


ROW = {"id": "1", "model": "a"}


async def within(work: Any) -> Any:
    return await asyncio.wait_for(work, 10)


async def still_waits(task: asyncio.Task[Any]) -> None:
    await asyncio.wait({task}, timeout=0.01)
    assert not task.done()


async def test_exchange_ends_after_a_while_with_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HELD_S", 0.0)
    assert await within(house.holds("r1")) == {"look": False, "cancel": []}


async def test_look_asks_all_others_and_waits_for_what_they_say(house: House) -> None:
    _, *held = await house.known(["r1", "r2", "r3"])
    look = asyncio.create_task(house.ask(wire.REQUESTS, {"replica": "r1"}))
    assert [(await within(one))["look"] for one in held] == [True, True]
    house.holds("r2", running=[ROW])
    await still_waits(look)
    house.holds("r3", running=[])
    assert (await within(look))["running"] == [ROW]


async def test_looks_of_a_moment_share_one_answer(house: House) -> None:
    await house.known(["r1"])
    house.holds("r2", running=[ROW])
    await house.known(["r2"])
    for _ in range(2):
        assert (await within(house.ask(wire.REQUESTS, {"replica": "r1"})))["running"] == [ROW]


async def test_replica_that_does_not_say_anything_holds_no_look_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    await house.known(["r1", "silent"])
    assert (await within(house.ask(wire.REQUESTS, {"replica": "r1"})))["running"] == []


async def test_what_a_replica_that_is_gone_has_said_is_forgotten(house: House) -> None:
    house.holds("r2", running=[ROW])
    await house.known(["r2"])
    house.clock.now += GONE_S + 1
    assert (await within(house.ask(wire.REQUESTS, {"replica": "r1"})))["running"] == []


async def test_rates_come_with_the_requests(house: House) -> None:
    first = house.holds("r1", tokens={"a": 0})
    await house.part.until(lambda: "r1" in house.part._replicas)
    house.clock.now += 2
    second = house.holds("r1", tokens={"a": 20}, running=[])
    await house.part.until(lambda: house.part._replicas["r1"].asks == 2)
    assert (await within(house.ask(wire.REQUESTS, {"replica": "r1"})))["tokens_per_second"] == {"a": 10}
    first.cancel(), second.cancel()


async def test_cancel_reaches_the_replica_that_has_the_request(house: House) -> None:
    held = await house.known(["r1", "r2", "r3"])
    asked = asyncio.create_task(house.ask(wire.CANCEL, {"replica": "r1", "id": "x", "models": ["a"]}))
    orders = [(await within(one))["cancel"] for one in held[1:]]
    (order,) = orders[0]
    assert orders == [[order], [order]]
    assert (order["id"], order["models"]) == ("x", ["a"])
    house.holds("r2", cancelled={order["number"]: False})
    await still_waits(asked)
    house.holds("r3", cancelled={order["number"]: True})
    assert await within(asked) == {"found": True}


async def test_cancel_of_what_nobody_has_is_not_found(house: House) -> None:
    (_, held) = await house.known(["r1", "r2"])
    asked = asyncio.create_task(house.ask(wire.CANCEL, {"replica": "r1", "id": "x", "models": None}))
    (order,) = (await within(held))["cancel"]
    house.holds("r2", cancelled={order["number"]: False})
    assert await within(asked) == {"found": False}
    assert house.part._orders == {}


async def test_new_keeper_waits_for_replicas_that_it_does_not_know_yet(house: House) -> None:
    house.clock.now -= GONE_S
    asked = asyncio.create_task(house.ask(wire.CANCEL, {"replica": "r1", "id": "x", "models": None}))
    await house.part.until(lambda: bool(house.part._orders))
    (order,) = (await within(house.holds("r2")))["cancel"]
    house.holds("r2", cancelled={order["number"]: True})
    assert await within(asked) == {"found": True}


async def test_question_that_was_asked_again_is_answered_where_it_is_read(house: House) -> None:
    (lost,) = await house.known(["r2"])
    again = house.holds("r2")
    assert await within(lost) == {"look": False, "cancel": []}
    asked = asyncio.create_task(house.ask(wire.CANCEL, {"replica": "r1", "id": "x", "models": None}))
    assert len((await within(again))["cancel"]) == 1
    asked.cancel()


async def test_keeper_has_the_part() -> None:
    assert any(isinstance(part, ActivityPart) for part in keeper.parts(Settings(models=()), "app"))
