"""Answers from the cache, where the model has it on, and new ones into it as they leave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deployments.cache.client import CacheClient, Flight, Hit
from deployments.cache.settings import CacheSettings, ttl_s
from deployments.errors import UpstreamTimeout
from deployments.hangup import ClientGone, unless_gone
from ingress.cacheable import Control, is_cacheable, is_whole, key
from ingress.catalog import Entry

HEADER = "x-cache"
MAX_BYTES = 4 * 2**20
"""Of an answer that is kept."""

Compute = Callable[[], Awaitable[Response]]


@dataclass(frozen=True)
class Place:
    """Where an answer is kept, and for how long."""

    key: str
    model: str
    ttl_s: float


class Cache:
    def __init__(self, client: CacheClient, settings: CacheSettings, wait_s: float, sse: Mapping[str, str]) -> None:
        """wait_s: how long a request waits for another one's answer. sse: headers that a stream has."""
        self._client = client
        self._settings = settings
        self._wait_s = wait_s
        self._sse = sse

    async def answer(
        self,
        request: Request,
        entry: Entry,
        path: str,
        data: Mapping[str, Any],
        compute: Compute,
        on_hit: Callable[[], None],
    ) -> Response:
        """data: of the request's body. on_hit: called where nothing is computed.

        Raises: UpstreamTimeout, ClientDisconnect, what `compute` raises.
        """
        lasts_s = ttl_s(entry.model.cache, self._settings)
        if lasts_s is None:
            return await compute()
        control = Control.of(request.headers)
        if not control.stores or not is_cacheable(path, data):
            return _Missed(await compute())
        query = request.scope["query_string"].decode("latin-1")
        place = Place(key(entry, path, query, data), entry.name, lasts_s)
        found = await self._find(request, place) if control.reads else None
        if isinstance(found, Hit):
            on_hit()
            return self._replayed(found)
        try:
            return _Kept(await compute(), self._client, place, found)
        except BaseException:
            if found is not None:
                found.drop()
            raise

    async def _find(self, request: Request, place: Place) -> Hit | Flight | None:
        try:
            return await unless_gone(request.receive, self._client.find(place.key, place.model, self._wait_s))
        except TimeoutError:
            raise UpstreamTimeout("The same request is being answered, and took too long.") from None
        except ClientGone:
            raise ClientDisconnect from None

    def _replayed(self, hit: Hit) -> Response:
        stream = self._sse if hit.content_type.startswith("text/event-stream") else {}
        headers = {"content-type": hit.content_type, **stream, HEADER: "hit", "age": hit.age_s}
        return Response(hit.body, headers=headers)


class _Missed(Response):
    """An answer that is not from the cache."""

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def passed_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message.setdefault("headers", []))[HEADER] = "miss"
            await self._sees(message)
            await send(message)

        await self._answer(scope, receive, passed_on)

    async def _sees(self, message: Message) -> None:
        """Before it leaves."""


class _Kept(_Missed):
    """Goes into the cache before its last bytes leave: who has them all finds it there."""

    def __init__(self, answer: Response, client: CacheClient, place: Place, flight: Flight | None) -> None:
        super().__init__(answer)
        self._client = client
        self._place = place
        self._flight = flight
        self._status = 0
        self._content_type = ""
        self._chunks: list[bytes] = []
        self._size = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._drop()

    async def _sees(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._content_type = Headers(raw=message["headers"]).get("content-type", "application/json")
            return
        chunk = message.get("body", b"")
        self._size += len(chunk)
        if self._size > MAX_BYTES:
            self._chunks.clear()
            self._drop()
            return
        self._chunks.append(chunk)
        if not message.get("more_body", False):
            await self._store(b"".join(self._chunks))

    async def _store(self, body: bytes) -> None:
        if is_whole(self._status, self._content_type, body):
            hit = Hit(body, self._content_type, age_s="0")
            await self._client.store(self._place.key, self._place.model, self._place.ttl_s, hit, self._flight)

    def _drop(self) -> None:
        if self._flight is not None:
            self._flight.drop()
            self._flight = None
