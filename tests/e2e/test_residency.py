"""Which models are up, seen from outside: real Serve, real policy, the echo engine."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import httpx
import pytest

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("swap", "turns", "six", "memory", "careless")

CHAT = "/v1/chat/completions"


def body(model: str, *, tokens: int = 5, stream: bool = False) -> dict[str, object]:
    return {
        "model": model,
        "max_tokens": tokens,
        "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
    }


def chat(url: str, model: str) -> str:
    answer = httpx.post(url + CHAT, json=body(model), timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


async def stream(client: httpx.AsyncClient, url: str, model: str, tokens: int) -> int:
    """Number of `hello`s in a whole stream."""
    async with client.stream("POST", url + CHAT, json=body(model, tokens=tokens, stream=True)) as answer:
        assert answer.status_code == 200, await answer.aread()
        text = (await answer.aread()).decode()
    assert text.endswith("data: [DONE]\n\n")
    return text.count('"content": "hello "')


def running(serving: Serving, prefix: str) -> set[str]:
    return {name for name, status in serving.statuses(prefix).items() if status == "running"}


def test_three_models_under_a_cap_of_two_one_after_the_other(serving: Serving) -> None:
    url = f"{serving.url}/swap"
    for model in ["a", "b", "c", "a"]:
        assert chat(url, model) == "hello " * 5
        assert len(running(serving, "/swap")) <= 2
    assert wait_for("b is evicted, the least recently used", lambda: running(serving, "/swap") == {"a", "c"}, 10)


async def test_three_models_under_a_cap_of_two_mixed(serving: Serving) -> None:
    url = f"{serving.url}/swap"
    order = [*"abc" * 8]
    random.Random(1).shuffle(order)
    async with httpx.AsyncClient(timeout=120) as client:
        gate = asyncio.Semaphore(6)

        async def one(i: int, model: str) -> None:
            async with gate:
                if i % 2:
                    assert await stream(client, url, model, 10) == 10
                else:
                    answer = await client.post(url + CHAT, json=body(model, tokens=10))
                    assert answer.json()["choices"][0]["message"]["content"] == "hello " * 10

        await asyncio.gather(*(one(i, model) for i, model in enumerate(order)))


async def test_many_waiters_share_one_start(serving: Serving) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        answers = await asyncio.gather(*(client.post(serving.url + CHAT, json=body("org/echo")) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(serving.replicas("main", "org--echo")) == 1


async def test_busy_model_is_not_evicted(serving: Serving) -> None:
    url = f"{serving.url}/swap"
    for model in ["a", "b"]:
        chat(url, model)
    async with httpx.AsyncClient(timeout=60) as client:
        request = body("a", tokens=300, stream=True)  # six seconds
        async with client.stream("POST", url + CHAT, json=request) as answer:
            lines = answer.aiter_lines()
            for _ in range(100):  # long enough for the policy to know
                assert await anext(lines) != "data: [DONE]"
            assert (await client.post(url + CHAT, json=body("b"))).status_code == 200
            assert (await client.post(url + CHAT, json=body("c"))).status_code == 200
            # b had to go, though a was asked before it.
            assert running(serving, "/swap") == {"a", "c"}
            assert [line async for line in lines if line][-1] == "data: [DONE]"


async def test_two_models_with_steady_traffic_take_turns_at_a_cap_of_one(serving: Serving) -> None:
    """Without turns the second one would never be loaded. No stream is cut for a turn."""
    url = f"{serving.url}/turns"
    served = {"x": 0, "y": 0}
    worst_s = 0.0

    async def steady(client: httpx.AsyncClient, model: str) -> None:
        nonlocal worst_s
        while min(served.values()) < 4:
            started = time.monotonic()
            assert await stream(client, url, model, 20) == 20  # one second
            worst_s = max(worst_s, time.monotonic() - started)
            served[model] += 1

    async with httpx.AsyncClient(timeout=120) as client, asyncio.timeout(120):
        await asyncio.gather(*(steady(client, model) for model in "xyxy"))
    assert worst_s < 30


@pytest.mark.timeout(900)  # about 130 swaps
async def test_120_random_requests_for_six_models_at_a_cap_of_two(serving: Serving) -> None:
    """None fails, none is cut, and never are there processes of more than two models."""
    url = f"{serving.url}/six"
    chance = random.Random(20_261_122)
    gate = asyncio.Semaphore(8)
    done = threading.Event()
    most = 0

    async def one(client: httpx.AsyncClient, model: str, streamed: bool, tokens: int) -> None:
        async with gate:
            if streamed:
                assert await stream(client, url, model, tokens) == tokens
                return
            answer = await client.post(url + CHAT, json=body(model, tokens=tokens))
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == "hello " * tokens

    def look() -> None:
        nonlocal most
        while not done.wait(0.25):
            most = max(most, len(serving.models_with_processes("six")))

    async with httpx.AsyncClient(timeout=300) as client:
        looking = asyncio.create_task(asyncio.to_thread(look))
        try:
            requests = [(f"m{chance.randrange(6)}", chance.random() < 0.5, chance.randint(1, 200)) for _ in range(120)]
            await asyncio.gather(*(one(client, *request) for request in requests))
        finally:
            done.set()
            await looking
    assert most == 2


def test_memory_decides_who_is_up_before_the_cap_does(serving: Serving) -> None:
    url = f"{serving.url}/memory"
    chat(url, "big")
    chat(url, "small")
    assert running(serving, "/memory") == {"big", "small"}, "900 of 1,000 MB"
    chat(url, "large")
    assert running(serving, "/memory") == {"large", "small"}, "big had to go, small would not have been enough"


def test_model_that_fits_beside_the_others_waits_for_nobody(serving: Serving) -> None:
    url = f"{serving.url}/swap"
    chat(url, "a")
    wait_for("a place is free", lambda: len(running(serving, "/swap")) <= 2, 5)
    chat(url, "b")
    wait_for("both are up", lambda: running(serving, "/swap") == {"a", "b"}, 10)


def test_swap_takes_a_process_that_was_ready_before(serving: Serving) -> None:
    """Where Ray has one: a replica that has come up lets it start one. Others here may be faster to take it."""
    url = f"{serving.url}/turns"
    for model in "xyxy":
        chat(url, model)
        wait_for("a process is ready", lambda: serving.idle_warm_processes("echo"), 120)
        asked = time.time()
        other = "y" if model == "x" else "x"
        chat(url, other)
        (process,) = serving.replicas("turns", other)
        if process.create_time() < asked:
            return
    pytest.fail("each swap started a process of its own")


def test_unloaded_model_gives_its_memory_back(serving: Serving) -> None:
    """The real engine's, seen over all processes of the server."""
    api = f"{serving.url}/api/models/smollm2-135m"

    def used_mb() -> float:
        return serving.memory_mb()

    def cycle(what: str) -> None:
        assert httpx.post(f"{api}/{what}", timeout=120).status_code == 200

    cycle("stop")
    cycle("start")  # the process that was ready may have been taken
    wait_for("a process is ready", lambda: serving.idle_warm_processes("mlx"), 120)
    cycle("stop")
    before = used_mb()
    cycle("start")
    chat(serving.url, "smollm2-135m")
    wait_for("a process is ready", lambda: serving.idle_warm_processes("mlx"), 120)
    loaded = used_mb()
    assert loaded > before + 100, "98 MB of weights, and a cache"
    cycle("stop")
    assert serving.replicas("main", "smollm2-135m") == []
    assert used_mb() < before + 0.2 * (loaded - before)


async def test_evicted_model_finishes_its_stream(serving: Serving) -> None:
    """The policy here evicts busy models: Serve must drain them, since the ingress holds a slot."""
    url = f"{serving.url}/careless"
    async with httpx.AsyncClient(timeout=60) as client:
        chat(url, "x")
        long = asyncio.create_task(stream(client, url, "x", 400))
        await asyncio.sleep(0)
        answer = await client.post(url + CHAT, json=body("y"))
        assert answer.status_code == 200
        assert not long.done()
        assert serving.statuses("/careless")["x"] != "running"
        assert await long == 400


def test_idle_model_is_unloaded(serving: Serving) -> None:
    chat(serving.url, "idle")
    assert serving.statuses()["idle"] == "running"
    wait_for("idle is unloaded", lambda: serving.statuses()["idle"] == "stopped", 20)


@pytest.mark.parametrize("streamed", [True, False])
def test_client_that_hangs_up_stops_the_engine(serving: Serving, streamed: bool) -> None:
    """The answer would take 500 s; a model with an unfinished request is never unloaded."""
    request = body("idle", tokens=10_000, stream=streamed)
    started = time.monotonic()
    with httpx.Client(timeout=60) as client:
        if streamed:
            with client.stream("POST", serving.url + CHAT, json=request) as answer:
                lines = answer.iter_lines()  # kept: httpx hangs up when nobody holds it
                assert next(lines).startswith("data: ")
                wait_for("idle is up", lambda: serving.statuses()["idle"] == "running", 10)
        else:
            chat(serving.url, "idle")
            with pytest.raises(httpx.ReadTimeout):
                client.post(serving.url + CHAT, json=request, timeout=2)
    wait_for("idle is unloaded", lambda: serving.statuses()["idle"] == "stopped", 20)
    wait_for("its slot was given back", lambda: not serving.replicas("main", "idle"), 5)
    assert time.monotonic() - started < 300
