"""One reading for everybody who asks within a moment."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    def __init__(self, read: Callable[[], T], ttl_s: float) -> None:
        """read: may block; it runs in a thread, once at a time."""
        self._read = read
        self._ttl_s = ttl_s
        self._reading: asyncio.Task[T] | None = None
        self._read_at = float("-inf")

    async def get(self, max_age_s: float | None = None) -> T:
        """What `read` returned at most `max_age_s` ago, or returns to those who wait now. Raises what it raised.

        max_age_s: default `ttl_s`.
        """
        max_age_s = self._ttl_s if max_age_s is None else max_age_s
        if self._reading is None or (self._reading.done() and time.monotonic() - self._read_at > max_age_s):
            # It belongs to no request: with one that ends, Ray would cancel the calls that were made in its context.
            self._reading = asyncio.create_task(self._run(), context=contextvars.Context())
        return await asyncio.shield(self._reading)

    def expire(self) -> None:
        """Something has changed: who asks from now on gets a new reading."""
        self._reading = None

    async def _run(self) -> T:
        try:
            return await asyncio.to_thread(self._read)
        finally:
            self._read_at = time.monotonic()
