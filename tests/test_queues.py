from __future__ import annotations

import asyncio

import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import QueueFull
from ingress.queues import Queue


class Gated(Response):
    """Begins to answer, and ends, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.end = asyncio.Event(), asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.begin.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.begun.set()
        await self.end.wait()
        await send({"type": "http.response.body", "body": b""})


async def nothing() -> Message:
    return {"type": "http.disconnect"}


async def nowhere(_: Message) -> None:
    pass


def sent(queue: Queue, response: Response) -> asyncio.Task[None]:
    return asyncio.create_task(queue.bounded(response)({}, nothing, nowhere))


async def test_request_above_the_bound_is_refused_until_an_answer_begins() -> None:
    queue, first, second = Queue("a", 1), Gated(), Gated()
    running = sent(queue, first)
    with pytest.raises(QueueFull) as full:
        await asyncio.gather(sent(queue, second))
    assert (full.value.status, full.value.code, full.value.headers()) == (429, "queue_full", {"retry-after": "2"})
    first.begin.set()
    await first.begun.wait()
    assert queue.waiting == 0
    waiting = sent(queue, second)
    await asyncio.sleep(0)
    assert queue.waiting == 1
    for response in (first, second):
        response.begin.set()
        response.end.set()
    await asyncio.gather(running, waiting)
    assert queue.waiting == 0


async def test_request_that_is_given_up_waits_no_more() -> None:
    queue = Queue("a", 1)
    running = sent(queue, Gated())
    await asyncio.sleep(0)
    assert queue.waiting == 1
    running.cancel()
    await asyncio.wait({running})
    assert queue.waiting == 0


async def test_queue_without_a_bound_takes_all() -> None:
    queue = Queue("a", None)
    running = [sent(queue, Gated()) for _ in range(50)]
    await asyncio.sleep(0)
    assert queue.waiting == 50
    for task in running:
        task.cancel()
    await asyncio.wait(running)
