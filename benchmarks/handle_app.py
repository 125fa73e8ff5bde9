"""The usual Ray Serve way to stream, for comparison: the ingress calls the model through its handle, and each chunk
travels through Ray. The chunks are the echo engine's, recorded once, so that the model itself costs next to nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from ray import serve
from ray.serve import Application

from benchmarks.load import PATH, request_body
from deployments.engines import EngineSpec
from deployments.engines.echo import EchoEngine

TOKENS = 128
MANY = 1000  # requests at once: no server in the benchmark queues
ACTOR = {"num_cpus": 0.1}

api = FastAPI()


class Model:
    async def __init__(self, name: str, interval_ms: float) -> None:  # type: ignore[misc]
        self._interval_s = interval_ms / 1000
        self._events = await _recorded(name)

    async def stream(self, tokens: int) -> AsyncIterator[bytes]:
        role, *words, finish, done = self._events
        yield role
        due = time.monotonic()
        for word in words[:tokens]:
            due += self._interval_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            yield word
        yield finish
        yield done


@serve.ingress(api)
class Ingress:
    def __init__(self, models: dict[str, Any]) -> None:
        self._models = {name: handle.options(stream=True) for name, handle in models.items()}

    @api.post(PATH)
    async def chat(self, request: Request) -> StreamingResponse:
        body = await request.json()
        chunks = self._models[body["model"]].stream.remote(body["max_tokens"])
        return StreamingResponse(chunks, media_type="text/event-stream")


def build(args: dict[str, Any]) -> Application:
    """args: `models`, the interval in ms of each by its name."""
    model = serve.deployment(Model).options(ray_actor_options=ACTOR, max_ongoing_requests=MANY)
    ingress = serve.deployment(Ingress).options(ray_actor_options=ACTOR, max_ongoing_requests=MANY)
    return ingress.bind({name: model.options(name=name).bind(name, ms) for name, ms in args["models"].items()})


async def _recorded(name: str) -> list[bytes]:
    engine = EchoEngine(EngineSpec((name,)))
    transport = httpx.ASGITransport(engine.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        answer = await client.post(PATH, json=request_body(name, TOKENS, stream=True))
    return [event + b"\n\n" for event in answer.content.split(b"\n\n") if event]
