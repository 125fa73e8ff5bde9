"""Serves an engine's app on a port of the replica's own, to those who know its secret."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments import clock
from deployments.errors import ApiError, RouteNotFound, error_body
from deployments.shelf import Shelf

SECRET_HEADER = b"x-replica-secret"
MEMBER_HEADER = b"x-replica-member"
"""Which of the models inside the replica is asked; none: its own."""
KEEP_ALIVE_HEADER = b"x-keep-alive"
"""Seconds that the model is to stay after this request; negative is for ever."""

_STOP_S = 1.0


class Guard:
    """ASGI in front of an engine's app: checks the secret, finds the member that is asked, and counts the requests that
    are not finished.

    keep_alive_s: what the last request that said so wanted, at the clock keep_alive_at; 0 if none did.
    """

    def __init__(
        self,
        app: ASGIApp | None,
        check_health: Callable[[], Awaitable[None]],
        members: Shelf | None = None,
        min_keep_alive_s: float = 0,
    ) -> None:
        """app: None for a replica that has only members. min_keep_alive_s: how long the replica stays whatever a
        request to one of its members says."""
        self._app = app
        self._check_health = check_health
        self._members = members
        self._min_keep_alive_s = min_keep_alive_s
        self.secret = secrets.token_urlsafe(32)
        self.unfinished = 0
        self.keep_alive_s = self.keep_alive_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(SECRET_HEADER, b""), self.secret.encode()):
            body = error_body("Only the ingress may ask a replica.", "authentication_error")
            await JSONResponse(body, 401)(scope, receive, send)
            return
        member = headers[MEMBER_HEADER].decode() if MEMBER_HEADER in headers else None
        if keep_alive := headers.get(KEEP_ALIVE_HEADER):
            self._keep_alive(member, float(keep_alive))
        passed_on = [h for h in scope["headers"] if h[0] not in _NO_WORD_TO_THE_ENGINE]
        scope = {**scope, "headers": passed_on}
        self.unfinished += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    app = await self._find(member, stack)
                except ApiError as error:
                    await JSONResponse(error.body(), error.status, error.headers())(scope, receive, send)
                else:
                    await app(scope, receive, send)
        finally:
            self.unfinished -= 1

    async def _find(self, member: str | None, stack: contextlib.AsyncExitStack) -> ASGIApp:
        await self._check_health()
        if member is not None and self._members is not None:
            return await stack.enter_async_context(self._members.use(member))
        if self._app is None:
            raise RouteNotFound("No model was named.")
        return self._app

    def _keep_alive(self, member: str | None, seconds: float) -> None:
        if member is not None and self._members is not None:
            self._members.keep(member, seconds)
        if seconds >= 0:
            seconds = max(seconds, self._min_keep_alive_s)
        self.keep_alive_s, self.keep_alive_at = seconds, clock.time()


_NO_WORD_TO_THE_ENGINE = frozenset({SECRET_HEADER, MEMBER_HEADER, KEEP_ALIVE_HEADER})


class Server:
    """uvicorn on the running loop, with a free port that is the same on every given address."""

    def __init__(self, app: ASGIApp, hosts: set[str]) -> None:
        self._sockets = _listen(hosts)
        self.port: int = self._sockets[0].getsockname()[1]
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_keep_alive=75, server_header=False
        )
        self._server = _NoSignals(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=self._sockets))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the replica's HTTP server ended before it began")
            await asyncio.sleep(0.005)

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    async def stop(self) -> None:
        """Serve has drained the replica by now; what is still open ends with the process."""
        self._server.should_exit = self._server.force_exit = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_STOP_S)
            self._task.cancel()
        for sock in self._sockets:
            sock.close()


class _NoSignals(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to Ray in a replica


def _listen(hosts: set[str]) -> list[socket.socket]:
    for _ in range(20):
        sockets: list[socket.socket] = []
        try:
            for host in sorted(hosts):
                port = sockets[0].getsockname()[1] if sockets else 0
                sockets.append(socket.create_server((host, port), backlog=2048))
                # Its connections inherit it. Else a body that is written after its head may wait for 40 ms.
                sockets[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # the port is taken on one of the addresses
            for sock in sockets:
                sock.close()
        else:
            return sockets
    raise OSError(f"no port is free on all of {sorted(hosts)}")
