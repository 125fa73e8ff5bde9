"""Which requests run, and the last that have ended: this replica's own, and by the keeper those of the others."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any, Protocol

from deployments.activity import wire
from deployments.errors import RequestNotFound
from deployments.usage.record import Record
from ingress.running import Models, Running, may_see, row

RECENT = "/usage/recent"
RETRY_S = 0.5
PATIENCE_S = 3.0

logger = logging.getLogger("ray.serve.llm_manager")


class Keeper(Protocol):
    """As `deployments.keeper.client.KeeperClient`."""

    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any: ...


class Activity:
    """Must be used on one event loop."""

    def __init__(self, running: Running, keeper: Keeper, replica: str) -> None:
        """replica: an id of this ingress replica, which no other one has."""
        self._running = running
        self._keeper = keeper
        self._replica = replica
        self._looked_at = False
        self._cancelled: dict[str, bool] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), context=contextvars.Context())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def requests(self, limit: int, models: Models = None) -> dict[str, Any]:
        """limit: of those that have ended. Raises: KeeperGone."""
        named = None if models is None else sorted(models)
        others, ended = await asyncio.gather(
            self._keeper.ask(wire.REQUESTS, {"replica": self._replica}),
            self._keeper.ask(RECENT, {"limit": limit, "models": named}),
        )
        rates = others["tokens_per_second"]
        recent = [row(Record(**record)) for record in ended["rows"]]
        recent = together(self._running.last(), recent, models, newest_first=True)[:limit]
        over = {one["id"] for one in recent}
        running = together(self._running.rows(), others["running"], models)
        return {
            "running": [one for one in running if one["id"] not in over],
            "recent": recent,
            "tokens_per_second": {model: rate for model, rate in rates.items() if may_see(models, model)},
        }

    async def cancel(self, id_: str, models: Models = None) -> None:
        """Ends a request, whichever replica has it. models: as long as it is one of theirs.

        Raises: RequestNotFound, if none of the id runs; KeeperGone, if only others may have it."""
        if await self._running.cancel(id_, models):
            return
        named = None if models is None else sorted(models)
        told = await self._keeper.ask(wire.CANCEL, {"replica": self._replica, "id": id_, "models": named})
        if not told["found"]:
            raise RequestNotFound(f"No request {id_!r} runs.", param="id")

    async def exchange(self) -> None:
        """Tells the keeper what runs, and does what it wants. Raises: KeeperGone."""
        report = {
            "replica": self._replica,
            "tokens": self._running.tokens(),
            "running": self._running.rows() if self._looked_at else None,
            "cancelled": self._cancelled,
        }
        wanted = await self._keeper.ask(wire.EXCHANGE, report, within_s=wire.HELD_S + PATIENCE_S)
        self._looked_at = wanted["look"]
        orders = wanted["cancel"]
        found = await asyncio.gather(*(self._running.cancel(order["id"], order["models"]) for order in orders))
        self._cancelled = {order["number"]: one for order, one in zip(orders, found, strict=True)}

    async def _run(self) -> None:
        failing = False
        while True:
            try:
                await self.exchange()
                failing = False
            except Exception as error:  # it is away
                if not failing:
                    logger.warning(f"The keeper is not told which requests run: {error!r}")
                failing = True
                self._cancelled = {}
                await asyncio.sleep(RETRY_S)


def together(
    own: list[dict[str, Any]], others: list[dict[str, Any]], models: Models, *, newest_first: bool = False
) -> list[dict[str, Any]]:
    """Each once, in the order in which they began, or have ended; those of the models."""
    rows = {one["id"]: one for one in (*others, *own) if may_see(models, one["model"])}

    def at(one: dict[str, Any]) -> float:
        began_at: float = one["began_at"]
        return -began_at - one["total_ms"] / 1000 if newest_first else began_at

    return sorted(rows.values(), key=at)
