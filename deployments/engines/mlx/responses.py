"""Answers that end with their client: when it hangs up, the work for it is cancelled at once."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments import sse
from deployments.engines.mlx.answers import event
from deployments.errors import ApiError, InternalError
from deployments.hangup import ClientGone, unless_gone

log = logging.getLogger("ray.serve.llm_manager")


class EventStream(Response):
    """Server-sent events. first: already made, so that an error before it was an answer of its own."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        super().__init__(headers=sse.HEADERS)
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
