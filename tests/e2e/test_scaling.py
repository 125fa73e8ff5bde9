"""Replicas that follow the load, spread over nodes and kept for sessions. Real Serve, echo engine."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import Any

import httpx

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("scale",)

CHAT = "/v1/chat/completions"


def body(model: str, tokens: int = 5, **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "hello"}], **more}


def model(url: str, name: str) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(f"{url}/api/models/{name}", timeout=30).json()["model"]
    return told


async def stream(client: httpx.AsyncClient, url: str, name: str, tokens: int) -> int:
    """Words of a whole stream."""
    return (await text(client, url, name, tokens)).count('"content": "hello "')


async def text(client: httpx.AsyncClient, url: str, name: str, tokens: int, **said: str) -> str:
    """A whole stream. said: in the body, or as a header that begins with x-."""
    headers = {key: value for key, value in said.items() if key.startswith("x-")}
    more = {key: value for key, value in said.items() if key not in headers}
    asked = body(name, tokens, stream=True, **more)
    async with client.stream("POST", url + CHAT, json=asked, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        whole = (await answer.aread()).decode()
    assert whole.endswith("data: [DONE]\n\n")
    return whole


async def test_load_brings_a_second_replica_and_its_end_takes_it_back_without_cutting_an_answer(
    serving: Serving,
) -> None:
    url = f"{serving.url}/scale"

    def replicas() -> int:
        return len(serving.replicas("scale", "grows"))

    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
        await stream(client, url, "grows", 5)
        assert replicas() == 1
        two = asyncio.Event()

        async def keep_asking() -> None:
            while not two.is_set():
                assert await stream(client, url, "grows", 100) == 100

        clients = [asyncio.create_task(keep_asking()) for _ in range(64)]  # twice the target of one replica
        began = time.monotonic()
        await asyncio.to_thread(wait_for, "two replicas are up", lambda: model(url, "grows")["replicas"] == 2, 60)
        print(f"1 -> 2 replicas after {time.monotonic() - began:.1f} s")
        long = asyncio.create_task(stream(client, url, "grows", 1500))  # 30 s: it outlasts the second replica
        two.set()
        await asyncio.gather(*clients)
        await asyncio.to_thread(wait_for, "one replica is left", lambda: model(url, "grows")["replicas"] == 1, 30)
        assert not long.done()
        assert await long == 1500
    await asyncio.to_thread(wait_for, "none is left when idle", lambda: replicas() == 0, 30)


async def test_requests_spread_over_the_replicas(serving: Serving) -> None:
    assert min(await shares(serving, "twins", [{} for _ in range(24)])) >= 6


async def test_requests_of_a_session_go_to_one_replica(serving: Serving) -> None:
    for said in ("x-session-id", "user", "prompt_cache_key"):
        session = {said: f"session of {said}"}
        assert sorted(await shares(serving, "sticky", [session] * 8)) == [0, 8], said


async def test_sessions_spread_over_the_replicas(serving: Serving) -> None:
    assert min(await shares(serving, "sticky", [{"user": f"user {i}"} for i in range(32)])) >= 4


async def shares(serving: Serving, name: str, asked: list[dict[str, str]]) -> list[int]:
    """How many of the streams, which run at the same time, each replica writes."""
    url = f"{serving.url}/scale"
    await asyncio.to_thread(wait_for, "both replicas", lambda: model(url, name)["replicas"] == 2, 60)
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=50)) as client:
        texts = await asyncio.gather(*(text(client, url, name, 20, **said) for said in asked))
    writers = Counter(re.findall("fp_echo_[0-9]+", text)[0] for text in texts)
    return [*writers.values(), 0][:2]
