"""What an ingress replica tells the keeper of its requests, and makes of what that says."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import pytest

from deployments.activity import wire
from deployments.errors import KeeperGone, RequestNotFound
from ingress import activity as module
from ingress.activity import RECENT, Activity
from ingress.running import Running
from tests.test_outbox import record
from tests.test_running import begin, works


class Keeper:
    """Answers with what it was told to say; exchanges it answers as often as `exchanges` has answers."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {
            wire.REQUESTS: {"running": [], "tokens_per_second": {}},
            RECENT: {"rows": []},
            wire.CANCEL: {"found": False},
        }
        self.exchanges: list[Any] = []
        self.asked: list[tuple[str, Any]] = []
        self.done = asyncio.Event()

    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any:
        self.asked.append((path, data))
        if path != wire.EXCHANGE:
            return self.says[path]
        if not self.exchanges:
            self.done.set()
            await asyncio.Event().wait()
        answer = self.exchanges.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
def activity(running: Running, keeper: Keeper) -> Activity:
    return Activity(running, keeper, "r1")


def shown(id_: str, model: str = "a", began_at: float = 1.0, total_ms: float = 10.0) -> dict[str, Any]:
    return {"id": id_, "model": model, "began_at": began_at, "total_ms": total_ms}


async def test_own_requests_are_as_of_now_and_the_oldest_comes_first(
    activity: Activity, running: Running, keeper: Keeper
) -> None:
    own = begin(running)
    keeper.says[wire.REQUESTS] = {"running": [shown("x"), shown("y", began_at=4e9)], "tokens_per_second": {"a": 3.0}}
    told = await activity.requests(10)
    assert [one["id"] for one in told["running"]] == ["x", own.id, "y"]
    assert told["tokens_per_second"] == {"a": 3.0}


async def test_last_ones_are_the_keepers_and_those_that_are_on_their_way_to_it(
    activity: Activity, running: Running, keeper: Keeper
) -> None:
    begin(running).ended(200)
    keeper.says[RECENT] = {"rows": [asdict(record("1", time=5.0)), asdict(record("2", time=9.0))]}
    told = await activity.requests(2)
    assert [one["request_id"] for one in told["recent"]] == ["id-7", "id-7"]
    assert [one["id"] for one in told["recent"]][1] == "2", "the newest come first"
    assert keeper.asked[1] == (RECENT, {"limit": 2, "models": None})


async def test_request_that_has_just_ended_is_not_shown_twice(activity: Activity, keeper: Keeper) -> None:
    keeper.says[wire.REQUESTS] = {"running": [shown("1")], "tokens_per_second": {}}
    keeper.says[RECENT] = {"rows": [asdict(record("1"))]}
    told = await activity.requests(10)
    assert (told["running"], [one["id"] for one in told["recent"]]) == ([], ["1"])


async def test_who_sees_some_models_sees_their_requests_only(
    activity: Activity, running: Running, keeper: Keeper
) -> None:
    accounts = [begin(running, model=model) for model in "ab"]
    begin(running, model="b").ended(200)
    keeper.says[wire.REQUESTS] = {
        "running": [shown("x", "b"), shown("y", "")],
        "tokens_per_second": {"a": 1.0, "b": 2.0},
    }
    told = await activity.requests(10, {"a"})
    assert [one["id"] for one in told["running"]] == [accounts[0].id]
    assert (told["recent"], told["tokens_per_second"]) == ([], {"a": 1.0})
    assert keeper.asked[1] == (RECENT, {"limit": 10, "models": ["a"]})


async def test_own_request_is_cancelled_without_the_keeper(
    activity: Activity, running: Running, keeper: Keeper
) -> None:
    working = asyncio.create_task(works(begin(running)))
    await activity.cancel("id-7")
    await working
    assert keeper.asked == []


async def test_request_of_another_replica_is_cancelled_by_the_keeper(activity: Activity, keeper: Keeper) -> None:
    keeper.says[wire.CANCEL] = {"found": True}
    await activity.cancel("x", {"b", "a"})
    assert keeper.asked == [(wire.CANCEL, {"replica": "r1", "id": "x", "models": ["a", "b"]})]


async def test_request_that_nobody_has_is_not_found(activity: Activity) -> None:
    with pytest.raises(RequestNotFound):
        await activity.cancel("x")


async def test_requests_are_told_to_who_looks_and_else_only_counted(
    activity: Activity, running: Running, keeper: Keeper
) -> None:
    own = begin(running)
    keeper.exchanges = [{"look": True, "cancel": []}, {"look": False, "cancel": []}, KeeperGone("done")]
    await activity.exchange()
    await activity.exchange()
    with pytest.raises(KeeperGone):
        await activity.exchange()
    told = [data["running"] for _, data in keeper.asked]
    assert [rows and [one["id"] for one in rows] for rows in told] == [None, [own.id], None]


async def test_order_is_done_and_its_outcome_told(activity: Activity, running: Running, keeper: Keeper) -> None:
    working = asyncio.create_task(works(begin(running)))
    orders = [{"number": "1", "id": "id-7", "models": None}, {"number": "2", "id": "x", "models": None}]
    keeper.exchanges = [{"look": False, "cancel": orders}, KeeperGone("done")]
    await activity.exchange()
    await working
    with pytest.raises(KeeperGone):
        await activity.exchange()
    assert keeper.asked[1][1]["cancelled"] == {"1": True, "2": False}


async def test_replica_goes_on_when_the_keeper_was_away(
    activity: Activity, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    keeper.exchanges = [KeeperGone("away"), {"look": False, "cancel": []}]
    activity.start()
    await asyncio.wait_for(keeper.done.wait(), 10)
    activity.stop()
    assert len(keeper.asked) == 3
