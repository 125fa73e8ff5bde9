"""The logs of all models: taken from those who ship them, kept in the store, told to those who listen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from deployments.logs.batch import Batch, Source
from deployments.logs.feed import Feed
from deployments.logs.reader import Reader
from deployments.logs.settings import LogSettings
from deployments.logs.store import Block, Store, Total
from deployments.memory import MB

P = ParamSpec("P")
T = TypeVar("T")

DAY_S = 86400.0


class Journal:
    """Made by `open`. The store is used by one thread alone, so that what it does is done in order."""

    def __init__(self, store: Store, thread: ThreadPoolExecutor, max_age_s: float) -> None:
        self._store = store
        self._thread = thread
        self._max_age_s = max_age_s
        self._feeds: dict[str, Feed] = {}
        self.heard: dict[Source, float] = {}
        """Replicas that have not ended, and when each was heard last (time.monotonic)."""

    @classmethod
    async def open(cls, path: Path, settings: LogSettings) -> Journal:
        """Raises: as Store."""
        thread = ThreadPoolExecutor(1, "logs")
        loop = asyncio.get_running_loop()
        try:
            store = await loop.run_in_executor(thread, Store, path, int(settings.max_mb * MB))
        except BaseException:
            thread.shutdown(wait=False)
            raise
        journal = cls(store, thread, settings.max_days * DAY_S)
        journal.heard = dict.fromkeys(await journal._do(store.sources), time.monotonic())
        return journal

    async def close(self) -> None:
        await self._do(self._store.close)
        self._thread.shutdown()

    async def take(self, batch: Batch) -> dict[str, int]:
        """Returns up to where the batch's files are known now."""
        taken = await self._do(self._store.add, batch, time.time())
        feed = self.feed(batch.source.model)
        if taken.block is not None:
            feed.append(taken.block)
        if batch.ended and taken.fits:
            self.heard.pop(batch.source, None)
            feed.wake()
        elif taken.fits or batch.source in self.heard:
            self.heard[batch.source] = time.monotonic()
        return taken.offsets

    def put_off(self, source: Source) -> None:
        """The replica is not looked after for a while, unless it has ended."""
        if source in self.heard:
            self.heard[source] = time.monotonic()

    async def offsets(self, source: Source) -> dict[str, int]:
        """Up to where the files of a replica are known."""
        return (await self._do(self._store.sources)).get(source, {})

    def feed(self, model: str) -> Feed:
        if model not in self._feeds:
            self._feeds[model] = Feed(self._store.totals.get(model, Total()).next)
        return self._feeds[model]

    @property
    def read_now(self) -> list[str]:
        """The models that somebody listens to."""
        return [model for model, feed in self._feeds.items() if feed.readers]

    async def listen(self, model: str, over: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """Server-sent events. over: whether the model has stopped, and everything that it said is here."""
        oldest = await self._do(self._store.oldest, model)

        async def read(line: int, max_bytes: int) -> list[Block]:
            return await self._do(self._store.read, model, line, max_bytes)

        async for piece in Reader(self.feed(model), read, over, oldest).events():
            yield piece

    async def clear(self, model: str, keep_s: float) -> int:
        """Deletes all but the lines of the last seconds. Returns how many."""
        deleted = await self._do(self._store.clear, model, time.time() - keep_s)
        self.feed(model).forget()
        return deleted

    async def expire(self) -> None:
        """Deletes what is too old."""
        await self._do(self._store.expire, time.time() - self._max_age_s)

    def stats(self) -> dict[str, dict[str, Any]]:
        """How many lines and listeners each model has."""
        return {
            model: {"log_count": total.count, "subscriber_count": self.feed(model).readers}
            for model, total in {**dict.fromkeys(self._feeds, Total()), **self._store.totals}.items()
        }

    async def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))
