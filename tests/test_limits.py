"""Limits of one ingress replica, and of several beside the keeper's part."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from starlette.types import Message

from deployments.errors import KeeperGone, RateLimited
from deployments.keeper import keeper
from deployments.keys import KeyConfig, hash_of
from deployments.limits.part import LimitsPart
from ingress.limits import Limits

TEN = KeyConfig(name="ten", key_hash=hash_of("ten"), requests_per_minute=10)
TOKENS = KeyConfig(name="tokens", key_hash=hash_of("tokens"), tokens_per_minute=1000)
FREE = KeyConfig(name="free", key_hash=hash_of("free"))


class Clock:
    now = 6000.0

    def __call__(self) -> float:
        return self.now


class Keeper:
    """The keeper's part, asked without a network."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.failure: Exception | None = None
        self.restart()

    def restart(self) -> None:
        transport = httpx.ASGITransport(keeper.app([LimitsPart(self.clock)]))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://keeper")

    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any:
        if self.failure:
            raise self.failure
        return (await self._client.post(path, json=data)).json()


class Replicas:
    def __init__(self, n: int) -> None:
        self.clock = Clock()
        self.keeper = Keeper(self.clock)
        self.all = [Limits(self.keeper, str(i), self.clock) for i in range(n)]

    async def exchange(self) -> None:
        for limits in self.all:
            await limits.exchange()


@pytest.fixture
def one() -> Replicas:
    return Replicas(1)


def admitted(limits: Limits, key: KeyConfig, tries: int) -> int:
    taken = 0
    for _ in range(tries):
        try:
            limits.admit(key)
        except RateLimited:
            continue
        taken += 1
    return taken


async def told(limits: Limits, key: KeyConfig) -> dict[str, str]:
    """What the start of an answer says beside its own."""
    seen: list[Message] = []

    async def send(message: Message) -> None:
        seen.append(message)

    telling = limits.telling(key, send)
    await telling({"type": "http.response.start", "status": 200, "headers": [(b"own", b"1")]})
    await telling({"type": "http.response.body", "body": b"x"})
    assert seen[1] == {"type": "http.response.body", "body": b"x"}
    headers = {name.decode(): value.decode() for name, value in seen[0]["headers"]}
    assert headers.pop("own") == "1"
    return {name.removeprefix("x-ratelimit-"): value for name, value in headers.items()}


def test_requests_above_the_limit_are_refused_until_the_window_has_moved_on(one: Replicas) -> None:
    (limits,) = one.all
    assert admitted(limits, TEN, 15) == 10
    with pytest.raises(RateLimited) as refused:
        limits.admit(TEN)
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    wait_s = int(refused.value.headers()["retry-after"])
    one.clock.now += wait_s - 2
    assert admitted(limits, TEN, 1) == 0
    one.clock.now += 3
    assert admitted(limits, TEN, 1) == 1


def test_refused_requests_do_not_count(one: Replicas) -> None:
    (limits,) = one.all
    admitted(limits, TEN, 1000)
    one.clock.now += 90
    assert admitted(limits, TEN, 1000) == 5


def test_answer_may_overdraw_the_tokens_once(one: Replicas) -> None:
    (limits,) = one.all
    limits.admit(TOKENS)
    limits.spent(TOKENS, 999)
    limits.admit(TOKENS)
    limits.spent(TOKENS, 501)
    with pytest.raises(RateLimited, match="1000 tokens") as refused:
        limits.admit(TOKENS)
    assert refused.value.retry_after_s == 80  # 60 s, and a third of the next minute


def test_key_without_limits_is_never_refused(one: Replicas) -> None:
    limits = one.all[0]
    limits.spent(FREE, 10**9)
    limits.spent(None, 10**9)
    assert admitted(limits, FREE, 1000) == 1000


async def test_answers_tell_what_is_left(one: Replicas) -> None:
    limits = one.all[0]
    both = KeyConfig(name="b", key_hash=hash_of("b"), requests_per_minute=10, tokens_per_minute=1000)
    limits.admit(both)
    limits.spent(both, 250)
    one.clock.now += 15
    assert await told(limits, both) == {
        "limit-requests": "10",
        "remaining-requests": "9",
        "reset-requests": "1m45s",
        "limit-tokens": "1000",
        "remaining-tokens": "750",
        "reset-tokens": "1m45s",
    }
    one.clock.now += 200
    assert (await told(limits, TEN))["reset-requests"] == "0s"
    assert await told(limits, FREE) == {}


async def test_limit_holds_over_several_replicas() -> None:
    """What comes between two exchanges may get through at each of them, and no more."""
    replicas = Replicas(3)
    assert sum(admitted(limits, TEN, 2) for limits in replicas.all) == 6
    await replicas.exchange()
    await replicas.exchange()
    assert [admitted(limits, TEN, 100) for limits in replicas.all] == [4, 4, 4]
    await replicas.exchange()
    await replicas.exchange()
    assert [admitted(limits, TEN, 100) for limits in replicas.all] == [0, 0, 0]


async def test_tokens_that_are_spent_elsewhere_count() -> None:
    replicas = Replicas(2)
    replicas.all[0].spent(TOKENS, 1000)
    await replicas.exchange()
    assert admitted(replicas.all[1], TOKENS, 1) == 0


async def test_replica_that_comes_new_knows_what_was_used_before_it() -> None:
    replicas = Replicas(1)
    admitted(replicas.all[0], TEN, 10)
    await replicas.exchange()
    new = Limits(replicas.keeper, "new", replicas.clock)
    await new.exchange()
    assert admitted(new, TEN, 1) == 0


@pytest.mark.parametrize("failure", [KeeperGone("away"), RuntimeError("Ray's store is away")])
async def test_replicas_go_on_without_the_keeper_and_agree_when_it_is_back(
    caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    replicas = Replicas(2)
    replicas.keeper.failure = failure
    for _ in range(3):
        await replicas.exchange()
    assert caplog.text.count("counted by this replica alone") == 2
    assert [admitted(limits, TEN, 6) for limits in replicas.all] == [6, 6]
    replicas.keeper.failure = None
    replicas.keeper.restart()
    await replicas.exchange()
    await replicas.exchange()
    assert [admitted(limits, TEN, 1) for limits in replicas.all] == [0, 0]


async def test_replica_tells_the_keeper_by_itself() -> None:
    replicas = Replicas(2)
    tasks = [asyncio.create_task(limits.run()) for limits in replicas.all]
    admitted(replicas.all[0], TEN, 10)
    deadline = time.monotonic() + 5
    while (await told(replicas.all[1], TEN))["remaining-requests"] != "0":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
