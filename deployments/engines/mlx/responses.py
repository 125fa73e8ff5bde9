"""Answers that end with their client: when it hangs up, the work for it is cancelled at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.engines.mlx.answers import event
from deployments.errors import ApiError, InternalError

T = TypeVar("T")

log = logging.getLogger("ray.serve.llm_manager")


class ClientGone(Exception):
    """The client hung up before its answer was done."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns. Raises: ClientGone. The request's body has been read before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events. first: already made, so that an error before it was an answer of its own."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send(send))
        except (ClientGone, OSError):
            pass
        finally:
            await self._rest.aclose()  # type: ignore[attr-defined]  # it is a generator

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send_part(send, self._first)
        try:
            async for part in self._rest:
                await _send_part(send, part)
        except ApiError as error:
            await _send_part(send, event(error.body()))
        except OSError:
            raise
        except Exception:
            log.exception("The answer failed after its first byte")
            await _send_part(send, event(InternalError("The answer failed.").body()))
        await _send_part(send, b"", more=False)


async def _send_part(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
