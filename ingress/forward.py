"""Carries a request to a model's replica and the bytes of the answer back, untouched."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.errors import RETRY_HEADER, ApiError, EngineFailed, UpstreamTimeout
from deployments.hangup import ClientGone, unless_gone
from deployments.server import KEEP_ALIVE_HEADER
from ingress import upstream_errors
from ingress.errors import GONE, error_event, status_of
from ingress.leases import Route
from ingress.onlooker import Onlooker, Replica, cancellable

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


# Another replica has the port by now: it does not know the secret.
_STRANGERS = frozenset({401})

_AS_SET = -1.0  # the application's own request timeout

_PASSED_ON = ("accept", "anthropic-version", "anthropic-beta", "traceparent", "tracestate")


@dataclass(frozen=True)
class Upstream:
    """A request as the replica gets it: what the engine needs and nothing of the client's credentials.

    target: its path and query. session: whose requests all go to the same replica; empty: anywhere.
    """

    target: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"
    session: str = ""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


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

    def answer(self, route: Route, upstream: Upstream, onlookers: Sequence[Onlooker] = ()) -> Response:
        """A response that asks a replica when it is sent, so that a client who leaves stops it at any moment."""
        return _Forwarded(
            lambda send: self._run(
                lambda started: self._deliver(route, upstream, started), _Started(send, upstream.path, onlookers)
            )
        )

    def answer_of(
        self,
        replica: Replica,
        upstream: Upstream,
        gone: ApiError,
        onlookers: Sequence[Onlooker] = (),
        *,
        timeout_s: float | None = _AS_SET,
        lost: ApiError | None = None,
    ) -> Response:
        """As `answer`, of this replica and no other. gone: raised if it is not there any more. timeout_s: of the whole
        answer; None: it may go on for ever. lost: what an answer ends with whose replica goes meanwhile."""
        limit_s = self._request_timeout_s if timeout_s == _AS_SET else timeout_s
        return _Forwarded(
            lambda send: self._run(
                lambda started: self._ask_only(replica, upstream, started, gone, limit_s, lost or _lost()),
                _Started(send, upstream.path, onlookers),
            )
        )

    async def _run(self, work: Callable[[_Started], Coroutine[Any, Any, None]], started: _Started) -> None:
        status = GONE
        try:
            async with cancellable(started.onlookers):
                await work(started)
            status = started.status
        except (TimeoutError, ApiError) as error:
            problem = error if isinstance(error, ApiError) else UpstreamTimeout("The answer took too long.")
            status = problem.status
            if not started.streaming:
                raise problem from None
            await started.fail(problem)
        except BaseException as error:
            status = status_of(error)
            raise
        finally:
            for onlooker in started.onlookers:
                onlooker.ended(status)

    async def _ask_only(
        self,
        replica: Replica,
        upstream: Upstream,
        send: _Started,
        gone: ApiError,
        limit_s: float | None,
        lost: ApiError,
    ) -> None:
        for onlooker in send.onlookers:
            onlooker.lent()
        try:
            async with asyncio.timeout(limit_s):
                await self._ask(replica, upstream, send, strangers=_STRANGERS)
        except (aiohttp.ClientError, EngineFailed) as error:
            logger.warning(f"The replica that was to answer alone did not: {error!r}")
            raise (lost if send.yes else gone) from None

    async def _deliver(self, route: Route, upstream: Upstream, send: _Started) -> None:
        """Asks replicas until one begins to answer."""
        deadline = time.monotonic() + self._load_wait_s
        delivered, pause_s = 0, RETRY_S
        while True:
            for onlooker in send.onlookers:
                onlooker.waits()
            lease = await route.acquire(max(0.0, deadline - time.monotonic()), upstream.session)
            try:
                for onlooker in send.onlookers:
                    onlooker.lent()
                async with asyncio.timeout(self._request_timeout_s):
                    await self._ask(lease, upstream, send)
                return
            except (aiohttp.ClientError, EngineFailed) as error:
                lease.end()  # nobody else is sent there by this lease
                if send.yes:
                    logger.warning(f"A replica was lost in the middle of its answer: {error!r}")
                    raise _lost() from None
                delivered += not isinstance(error, _UNDELIVERED)
                logger.warning(f"A replica did not answer ({error!r}); the request goes to another one.")
                if delivered >= DELIVERIES or time.monotonic() >= deadline:
                    raise EngineFailed("The model's process was lost before it could answer.") from None
                await asyncio.sleep(pause_s)
                pause_s = min(1.0, 2 * pause_s)
            finally:
                route.release(lease)

    async def _ask(
        self,
        replica: Replica,
        upstream: Upstream,
        send: _Started,
        strangers: frozenset[int] = frozenset(),
    ) -> None:
        async with self._client.request(
            upstream.method,
            replica.url + upstream.target,
            data=upstream.body or None,
            headers={**upstream.headers, **replica.headers},
            allow_redirects=False,  # to where the ingress did not choose
        ) as answer:
            if RETRY_HEADER in answer.headers or answer.status in strangers:
                raise EngineFailed("The replica cannot answer any more.")
            kept = [(k.lower(), v) for k, v in answer.raw_headers if k.lower() not in _DROPPED]
            if answer.content_type != "text/event-stream":
                whole = _Whole(answer.status, kept, await answer.read())
                if whole.status >= 400:
                    whole = _normalised(whole, upstream.path)
                else:
                    for onlooker in send.onlookers:
                        await onlooker.whole(replica, whole.body)
                length = (b"content-length", str(len(whole.body)).encode())
                await send.start(whole.status, [*whole.headers, length], streaming=False)
                await send.body(whole.body, more=False)
                return
            # The first bytes come before the status line leaves: until then another replica may take over.
            first = await answer.content.readany()
            await send.start(answer.status, kept, streaming=True)
            self._streams += 1
            try:
                async for chunk, more in self._chunks(first, answer.content):
                    leaves = chunk
                    for onlooker in send.onlookers:
                        leaves = onlooker.chunk(replica, leaves, more=more)
                    if leaves or not more:
                        await send.body(leaves, more=more)
            finally:
                self._streams -= 1

    async def _chunks(self, chunk: bytes, content: aiohttp.StreamReader) -> AsyncIterator[tuple[bytes, bool]]:
        """Each chunk, and whether there are more."""
        while more := not content.at_eof():
            yield chunk, more
            chunk = await _next(content, self._join.window_s(self._streams))
        yield chunk, more


@dataclass(frozen=True)
class _Whole:
    """An answer in one piece."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def _normalised(whole: _Whole, path: str) -> _Whole:
    if any(name == b"content-encoding" for name, _ in whole.headers):
        return whole
    changed = upstream_errors.normalised(whole.status, whole.body, path)
    if changed is None:
        return whole
    headers = [(name, value) for name, value in whole.headers if name != b"content-type"]
    return _Whole(changed.status, [*headers, (b"content-type", b"application/json")], changed.body)


def _lost() -> EngineFailed:
    return EngineFailed("The model's process was lost in the middle of its answer.")


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

    def __init__(self, send: Send, path: str, onlookers: Sequence[Onlooker] = ()) -> None:
        self._send = send
        self._path = path
        self._tail = b"\n\n"
        self.onlookers = onlookers
        self.status = 0
        self.yes = False
        self.streaming = False

    async def start(self, status: int, headers: list[tuple[bytes, bytes]], *, streaming: bool) -> None:
        self.yes = True
        self.status = status
        self.streaming = streaming
        for onlooker in self.onlookers:
            onlooker.begins()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, chunk: bytes, *, more: bool) -> None:
        self._tail = chunk[-2:] or self._tail
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def fail(self, error: ApiError) -> None:
        """Ends a stream that has begun: an error event and no [DONE]."""
        await self.body(error_event(error, self._path, self._tail), more=False)


class _Forwarded(Response):
    """Runs the work and ends it when the client goes away."""

    def __init__(self, work: Callable[[Send], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGone):
            await unless_gone(receive, self._work(send))


def upstream_of(
    request: Request, path: str, body: bytes, request_id: str, keep_alive_s: float | None = None
) -> Upstream:
    """The request as a replica gets it: at `path`, with the request's query string."""
    query = request.scope["query_string"].decode("latin-1")
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    if body:
        headers["content-type"] = request.headers.get("content-type", "application/json")
    headers["x-request-id"] = request_id
    if keep_alive_s is not None:
        headers[KEEP_ALIVE_HEADER.decode()] = str(keep_alive_s)
    return Upstream(f"{path}?{query}" if query else path, headers, body, request.method)
