"""The keeper's part that tells Prometheus which models are up, once a second, from what lies on the board."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from starlette.routing import BaseRoute

from deployments.config import Settings
from deployments.metrics import residency
from deployments.metrics.meters import Meters, RayMeters, Sample
from deployments.metrics.names import LOAD, MEASURED, QUEUED, RESERVED, RESIDENT, SWAPS
from deployments.residency.board import Board, Report, Table

PERIOD_S = 1.0
OWN = (SWAPS, LOAD, RESIDENT, RESERVED, MEASURED, QUEUED)

logger = logging.getLogger("ray.serve.llm_manager")

Look = Callable[[], tuple[Table, Sequence[Report]]]


class MetricsPart:
    routes: Sequence[BaseRoute] = ()

    def __init__(
        self, settings: Settings, application: str, look: Look | None = None, meters: Meters | None = None
    ) -> None:
        """look: reads the board; it blocks."""
        self._public, self._members = names_of(settings)
        self._application = application
        self._look = look
        self._meters = meters
        self._last: Table | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._look = self._look or looking(self._application)
        self._meters = self._meters or RayMeters(self._application, OWN)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failing = False
        while True:
            try:
                await self._turn()
                failing = False
            except Exception:
                if not failing:
                    logger.exception("The models' metrics cannot be told.")
                failing = True
            await asyncio.sleep(PERIOD_S)

    async def _turn(self) -> None:
        assert self._look is not None
        assert self._meters is not None
        table, reports = await asyncio.to_thread(self._look)
        self._meters.tell(self._samples(table, reports))
        self._last = table

    def _samples(self, table: Table, reports: Sequence[Report]) -> Iterable[Sample]:
        if self._last is not None:  # what was before this process, an earlier one has told
            yield from residency.happened(self._last, table, self._public)
        yield from residency.standing(table, self._public)
        yield from residency.members(reports, self._members)


def names_of(settings: Settings) -> tuple[dict[str, str], tuple[str, ...]]:
    """The public name of each row of the table, a pool's being its deployment's; the models inside pools."""
    own = {model.deployment_name: model.name for model in settings.models if model.pool is None}
    pools = {pool.deployment_name: pool.deployment_name for pool in settings.all_pools}
    return own | pools, tuple(model.name for model in settings.models if model.pool is not None)


def looking(application: str) -> Look:
    """Reads the application's board, made when it is first needed."""

    def look() -> tuple[Table, Sequence[Report]]:
        board = Board(application)
        return board.table() or Table(), board.reports()

    return look
