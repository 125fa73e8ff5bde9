"""The keeper's part that looks at models and memory every two seconds, and keeps what it saw for a day."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.config import Settings
from deployments.history.intervals import ends_of, standing
from deployments.history.past import DAY_S, FINE, RESOLUTIONS, Past
from deployments.history.samples import taken
from deployments.history.store import Store
from deployments.memory import Memory
from deployments.metrics.part import names_of
from deployments.residency.board import Report, Table
from deployments.usage import ranges

PATH = "/history"
WRITE_S = 10.0
SWEEP_S = 600.0

logger = logging.getLogger("ray.serve.llm_manager")

Look = Callable[[], tuple[Table, Sequence[Report]]]


class HistoryPart:
    def __init__(
        self,
        settings: Settings,
        folder: Path,
        look: Look,
        rates: Callable[[], Mapping[str, float]],
        nodes: Callable[[], Mapping[str, Memory]],
    ) -> None:
        """folder: of the application's own. look: reads the board; it blocks. rates: tokens per second, by model.
        nodes: memory, by address."""
        self.routes = [Route(PATH, self._told, methods=["POST"])]
        self._public, _ = names_of(settings)
        self._path = folder / "history.sqlite"
        self._look, self._rates, self._nodes = look, rates, nodes
        self._past = Past()
        self._store: Store | None = None
        self._written_at = self._swept_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self._open)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._store is not None:
            await asyncio.to_thread(self._write)
            self._store.close()

    async def _run(self) -> None:
        failing = False
        while True:
            step_s = FINE.step_s
            await asyncio.sleep(step_s - time.time() % step_s)
            try:
                await self._turn(int(time.time() // step_s * step_s))
                failing = False
            except Exception:
                if not failing:
                    logger.exception("How the models stand cannot be kept.")
                failing = True

    async def _turn(self, at: int) -> None:
        table, reports = await asyncio.to_thread(self._look)
        sample = taken(at, table, reports, self._public, self._rates(), self._nodes())
        now = standing(table, reports, self._public)
        changed = self._past.add(sample, now, ends_of(table, self._public))
        if changed or time.monotonic() - self._written_at >= WRITE_S:
            self._written_at = time.monotonic()
            await asyncio.to_thread(self._write)

    async def _told(self, request: Request) -> Response:
        data = await request.json()
        seconds = ranges.seconds_of(data["range"])
        return await asyncio.to_thread(lambda: JSONResponse(self._body(seconds, data["models"])))

    def _body(self, seconds: int, models: Sequence[str] | None) -> dict[str, Any]:
        """Of `/api/history`: it may be large. models: whose past is told; None is all."""
        told = self._past.told(seconds, time.time(), models)
        message = f"{len(told['times'])} points of {told['step_s']} s each."
        return {"success": True, "message": message, **told}

    def _open(self) -> None:
        """Without a disk the past lasts as long as the process."""
        try:
            self._store = Store(self._path)
            self._sweep()
            self._past = Past(self._store.read())
        except Exception:
            logger.exception("The history cannot be kept on disk.")

    def _write(self) -> None:
        new = self._past.take_new()
        if self._store is None:
            return
        self._store.write(*new)
        if time.monotonic() - self._swept_at >= SWEEP_S:
            self._sweep()

    def _sweep(self) -> None:
        assert self._store is not None
        self._swept_at, now = time.monotonic(), time.time()
        for resolution in RESOLUTIONS:
            self._store.forget(resolution.step_s, now - resolution.kept_s)
        self._store.forget_intervals(now - DAY_S)
