"""The ingress between a client and a cache that is in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message

from deployments.cache.client import CacheClient, Flight, Hit
from deployments.cache.settings import CacheSettings
from deployments.config import ModelConfig
from deployments.errors import ModelNotRunning, UpstreamTimeout
from ingress import cache
from ingress.cache import Cache
from ingress.catalog import Catalog, Entry

CHAT = "/v1/chat/completions"
ZERO = {"model": "m", "temperature": 0}
ON = CacheSettings(enabled=True, ttl_s=10)
SSE = {"x-accel-buffering": "no"}


class Right(Flight):
    def __init__(self) -> None:
        self.id = "right"
        self.dropped = 0

    def drop(self) -> None:
        self.dropped += 1


class Fake(CacheClient):
    """Has what was stored. away: answers nothing; late: lets who asks wait for too long; hangs: for ever."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[Hit, float]] = {}
        self.right: Right | None = None
        self.away = self.late = self.hangs = False

    async def find(self, key: str, model: str, wait_s: float) -> Hit | Flight | None:
        if self.late:
            raise TimeoutError
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            return None
        if key in self.stored:
            return self.stored[key][0]
        self.right = Right()
        return self.right

    async def store(self, key: str, model: str, ttl_s: float, hit: Hit, flight: Flight | None) -> None:
        assert flight is self.right
        assert self.right is None or not self.right.dropped, "who drops its right first may not store"
        self.stored[key] = (hit, ttl_s)


class Engine:
    """Numbers its answers."""

    def __init__(self, answer: Callable[[int], Response] | None = None) -> None:
        self.answers = 0
        self._answer = answer or (lambda number: JSONResponse({"number": number}, headers={"x-request-id": "first"}))

    async def __call__(self) -> Response:
        self.answers += 1
        return self._answer(self.answers)


class Asker:
    def __init__(self, settings: CacheSettings = ON, **model: Any) -> None:
        self.client = Fake()
        self.engine = Engine()
        self.entry: Entry = Catalog([ModelConfig(name="m", engine="echo", **model)]).find("m")
        self._cache = Cache(self.client, settings, wait_s=5, sse=SSE)
        self.leaves = asyncio.Event()
        self.hits = 0

    def hit(self) -> None:
        self.hits += 1

    async def ask(self, said: dict[str, Any] | None = None, control: str = "") -> tuple[dict[str, str], bytes]:
        """Headers and body of the answer."""
        scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b""}
        scope["headers"] = [(b"cache-control", control.encode())]
        request = Request(scope, self._receive)
        answer = await self._cache.answer(request, self.entry, CHAT, {**ZERO, **(said or {})}, self.engine, self.hit)
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await answer(scope, self._receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return headers, b"".join(message["body"] for message in sent[1:])

    async def _receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def streamed(*chunks: bytes) -> Callable[[int], Response]:
    async def body() -> Any:
        for chunk in chunks:
            yield chunk

    return lambda _: StreamingResponse(body(), media_type="text/event-stream")


async def test_second_who_asks_gets_the_first_ones_answer_without_its_request_id() -> None:
    asker = Asker()
    first, body = await asker.ask()
    assert (first["x-cache"], first["x-request-id"], body) == ("miss", "first", b'{"number":1}')
    second, again = await asker.ask()
    assert again == body
    assert second.items() >= {"x-cache": "hit", "age": "0", "content-type": "application/json"}.items()
    assert "x-request-id" not in second
    assert [ttl for _, ttl in asker.client.stored.values()] == [10]


async def test_hits_are_counted() -> None:
    asker = Asker()
    for _ in range(3):
        await asker.ask()
    assert (asker.engine.answers, asker.hits) == (1, 2)


async def test_stream_is_replayed_byte_by_byte() -> None:
    asker = Asker()
    asker.engine = Engine(streamed(b'data: {"a": 1}\n', b"\n", b"data: [DONE]\n\n"))
    first, body = await asker.ask()
    second, again = await asker.ask()
    assert (first["x-cache"], second["x-cache"], again) == ("miss", "hit", body)
    assert second["content-type"] == first["content-type"]
    assert second["x-accel-buffering"] == "no"


async def test_stream_without_an_end_is_not_kept() -> None:
    asker = Asker()
    asker.engine = Engine(streamed(b'data: {"a": 1}\n\n'))
    await asker.ask()
    assert asker.client.stored == {}
    assert asker.client.right is not None
    assert asker.client.right.dropped


@pytest.mark.parametrize("status", [201, 400, 503])
async def test_only_a_200_is_kept(status: int) -> None:
    asker = Asker()
    asker.engine = Engine(lambda _: JSONResponse({}, status))
    assert (await asker.ask())[0]["x-cache"] == "miss"
    assert asker.client.stored == {}


async def test_answer_that_is_too_large_lets_the_next_one_go_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 20)
    asker = Asker()
    dropped = []

    async def body() -> Any:
        for chunk in (b"data: 1", b"x" * 20, b"\n\ndata: [DONE]\n\n"):
            yield chunk
            assert asker.client.right is not None
            dropped.append(asker.client.right.dropped)

    asker.engine = Engine(lambda _: StreamingResponse(body(), media_type="text/event-stream"))
    assert (await asker.ask())[1] == b"data: 1" + b"x" * 20 + b"\n\ndata: [DONE]\n\n"
    assert dropped == [0, 1, 1]
    assert asker.client.stored == {}


@pytest.mark.parametrize(
    ("asker", "said"),
    [(Asker, {}), (lambda: Asker(CacheSettings(), cache={"enabled": True}), {})],
    ids=["all models", "its own"],
)
async def test_cache_is_on(asker: Callable[[], Asker], said: dict[str, Any]) -> None:
    one = asker()
    await one.ask(said)
    assert (await one.ask(said))[0]["x-cache"] == "hit"


async def test_model_without_a_cache_has_no_word_of_it() -> None:
    for asker in (Asker(CacheSettings()), Asker(cache={"enabled": False})):
        for _ in range(2):
            assert "x-cache" not in (await asker.ask())[0]
        assert asker.engine.answers == 2
        assert asker.client.stored == {}


async def test_answer_that_may_be_another_one_is_computed() -> None:
    asker = Asker()
    for _ in range(2):
        assert (await asker.ask({"temperature": 1}))[0]["x-cache"] == "miss"
    assert (asker.engine.answers, asker.client.stored) == (2, {})


async def test_no_cache_computes_and_stores_and_no_store_does_neither() -> None:
    asker = Asker()
    assert (await asker.ask(control="no-store"))[0]["x-cache"] == "miss"
    assert asker.client.stored == {}
    await asker.ask()
    asker.client.right = None
    assert (await asker.ask(control="no-cache"))[1] == b'{"number":3}'
    assert (await asker.ask())[1] == b'{"number":3}'
    assert (await asker.ask(control="no-store"))[1] == b'{"number":4}'
    assert (await asker.ask())[1] == b'{"number":3}'


async def test_while_the_cache_is_away_all_compute() -> None:
    asker = Asker()
    asker.client.away = True
    assert [(await asker.ask())[1] for _ in range(2)] == [b'{"number":1}', b'{"number":2}']


async def test_who_waits_for_too_long_is_told() -> None:
    asker = Asker()
    asker.client.late = True
    with pytest.raises(UpstreamTimeout):
        await asker.ask()


async def test_client_that_leaves_while_it_waits_is_let_go() -> None:
    asker = Asker()
    asker.client.hangs = True
    asker.leaves.set()
    with pytest.raises(ClientDisconnect):
        await asker.ask()


@pytest.mark.parametrize("when", ["before", "in"])
async def test_failure_lets_the_next_one_compute(when: str) -> None:
    asker = Asker()

    async def refuse() -> Response:
        raise ModelNotRunning("It is not.")

    class Broken(Response):
        async def __call__(self, *_: Any) -> None:
            raise ModelNotRunning("It is not.")

    async def breaks() -> Response:
        return Broken()

    failing: Callable[[], Awaitable[Response]] = refuse if when == "before" else breaks
    asker.engine = failing  # type: ignore[assignment]
    with pytest.raises(ModelNotRunning):
        await asker.ask()
    assert asker.client.right is not None
    assert asker.client.right.dropped
