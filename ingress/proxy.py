"""Inside Serve's own proxy: what a client sees of an ingress replica that dies with its request.

Serve's proxy then ends an answer where it is, or never begins one. A request that has not been answered and may be done
twice (one to a model, one that only reads, a wish for a model) goes to another ingress replica; a stream that has begun
ends with an error event. Serve takes the middleware from the function that RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH
names in the proxy's environment.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import EngineFailed
from ingress import endpoints
from ingress.errors import error_event, shaped

TRIES = 3
PAUSE_S = 0.2
"""Between two tries: Serve learns meanwhile who is dead."""
KEPT_BYTES = 64 * 2**20
"""Of a request's body, until its answer begins; a larger one is not sent again."""

_PATHS = tuple(endpoint.path for endpoint in endpoints.ENDPOINTS)
_OURS = re.compile(r"/(api|v1)/.*", re.DOTALL)
_READS = frozenset({"GET", "HEAD"})
_WISH = re.compile(r"/api/models/(.+/(start|stop|pin|unpin)|stop-all|restart-autostart)")

logger = logging.getLogger("ray.serve")


def middlewares() -> list[Middleware]:
    return [Middleware(Unbroken)]


class Unbroken:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (path := _known(scope["path"])) is None:
            await self._app(scope, receive, send)
            return
        twice = path in _PATHS or scope["method"] in _READS or _WISH.fullmatch(path) is not None
        request = _Request(receive)
        answer = _Answer(send, request.forget)
        for number in range(TRIES):
            await self._app(scope, request.again(), answer)
            if answer.ended or answer.begun or request.gone:
                break
            logger.warning(f"{path}: an ingress replica was lost before it answered (try {number + 1}).")
            if not twice or not request.whole:
                break
            await asyncio.sleep(PAUSE_S)
        if not answer.ended and not request.gone:
            await answer.lose(scope, receive, path)


def _known(path: str) -> str | None:
    """The path without the application's prefix, which is not known here; None if it is none of ours."""
    found = _OURS.search(path)
    return next((known for known in _PATHS if path.endswith(known)), found and found[0])


class _Request:
    """What the client sends, which can be read again.

    gone: whether the client has hung up. whole: whether nothing of it was dropped.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: list[Message] = []
        self._bytes = 0
        self.gone = False
        self.whole = True

    def forget(self) -> None:
        """It is not sent again."""
        self._kept.clear()
        self.whole = False

    def again(self) -> Receive:
        """From its beginning."""
        unread = list(self._kept)

        async def receive() -> Message:
            return unread.pop(0) if unread else await self._next()

        return receive

    async def _next(self) -> Message:
        message = await self._receive()
        self.gone = message["type"] == "http.disconnect"
        self._bytes += len(message.get("body", b""))
        if self._bytes > KEPT_BYTES:
            self.forget()
        elif self.whole and not self.gone:
            self._kept.append(message)
        return message


class _Answer:
    def __init__(self, send: Send, on_begun: Callable[[], None]) -> None:
        self._send = send
        self._on_begun = on_begun
        self._tail = b"\n\n"
        self._streams = False
        self.begun = False
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self._on_begun()
            self._streams = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            self._tail = message.get("body", b"")[-2:] or self._tail
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def lose(self, scope: Scope, receive: Receive, path: str) -> None:
        """Says that no more comes. Of an answer in one piece that has begun the broken connection tells."""
        error = EngineFailed("The server's process was lost with this request.", retry_after_s=1)
        if not self.begun:
            await JSONResponse(shaped(error.body(), path), error.status, error.headers())(scope, receive, self._send)
        elif self._streams:
            event = error_event(error, path, self._tail)
            await self._send({"type": "http.response.body", "body": event, "more_body": False})
