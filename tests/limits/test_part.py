from __future__ import annotations

from typing import Any

import httpx

from deployments.config import Settings
from deployments.keeper import keeper
from deployments.limits.counts import Counts, Used, minute_of
from deployments.limits.part import PATH, LimitsPart


class Clock:
    now = 6000.0

    def __call__(self) -> float:
        return self.now


async def tell(part: LimitsPart, replica: str, used: dict[str, Any]) -> Any:
    transport = httpx.ASGITransport(keeper.app([part]))
    async with httpx.AsyncClient(transport=transport, base_url="http://keeper") as client:
        answer = await client.post(PATH, json={"replica": replica, "used": used})
    assert answer.status_code == 200
    return answer.json()["others"]


async def test_each_replica_is_told_the_sum_of_the_others() -> None:
    part = LimitsPart(Clock())
    assert await tell(part, "a", {"x": {"100": [1, 10]}}) == {}
    assert await tell(part, "b", {"x": {"100": [2, 20]}, "y": {"99": [5, 0]}}) == {"x": {"100": [1, 10]}}
    assert await tell(part, "c", {}) == {"x": {"100": [3, 30]}, "y": {"99": [5, 0]}}
    assert await tell(part, "a", {"x": {"100": [1, 10]}}) == {"x": {"100": [2, 20]}, "y": {"99": [5, 0]}}


async def test_report_that_comes_twice_counts_once() -> None:
    part = LimitsPart(Clock())
    for _ in range(2):
        await tell(part, "a", {"x": {"100": [3, 0]}})
    assert await tell(part, "b", {}) == {"x": {"100": [3, 0]}}


async def test_replica_that_is_gone_counts_for_as_long_as_the_window() -> None:
    clock = Clock()
    part = LimitsPart(clock)
    await tell(part, "gone", {"x": {"100": [3, 0]}})
    clock.now = 6119.0
    assert await tell(part, "b", {}) == {"x": {"100": [3, 0]}}
    clock.now = 6120.0
    assert await tell(part, "b", {}) == {}
    assert part._reports == {}


async def test_keeper_has_the_part() -> None:
    assert any(isinstance(part, LimitsPart) for part in keeper.parts(Settings(models=()), "app"))


def test_counts_survive_the_way_through_plain_data() -> None:
    counts = Counts()
    counts.add("x", 5, Used(1, 2))
    counts.add("x", 5, Used(1, 0))
    counts.add("y", 6, Used(tokens=7))
    again = Counts.of(counts.plain())
    assert (again.at("x", 5), again.at("y", 6), again.at("y", 5)) == (Used(2, 2), Used(0, 7), Used())
    again.forget_before(6)
    assert (again.at("x", 5), again.at("y", 6)) == (Used(), Used(0, 7))


def test_minutes_are_those_of_the_clock() -> None:
    assert [minute_of(t) for t in (0.0, 59.9, 60.0, 6000.0)] == [0, 0, 1, 100]
