"""The keeper's part for logs: its routes, and what it does by itself."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from deployments import sse
from deployments.errors import InvalidRequest, KeeperGone
from deployments.logs import tail
from deployments.logs.batch import Source, decode
from deployments.logs.collect import Collector, NodeGone
from deployments.logs.journal import Journal
from deployments.logs.settings import LogSettings
from deployments.residency.board import Board, Table

logger = logging.getLogger("ray.serve.llm_manager")

FILE = "logs.sqlite"
LOOK_S = 0.5
SILENCE_S = 3.0
"""Seconds after which somebody goes and looks after a replica."""
EXPIRE_S = 600.0
OPEN_S = 5.0


class LogsPart:
    def __init__(self, settings: LogSettings, folder: Path, board: Board, collector: Collector) -> None:
        self._settings = settings
        self._path = folder / FILE
        self._board = board
        self._collector = collector
        self._table = Table()
        self._collecting: dict[Source, asyncio.Task[None]] = {}
        self._opened: Journal | None = None
        self._work: asyncio.Task[None]

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/logs/ship", self._ship, methods=["POST"]),
            Route("/logs/stats", self._stats, methods=["POST"]),
            Route("/logs/clear", self._clear, methods=["POST"]),
            Route("/api/logs/stream", self._stream, methods=["GET"]),
        ]

    async def start(self) -> None:
        await self._open()
        self._work = asyncio.create_task(self._run())

    async def stop(self) -> None:
        tasks = [self._work, *self._collecting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if self._opened is not None:
            await self._opened.close()

    @property
    def _journal(self) -> Journal:
        if self._opened is None:
            raise KeeperGone("The disk does not take the models' logs.", retry_after_s=round(OPEN_S))
        return self._opened

    async def _open(self) -> None:
        """The disk may be full: the other parts do without the logs."""
        try:
            self._opened = await Journal.open(self._path, self._settings)
        except (OSError, sqlite3.Error) as error:
            logger.error(f"The models' logs cannot be kept: {error!r}")

    # What others of the application ask for

    async def _ship(self, request: Request) -> Response:
        try:
            batch = decode(await request.body())
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(f"This is no batch of lines: {error!r}") from None
        return JSONResponse({"files": await self._journal.take(batch)})

    async def _stats(self, _: Request) -> Response:
        return JSONResponse(self._journal.stats())

    async def _clear(self, request: Request) -> Response:
        """Of `{model, keep_minutes}`."""
        asked = json.loads(await request.body())
        deleted = await self._journal.clear(asked["model"], 60 * asked["keep_minutes"])
        return JSONResponse({"deleted": deleted})

    async def _stream(self, request: Request) -> Response:
        model = request.query_params["model"]
        await self._look()
        events = self._journal.listen(model, lambda: self._over(model))
        return StreamingResponse(events, media_type="text/event-stream", headers=sse.HEADERS)

    # What it does by itself

    async def _run(self) -> None:
        expired = float("-inf")
        while self._opened is None:
            await asyncio.sleep(OPEN_S)
            await self._open()
        while True:
            try:
                now = time.monotonic()
                for source in [source for source, heard in self._journal.heard.items() if now - heard > SILENCE_S]:
                    if source not in self._collecting:
                        self._collecting[source] = asyncio.create_task(self._collect(source))
                if models := self._journal.read_now:
                    await self._look()
                    for model in filter(self._over, models):
                        self._journal.feed(model).wake()
                if now - expired > EXPIRE_S:
                    await self._journal.expire()
                    expired = now
            except Exception:  # the next look may be luckier
                logger.exception("The logs could not be seen to.")
            await asyncio.sleep(LOOK_S)

    async def _collect(self, source: Source) -> None:
        try:
            await self._look_after(source)
        except NodeGone:
            message = "The node of this process is gone, and with it what the process said last."
            await self._journal.take(tail.note(source, "error", message, ended=True))
        except Exception as error:
            logger.warning(f"What {source.replica} said last could not be collected: {error!r}")
            self._journal.put_off(source)
        finally:
            del self._collecting[source]

    async def _look_after(self, source: Source) -> None:
        rest = await self._collector.collect(source, await self._journal.offsets(source))
        for batch in rest.batches:
            await self._journal.take(decode(batch))
        if rest.alive or rest.more:
            self._journal.put_off(source)
        else:
            message = "The process is gone without having said so."
            await self._journal.take(tail.note(source, "error", message, ended=True))

    async def _look(self) -> None:
        try:
            table = await asyncio.to_thread(self._board.table)
            self._table = table or Table()
        except Exception as error:  # Ray's control service may be away for a while
            logger.warning(f"The policy's table cannot be read: {error!r}")

    def _over(self, model: str) -> bool:
        """Whether none of its processes is there and none is to come."""
        row = self._table.row(model)
        return not (row.replicas or row.waiting or any(source.model == model for source in self._journal.heard))
