"""What every replica does, without Serve around it: a real server on the loopback, a board in memory."""

from __future__ import annotations

import asyncio
import math
import time
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments import memory
from deployments.engines import EngineSpec
from deployments.engines.echo import EchoEngine
from deployments.errors import EngineFailed, ModelNotFound
from deployments.logs.shipper import Shipper
from deployments.residency import policy
from deployments.residency.board import Board, Report, Row, Table, encode
from deployments.server import KEEP_ALIVE_HEADER, MEMBER_HEADER, SECRET_HEADER, Guard
from deployments.shelf import Shelf
from tests.residency.store import Memory
from tests.test_shelf import Loader

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from deployments import replica
    from deployments.replica import LOOPBACK, Replica


class Mute(Shipper):
    def __init__(self) -> None:
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


class Echo(Replica):
    """One echo engine, with two members beside it if there is a loader. What Serve and Ray would tell it is given."""

    def __init__(self, store: Memory, loader: Loader | None = None) -> None:
        self._cache_dir = Path("/nowhere")
        self._started = time.monotonic()
        self._host = LOOPBACK
        self._board = Board("app", store)
        self._report = Report("org--a", "r1", "n1", deployment="org--a~1")
        self._tasks = []
        self._stopping = False
        self._members = None
        self._loader = loader
        self._shipper = Mute()
        self.engine = EchoEngine(EngineSpec(("org/a",)))
        self.failure: Exception | None = None
        self.ill: EngineFailed | None = None
        self.unloads = 0
        self.kept: list[float] = []
        self.ended = False

    async def _load(self) -> None:
        await self._say("loading")
        if self.failure:
            raise self.failure
        self._meter = memory.Meter(lambda: 0.0)
        if self._loader is not None:
            self._members = Shelf(self._loader, {"a": math.inf, "b": 0}, 2, _announce, wait_s=30, turn_s=30)
        self._guard = Guard(self.engine.app, self.engine.check_health, self._members)

    async def _check_engine(self) -> None:
        if self.ill:
            raise self.ill

    async def _unload(self) -> None:
        self.unloads += 1

    def _keep_sizes(self, load_s: float) -> None:
        self.kept.append(load_s)

    def _end(self) -> None:
        self.ended = True

    @property
    def _context_length(self) -> int:
        return 2048


async def _announce(name: str) -> None:
    pass


@pytest.fixture
def store() -> Memory:
    return Memory()


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
async def served(store: Memory, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Echo]:
    """A replica that is up, with members; what happens inside is told and swept at once."""
    monkeypatch.setattr(replica, "TELL_S", 0.0)
    monkeypatch.setattr(replica, "SWEEP_S", 0.001)
    echo = Echo(store, loader)
    await echo.start()
    yield echo
    await echo.stop()


def told(store: Memory) -> Report:
    (report,) = Board("app", store).reports()
    return report


def phase(store: Memory, member: str) -> str:
    found: str = told(store).members.get(member, {}).get("phase", "")
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.001)


async def ask(echo: Echo, **headers: str) -> httpx.Response:
    where = echo.record_replica_metadata()
    headers = {SECRET_HEADER.decode(): where["secret"], **headers}
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"http://{where['host']}:{where['port']}/v1/completions"
        return await client.post(url, json={"model": "org/a", "prompt": "hello", "max_tokens": 1}, headers=headers)


async def test_replica_that_is_up_says_so_and_answers_those_it_gave_its_secret(store: Memory) -> None:
    echo = Echo(store)
    await echo.start()
    report = told(store)
    assert (report.model, report.deployment, report.phase, report.context_length) == ("org--a", "org--a~1", "up", 2048)
    assert await echo.wake()
    await echo.check_health()
    assert (await ask(echo)).json()["choices"][0]["text"] == "hello "
    assert (await ask(echo, **{SECRET_HEADER.decode(): "guessed"})).status_code == 401
    await echo.stop()


async def test_replica_that_fails_leaves_its_last_words_and_gives_back_what_it_had(store: Memory) -> None:
    echo = Echo(store)
    echo.failure = ValueError("no weights")
    with pytest.raises(ValueError, match="no weights"):
        await echo.start()
    assert (told(store).phase, told(store).failure) == ("failed", "ValueError: no weights")
    await echo.stop()
    assert (echo.unloads, echo.kept) == (1, [])


async def test_load_that_is_ended_by_a_stop_is_no_failure(store: Memory) -> None:
    echo = Echo(store)
    echo.failure = EngineFailed("The engine was stopped while it started.")
    await echo.stop()
    with pytest.raises(EngineFailed):
        await echo.start()
    assert (told(store).phase, told(store).failure) == ("loading", None)


async def test_replica_without_a_port_gives_back_what_it_had(store: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(_: Any) -> None:
        raise RuntimeError("the replica's HTTP server ended before it began")

    monkeypatch.setattr("deployments.server.Server.start", start)
    echo = Echo(store)
    with pytest.raises(RuntimeError, match="ended before it began"):
        await echo.start()
    await echo.stop()
    assert echo.unloads == 1


async def test_report_that_cannot_be_left_is_not_worth_the_model(store: Memory) -> None:
    store.fails = True
    echo = Echo(store)
    await echo.start()
    await echo.check_health()
    await echo.stop()


async def test_sizes_are_kept_when_it_is_up_and_when_it_ends(store: Memory) -> None:
    echo = Echo(store)
    await echo.start()
    assert len(echo.kept) == 1
    await echo.stop()
    assert len(echo.kept) == 2
    assert echo.kept[0] == echo.kept[1] > 0


async def test_replica_whose_server_or_engine_has_ended_is_not_well(store: Memory) -> None:
    echo = Echo(store)
    await echo.start()
    echo.ill = EngineFailed("its thread has ended")
    with pytest.raises(EngineFailed, match="its thread has ended"):
        await echo.check_health()
    await echo.stop()
    with pytest.raises(EngineFailed, match="HTTP server has ended"):
        await echo.check_health()


async def test_policy_is_told_of_unfinished_requests_memory_and_keep_alive(store: Memory) -> None:
    echo = Echo(store)
    await echo.start()
    await ask(echo, **{KEEP_ALIVE_HEADER.decode(): "300"})
    stats = echo.record_autoscaling_stats()
    assert (stats[policy.UNFINISHED], stats[policy.KEEP_ALIVE]) == (0, 300)
    assert stats[policy.MEMORY] > 0
    assert stats[policy.NODE_TOTAL] >= stats[policy.NODE_FREE] > 0
    assert all(isinstance(value, float) for value in stats.values())
    await echo.stop()


# Slots that nobody gives back -----------------------------------------------------------------------------------------


def decided(store: Memory, replicas: int) -> None:
    Board("app", store).publish(encode(Table(rows={"org--a": Row(replicas=replicas, reason="why")})))


@pytest.fixture
async def lonely(store: Memory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Echo]:
    """A replica that looks all the time whether it is to go."""
    monkeypatch.setattr(replica, "LEAVE_S", 0.001)
    echo = Echo(store)
    await echo.start()
    echo._checked_at = float("-inf")
    yield echo
    await echo.stop()


async def test_replica_that_serve_looks_after_does_not_even_ask(store: Memory, lonely: Echo) -> None:
    decided(store, 0)
    await lonely.check_health()
    assert lonely._checked_at > float("-inf")
    lonely._checked_at = float("inf")
    looks = store.gets
    await ask(lonely)
    assert (lonely.ended, store.gets) == (False, looks)


async def test_replica_that_is_to_go_and_has_nothing_to_do_ends_by_itself(store: Memory, lonely: Echo) -> None:
    decided(store, 0)
    await until(lambda: lonely.ended)
    assert lonely.unloads == 1


async def test_replica_that_is_wanted_or_of_which_nothing_is_known_stays(store: Memory, lonely: Echo) -> None:
    looks = store.gets
    await until(lambda: store.gets > looks + 10)
    decided(store, 1)
    looks = store.gets
    await until(lambda: store.gets > looks + 10)
    store.fails = True
    looks = store.gets
    await until(lambda: store.gets > looks + 10)
    assert not lonely.ended


async def test_replica_that_is_to_go_finishes_its_answers_first(store: Memory, lonely: Echo) -> None:
    lonely._guard.unfinished = 1
    decided(store, 0)
    assert (await ask(lonely)).status_code == 200, "with a place in the loop's turns for each look"
    looks = store.gets
    await ask(lonely)
    assert (lonely.ended, store.gets) == (False, looks), "it does not even ask"
    lonely._guard.unfinished = 0
    await until(lambda: lonely.ended)


# Members -------------------------------------------------------------------------------------------------------------


async def test_member_is_asked_by_its_header_and_what_happens_to_it_is_told(store: Memory, served: Echo) -> None:
    await ask(served, **{MEMBER_HEADER.decode(): "a"})
    await until(lambda: phase(store, "a") == "up")
    assert told(store).phase == "up"
    assert told(store).members.keys() == {"a"}


async def test_member_that_is_unloaded_is_told_to_be_gone_before_the_call_returns(store: Memory, served: Echo) -> None:
    await served.load("a")
    await until(lambda: phase(store, "a") == "up")
    await served.unload("a")
    assert phase(store, "a") == ""


async def test_idle_member_is_swept_out_and_others_stay(store: Memory, served: Echo, loader: Loader) -> None:
    await served.load("a")
    await served.load("b")
    await until(lambda: "unload b" in loader.happened and loader.up == {"a"})
    await until(lambda: (phase(store, "a"), phase(store, "b")) == ("up", ""))


async def test_unknown_member_is_not_found(served: Echo) -> None:
    for call in (served.load, served.unload):
        with pytest.raises(ModelNotFound):
            await call("z")
    assert (await ask(served, **{MEMBER_HEADER.decode(): "z"})).status_code == 404


async def test_replica_that_ends_unloads_its_members_and_tells_no_more(store: Memory, loader: Loader) -> None:
    echo = Echo(store, loader)
    await echo.start()
    await echo.load("a")
    await echo.stop()
    assert (loader.up, echo.unloads) == (set(), 1)
    await asyncio.sleep(0)
    assert all(task.done() for task in echo._tasks)


async def test_replica_without_members_has_none_to_load(store: Memory) -> None:
    echo = Echo(store)
    await echo.load("a")
    await echo.unload("a")
