"""The keeper's part that keeps usage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import OperationalError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from deployments.errors import KeeperGone
from deployments.usage import ranges
from deployments.usage.record import Record
from deployments.usage.settings import UsageSettings
from deployments.usage.store import Question, Store

SWEEP_S = 3600.0
DAY_S = 86400.0

logger = logging.getLogger("ray.serve.llm_manager")

T = TypeVar("T")


class UsagePart:
    def __init__(self, settings: UsageSettings, folder: Path, application: str) -> None:
        """folder: of the application's own."""
        self._url = settings.database_url or f"sqlite:///{folder / 'usage.sqlite'}"
        self._max_s = settings.max_days * DAY_S
        self._application = application
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="usage")  # one writer
        self._store: Store | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def routes(self) -> Sequence[BaseRoute]:
        asked = {"add": self._add, "sums": self._sums, "throughput": self._throughput, "recent": self._recent}
        return [Route(f"/usage/{name}", answer, methods=["POST"]) for name, answer in asked.items()]

    async def start(self) -> None:
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        with contextlib.suppress(Exception):
            if self._store is not None:
                await self._do(Store.close)
        self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[[Store], T]) -> T:
        """With the store, which is opened when it is first needed: a database may be away when the keeper starts."""

        def run() -> T:
            try:
                self._store = self._store or Store(self._url, self._application)
                return work(self._store)
            except OperationalError as error:  # its disk is full, or its server is away
                raise KeeperGone(f"The database of usage does not answer: {error.orig!r}", retry_after_s=1) from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    async def _sweep(self) -> None:
        while True:
            try:
                if forgotten := await self._do(lambda store: store.forget(time.time() - self._max_s)):
                    logger.info(f"{forgotten} records of usage were too old.")
            except Exception:
                logger.exception("Old records of usage could not be removed.")
            await asyncio.sleep(SWEEP_S)

    async def _add(self, request: Request) -> Response:
        records = [Record(**row) for row in (await request.json())["rows"]]
        return JSONResponse({"added": await self._do(lambda store: store.add(records))})

    async def _sums(self, request: Request) -> Response:
        data = await request.json()
        question = _question(data, time.time())
        by = data["group_by"]
        totals, groups = await self._do(lambda store: (store.totals(question), store.grouped(question, by)))
        return JSONResponse({"totals": totals, "usage": groups})

    async def _throughput(self, request: Request) -> Response:
        data = await request.json()
        seconds, now = ranges.seconds_of(data["range"]), time.time()
        bucket_s = ranges.bucket_s(seconds)
        question = _question(data, now - now % bucket_s)  # whole buckets, and the one that is not over yet
        rows = await self._do(lambda store: store.series(question, bucket_s))
        return JSONResponse({"bucket_s": bucket_s, "since": question.since, "until": now, "rows": rows})

    async def _recent(self, request: Request) -> Response:
        data = await request.json()
        records = await self._do(lambda store: store.recent(data["limit"], data["models"]))
        return JSONResponse({"rows": [asdict(record) for record in records]})


def _question(data: dict[str, Any], now: float) -> Question:
    return Question(now - ranges.seconds_of(data["range"]), data.get("model"), data.get("key"))
