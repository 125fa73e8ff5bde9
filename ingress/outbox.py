"""Records on their way out of an ingress replica, in batches: to the log, to the metrics, to the keeper."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Protocol

from deployments.errors import KeeperGone
from deployments.keeper.client import KeeperRefused
from deployments.usage.record import Record

PERIOD_S = 0.4
PATIENCE_S = 1.0  # what the log and the metrics may lag behind while the keeper is away
BATCH = 500
SLICE = 16
MAX_WAITING = 100_000
"""Records that wait while the keeper is away; the oldest go first."""

ADD = "/usage/add"

logger = logging.getLogger("ray.serve.llm_manager")

Told = Callable[[Sequence[Record]], None]


class Keeper(Protocol):
    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any: ...


class Outbox:
    """Must be used on one event loop."""

    def __init__(self, keeper: Keeper, told: Sequence[Told] = ()) -> None:
        """told: called with the records of the last moment, each once."""
        self._keeper = keeper
        self._told = told
        self._new: list[Record] = []
        self._waiting: deque[Record] = deque()
        self._task: asyncio.Task[None] | None = None
        self._away = False  # the keeper, when it was asked last
        self.lost = 0

    def add(self, record: Record) -> None:
        self._new.append(record)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), context=contextvars.Context())

    async def stop(self) -> None:
        """Sends what is left, if the keeper is there."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(KeeperGone):
            await self.send()

    async def send(self) -> None:
        """Raises: KeeperGone; what was not taken waits."""
        await self._tell()
        while batch := list(islice(self._waiting, BATCH)):
            try:
                rows = [vars(record) for record in batch]
                await self._keeper.ask(ADD, {"rows": rows}, within_s=PATIENCE_S)
            except KeeperRefused as error:
                logger.error(f"The keeper does not take {len(batch)} records of usage: {error}")
                if error.status >= 500:
                    return
            for _ in batch:
                self._waiting.popleft()

    async def _tell(self) -> None:
        """A few at a time: tokens pass between."""
        while new := self._new[:SLICE]:
            del self._new[:SLICE]
            for told in self._told:
                try:
                    told(new)
                except Exception:
                    logger.exception("Records of requests could not be told.")
            self._waiting.extend(new)
            await asyncio.sleep(0)
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.lost += 1

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.send()
                self._away = False
            except KeeperGone as error:
                if not self._away:
                    logger.warning(f"Records of usage wait: {error.message}")
                self._away = True
            except Exception:
                logger.exception("Records of usage could not be sent.")
