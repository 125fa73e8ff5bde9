"""A process that dies takes no request with it that had not begun to answer."""

from __future__ import annotations

import asyncio
import json

import httpx
import psutil
import pytest

from tests.e2e.serving import Serving, wait_for
from tests.e2e.test_residency import CHAT, body, chat

APPLICATIONS = ()


@pytest.fixture
def slow(serving: Serving) -> psutil.Process:
    """The one replica of the model `slow`, up."""
    chat(serving.url, "slow")
    wait_for("slow is up", lambda: serving.statuses()["slow"] == "running", 30)
    (replica,) = serving.replicas("main", "slow")
    return replica


async def test_request_that_had_not_begun_goes_to_another_replica(serving: Serving, slow: psutil.Process) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        request = asyncio.create_task(client.post(serving.url + CHAT, json=body("slow", tokens=60)))  # 3 s
        await asyncio.to_thread(wait_for, "the request runs", lambda: busy_connections(slow) > 0, 10)
        slow.kill()
        answer = await request
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "hello " * 60


async def test_stream_that_had_begun_ends_with_an_error_event(serving: Serving, slow: psutil.Process) -> None:
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", serving.url + CHAT, json=body("slow", tokens=400, stream=True)) as answer,
    ):
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        slow.kill()
        events = [line async for line in lines if line]
    assert "data: [DONE]" not in events
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "engine_failed")


def busy_connections(replica: psutil.Process) -> int:
    """Connections of the ingress on the replica's own port."""
    ports = {c.laddr.port for c in replica.net_connections("tcp") if c.status == "LISTEN" and c.laddr.ip == "127.0.0.1"}
    return sum(c.status == "ESTABLISHED" and c.laddr.port in ports for c in replica.net_connections("tcp"))
