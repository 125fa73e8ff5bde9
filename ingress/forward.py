"""Carries a request to a model's replica and the bytes of the answer back, untouched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.errors import RETRY_HEADER, ApiError, EngineFailed, UpstreamTimeout
from deployments.hangup import ClientGone, unless_gone
from deployments.server import KEEP_ALIVE_HEADER
from ingress.leases import Lease, Route
from ingress.paths import path_in

logger = logging.getLogger("ray.serve.llm_manager")


@dataclass(frozen=True)
class Join:
    """Chunks leave together that come, after the last one was passed on, sooner than `step_s` times the number of
    running streams, and at most `max_s`: the busier the pipe, the fewer messages. A lone stream is hardly held, a
    first token and the end never."""

    step_s: float
    max_s: float

    def window_s(self, streams: int) -> float:
        return min(self.max_s, self.step_s * streams)


BEHIND_HAPROXY = Join(step_s=0.001, max_s=0.1)
# Behind Serve's own proxy each message is one of Ray's, dearer by far than the token it carries.
BEHIND_SERVES_PROXY = Join(step_s=0.003, max_s=0.1)

# The engine did not see the request.
_UNDELIVERED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, EngineFailed)
DELIVERIES = 3  # times that a request may reach a replica that then dies: it may be the request's own doing
RETRY_S = 0.05

# RFC 9110 7.6.1, and what the server in front writes itself.
_DROPPED = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade "
    b"content-length server date".split()
)


@dataclass(frozen=True)
class Upstream:
    """A request as the replica gets it: what the engine needs and nothing of the client's credentials."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Forwarder:
    """The pooled client of one ingress replica. Must be made on its event loop."""

    def __init__(self, *, load_wait_s: float, request_timeout_s: float, join: Join) -> None:
        self._load_wait_s = load_wait_s
        self._request_timeout_s = request_timeout_s
        self._join = join
        self._streams = 0  # that run now
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
            skip_auto_headers=("user-agent", "accept-encoding", "accept"),
        )

    def answer(self, route: Route, upstream: Upstream) -> Response:
        """A response that asks a replica when it is sent, so that a client who leaves stops it at any moment."""
        return _Forwarded(lambda send: self._run(route, upstream, send))

    async def _run(self, route: Route, upstream: Upstream, send: Send) -> None:
        started = _Started(send)
        try:
            await self._deliver(route, upstream, started)
        except (TimeoutError, ApiError) as error:
            problem = error if isinstance(error, ApiError) else UpstreamTimeout("The answer took too long.")
            if not started.streaming:
                raise problem from None
            await started.fail(problem)

    async def _deliver(self, route: Route, upstream: Upstream, send: _Started) -> None:
        """Asks replicas until one begins to answer."""
        deadline = time.monotonic() + self._load_wait_s
        delivered, pause_s = 0, RETRY_S
        while True:
            lease = await route.acquire(max(0.0, deadline - time.monotonic()))
            try:
                async with asyncio.timeout(self._request_timeout_s):
                    await self._ask(lease, upstream, send)
                return
            except (aiohttp.ClientError, EngineFailed) as error:
                lease.end()  # nobody else is sent there by this lease
                if send.yes:
                    logger.warning(f"A replica was lost in the middle of its answer: {error!r}")
                    raise EngineFailed("The model's process was lost in the middle of its answer.") from None
                delivered += not isinstance(error, _UNDELIVERED)
                logger.warning(f"A replica did not answer ({error!r}); the request goes to another one.")
                if delivered >= DELIVERIES or time.monotonic() >= deadline:
                    raise EngineFailed("The model's process was lost before it could answer.") from None
                await asyncio.sleep(pause_s)
                pause_s = min(1.0, 2 * pause_s)
            finally:
                route.release(lease)

    async def _ask(self, lease: Lease, upstream: Upstream, send: _Started) -> None:
        headers = {**upstream.headers, **lease.headers}
        async with self._client.post(lease.url + upstream.path, data=upstream.body, headers=headers) as answer:
            if RETRY_HEADER in answer.headers:
                raise EngineFailed("The replica cannot answer any more.")
            kept = [(k.lower(), v) for k, v in answer.raw_headers if k.lower() not in _DROPPED]
            if answer.content_type != "text/event-stream":
                body = await answer.read()
                await send.start(answer.status, [*kept, (b"content-length", str(len(body)).encode())], streaming=False)
                await send.body(body, more=False)
                return
            # The first bytes come before the status line leaves: until then another replica may take over.
            chunk = await answer.content.readany()
            await send.start(answer.status, kept, streaming=True)
            self._streams += 1
            try:
                while more := not answer.content.at_eof():
                    await send.body(chunk, more=more)
                    chunk = await _next(answer.content, self._join.window_s(self._streams))
            finally:
                self._streams -= 1
            await send.body(chunk, more=more)


async def _next(content: aiohttp.StreamReader, join_s: float) -> bytes:
    """The next bytes, joined with those that come within `join_s` after the last ones; empty at the end."""
    last = time.monotonic()
    chunk = await content.readany()
    wait = last + join_s - time.monotonic()
    if chunk and wait > 0:
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):  # of a broken connection the next read tells
            async with asyncio.timeout(wait):
                await content.wait_eof()  # the last chunk is not held
        with contextlib.suppress(aiohttp.ClientError):
            chunk += content.read_nowait()
    return chunk


class _Started:
    """The way to the client, which knows whether the answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._tail = b"\n\n"
        self.yes = False
        self.streaming = False

    async def start(self, status: int, headers: list[tuple[bytes, bytes]], *, streaming: bool) -> None:
        self.yes = True
        self.streaming = streaming
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, chunk: bytes, *, more: bool) -> None:
        self._tail = chunk[-2:] or self._tail
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def fail(self, error: ApiError) -> None:
        """Ends a stream that has begun: an error event and no [DONE]."""
        gap = b"" if self._tail == b"\n\n" else b"\n\n"  # the last event may be torn
        await self.body(gap + b"data: " + json.dumps(error.body()).encode() + b"\n\n", more=False)


class _Forwarded(Response):
    """Runs the work and ends it when the client goes away."""

    def __init__(self, work: Callable[[Send], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGone):
            await unless_gone(receive, self._work(send))


def upstream_of(request: Request, body: bytes, request_id: str, keep_alive_s: float | None = None) -> Upstream:
    """The request as a replica gets it, with its query string."""
    query = f"?{request.url.query}" if request.url.query else ""
    headers = {
        "content-type": request.headers.get("content-type", "application/json"),
        "x-request-id": request_id,
    }
    if keep_alive_s is not None:
        headers[KEEP_ALIVE_HEADER.decode()] = str(keep_alive_s)
    return Upstream(path_in(request) + query, headers, body)
