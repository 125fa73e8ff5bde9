"""A bound on the requests that wait for a model: above it a quick no is worth more than a late answer."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import QueueFull

RETRY_AFTER_S = 2


class Queue:
    """Of one model, in one ingress replica: the requests whose answers have not begun."""

    def __init__(self, model: str, limit: int | None) -> None:
        """limit: None is no bound."""
        self._model = model
        self._limit = limit
        self.waiting = 0

    def bounded(self, response: Response) -> Response:
        """The response, which is sent only if there is room for one more that waits."""
        return _Bounded(self, response)

    def check(self) -> None:
        """Raises: QueueFull."""
        if self._limit is not None and self.waiting >= self._limit:
            raise QueueFull(
                f"{self.waiting} requests wait for the model {self._model!r} already.",
                param="model",
                retry_after_s=RETRY_AFTER_S,
            )

    def enter(self) -> None:
        """Raises: QueueFull."""
        self.check()
        self.waiting += 1

    def leave(self) -> None:
        self.waiting -= 1


class _Bounded(Response):
    def __init__(self, queue: Queue, response: Response) -> None:
        super().__init__()
        self._queue = queue
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._queue.enter()
        waits = True

        def leave() -> None:
            nonlocal waits
            if waits:
                waits = False
                self._queue.leave()

        async def begun(message: Message) -> None:
            leave()
            await send(message)

        try:
            await self._response(scope, receive, begun)
        finally:
            leave()
