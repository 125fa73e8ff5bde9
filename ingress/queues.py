"""A bound on the requests that wait for a model: above it a quick no is worth more than a late answer."""

from __future__ import annotations

from deployments.errors import QueueFull
from ingress.onlooker import Onlooker

RETRY_AFTER_S = 2


class Queue:
    """Of one model, in one ingress replica: the requests whose answers have not begun."""

    def __init__(self, model: str, limit: int | None) -> None:
        """limit: None is no bound."""
        self._model = model
        self._limit = limit
        self.waiting = 0

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


class Place(Onlooker):
    """Of one request: taken when it begins to wait, and given back when its answer begins or it ends."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._taken = False

    def waits(self) -> None:
        """Raises: QueueFull."""
        if not self._taken:
            self._queue.enter()
            self._taken = True

    def begins(self) -> None:
        if self._taken:
            self._taken = False
            self._queue.leave()

    def ended(self, status: int) -> None:
        self.begins()
