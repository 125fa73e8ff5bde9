"""Members of a replica over a loader whose loads and unloads a test lets go one by one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.types import ASGIApp

from deployments import shelf
from deployments.errors import Capacity, EngineFailed, ModelLoadFailed, ModelLoading, ModelNotFound
from deployments.shelf import Shelf

LONG = 30.0
NAMES = "abcde"


class Loader:
    """Keeps what happened in order. Loads wait for `gate`; names in `broken` fail, names in `ill` are not well."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.up: set[str] = set()
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: set[str] = set()
        self.ill: set[str] = set()

    async def load(self, name: str) -> ASGIApp:
        self.happened.append(f"load {name}")
        self.up.add(name)
        self.most = max(self.most, len(self.up))
        await self.gate.wait()
        if name in self.broken:
            self.up.discard(name)
            raise ValueError(f"{name} has no weights")
        return _app

    async def unload(self, name: str) -> None:
        self.happened.append(f"unload {name}")
        await asyncio.sleep(0)
        self.up.discard(name)
        self.ill.discard(name)

    async def check(self, name: str) -> None:
        if name in self.ill:
            raise EngineFailed("its thread has ended")


async def _app(*_: Any) -> None:
    pass


class Told:
    """Serve's side of multiplexing: an LRU of names, as many as fit."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.names: list[str] = []

    async def __call__(self, name: str) -> bool:
        if name in self.names:
            self.names.remove(name)
        self.names = [*self.names, name][-self._capacity :]
        return True


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def told() -> Told:
    return Told(2)


def make(loader: Loader, told: Told, *, wait_s: float = LONG, turn_s: float = LONG, idle_s: float = math.inf) -> Shelf:
    return Shelf(loader, dict.fromkeys(NAMES, idle_s), 2, told, wait_s=wait_s, turn_s=turn_s)


async def ask(members: Shelf, *names: str) -> None:
    for name in names:
        async with members.use(name):
            pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.001)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def phase(members: Shelf, name: str) -> object:
    return members.shown().get(name, {}).get("phase", "")


async def test_member_is_loaded_once_for_all_who_ask(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    await asyncio.gather(*(ask(members, "a") for _ in range(20)))
    assert loader.happened == ["load a"]


async def test_least_recently_used_member_makes_room(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    await ask(members, "a", "b", "a", "c")
    assert loader.happened == ["load a", "load b", "unload b", "load c"]
    assert loader.most == 2


async def test_member_with_unfinished_requests_is_not_unloaded_though_it_was_used_least_recently(
    loader: Loader, told: Told
) -> None:
    members = make(loader, told)
    async with members.use("a"):
        await ask(members, "b", "c")
        assert loader.up == {"a", "c"}


async def test_newcomer_waits_until_one_of_the_busy_is_done(loader: Loader, told: Told, stack: AsyncExitStack) -> None:
    members = make(loader, told)
    await stack.enter_async_context(members.use("a"))
    async with members.use("b"):
        newcomer = asyncio.create_task(ask(members, "c"))
        await until(lambda: phase(members, "c") == "waiting")
        assert loader.up == {"a", "b"}
    await asyncio.wait_for(newcomer, 10)
    assert loader.up == {"a", "c"}


async def test_newcomer_that_waits_too_long_is_told_so_and_takes_nothing(
    loader: Loader, told: Told, stack: AsyncExitStack
) -> None:
    members = make(loader, told, wait_s=0.02)
    for name in "ab":
        await stack.enter_async_context(members.use(name))
    with pytest.raises(Capacity, match="all 2 places"):
        await ask(members, "c")
    await until(lambda: phase(members, "c") == "waiting")
    await stack.aclose()
    await until(lambda: phase(members, "c") == "")
    assert loader.up == {"a", "b"}


async def test_longest_loaded_gives_its_place_when_its_turn_is_over_and_finishes_first(
    loader: Loader, told: Told, stack: AsyncExitStack
) -> None:
    members = make(loader, told, turn_s=0.02)
    first = await stack.enter_async_context(AsyncExitStack())
    await first.enter_async_context(members.use("a"))
    await stack.enter_async_context(members.use("b"))
    newcomer = asyncio.create_task(ask(members, "c"))
    await until(lambda: phase(members, "a") == "leaving")
    late = asyncio.create_task(ask(members, "a"))  # its turn is over: it waits for the next
    await asyncio.sleep(0.01)
    assert loader.up == {"a", "b"}
    assert not newcomer.done()
    await first.aclose()
    await asyncio.wait_for(newcomer, 10)
    await asyncio.wait_for(late, 10)
    assert loader.happened == ["load a", "load b", "unload a", "load c", "unload c", "load a"]
    assert loader.most == 2


async def test_slow_load_is_told_and_goes_on(loader: Loader, told: Told) -> None:
    members = make(loader, told, wait_s=0.02)
    loader.gate.clear()
    with pytest.raises(ModelLoading):
        await ask(members, "a")
    loader.gate.set()
    await until(lambda: phase(members, "a") == "up")
    assert loader.happened == ["load a"]


async def test_client_that_leaves_does_not_end_the_load_of_the_others(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    loader.gate.clear()
    leaves, stays = (asyncio.create_task(ask(members, "a")) for _ in range(2))
    await until(lambda: loader.happened == ["load a"])
    leaves.cancel()
    await asyncio.wait({leaves})
    loader.gate.set()
    await asyncio.wait_for(stays, 10)
    assert loader.happened == ["load a"]


async def test_failed_load_says_why_at_once_until_its_back_off_is_over(
    loader: Loader, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = make(loader, told)
    loader.broken.add("a")
    for _ in range(2):
        with pytest.raises(ModelLoadFailed, match="'a' could not be loaded: ValueError: a has no weights"):
            await ask(members, "a")
    assert loader.happened == ["load a"]
    loader.broken.clear()
    monkeypatch.setattr(shelf, "BACK_OFF_S", 0.0)
    await ask(members, "a")
    assert phase(members, "a") == "up"


async def test_operator_does_not_wait_for_the_back_off(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    loader.broken.add("a")
    with pytest.raises(ModelLoadFailed):
        await members.load("a")
    loader.broken.clear()
    await members.load("a")
    assert loader.up == {"a"}


async def test_failure_leaves_the_others_and_its_place(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    loader.broken.add("b")
    await ask(members, "a")
    with pytest.raises(ModelLoadFailed):
        await ask(members, "b")
    await ask(members, "c")
    assert loader.up == {"a", "c"}


async def test_member_that_is_not_well_is_loaded_again(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    await ask(members, "a")
    loader.ill.add("a")
    await ask(members, "a")
    assert loader.happened == ["load a", "unload a", "load a"]


async def test_unload_waits_for_the_requests(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    async with members.use("a"):
        unload = asyncio.create_task(members.unload("a"))
        await until(lambda: phase(members, "a") == "leaving")
        assert loader.up == {"a"}
    await asyncio.wait_for(unload, 10)
    assert loader.up == set()
    await members.unload("a")  # once more is nothing
    assert loader.happened == ["load a", "unload a"]


async def test_unload_of_one_that_is_loading_waits_for_it(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    loader.gate.clear()
    request = asyncio.create_task(ask(members, "a"))
    await until(lambda: loader.happened == ["load a"])
    unload = asyncio.create_task(members.unload("a"))
    await asyncio.sleep(0)
    loader.gate.set()
    await asyncio.wait_for(asyncio.gather(request, unload), 10)
    assert loader.up == set()


async def test_idle_members_are_unloaded_after_their_time_and_busy_ones_stay(loader: Loader, told: Told) -> None:
    members = make(loader, told, idle_s=0)
    await ask(members, "a")
    async with members.use("b"):
        await members.unload_idle()
        assert loader.up == {"b"}


async def test_requests_own_idle_time_comes_first_and_ends_with_the_load(loader: Loader, told: Told) -> None:
    members = make(loader, told, idle_s=0)
    members.keep("a", -1)
    await ask(members, "a")
    await members.unload_idle()
    assert loader.up == {"a"}
    members.keep("a", 0)
    await members.unload_idle()
    assert loader.up == set()


async def test_serve_always_knows_what_is_loaded_after_a_stop_too(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    await ask(members, "a", "b")
    await members.unload("b")
    await ask(members, "c")
    assert set(told.names) == {"a", "c"}


async def test_clear_leaves_nothing(loader: Loader, told: Told, stack: AsyncExitStack) -> None:
    members = make(loader, told)
    await stack.enter_async_context(members.use("a"))
    await ask(members, "b")
    await members.clear()
    assert loader.up == set()


async def test_unknown_member_is_not_found(loader: Loader, told: Told) -> None:
    with pytest.raises(ModelNotFound):
        await ask(make(loader, told), "z")


async def test_what_is_shown_is_plain_data_of_those_that_were_asked_for(loader: Loader, told: Told) -> None:
    members = make(loader, told)
    async with members.use("a"):
        shown = members.shown()
        assert shown.keys() == {"a"}
        assert (shown["a"]["phase"], shown["a"]["running"], shown["a"]["waiting"]) == ("up", 1, 0)
    await asyncio.wait_for(members.changed(), 10)


async def test_random_load_never_exceeds_the_capacity_nor_loses_a_request(loader: Loader, told: Told) -> None:
    members = make(loader, told, turn_s=0.005)

    async def client(seed: int) -> None:
        for i in range(12):
            name = NAMES[(seed * 7 + i * 3) % len(NAMES)]
            async with members.use(name):
                assert name in loader.up
                await asyncio.sleep(0.001 * (seed % 3))
                assert name in loader.up

    await asyncio.wait_for(asyncio.gather(*(client(seed) for seed in range(12))), 60)
    assert loader.most == 2
