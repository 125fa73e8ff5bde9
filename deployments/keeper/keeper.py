"""The keeper's Serve deployment: one replica, on the head, with a port of its own that knows the application's secret.

Serve restarts it when it dies. What must not be lost lies on disk, under `data_dir`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from deployments import memory
from deployments.activity.part import ActivityPart
from deployments.activity.rates import Rates
from deployments.cache.answers import Answers
from deployments.cache.part import CachePart
from deployments.config import Settings
from deployments.errors import ApiError
from deployments.history.part import HistoryPart
from deployments.keeper.address import Address, AddressBook
from deployments.limits.part import LimitsPart
from deployments.logs.collect import RayCollector
from deployments.logs.part import LogsPart
from deployments.memory import Memory
from deployments.metrics.part import MetricsPart, looking
from deployments.residency.board import Board
from deployments.server import Guard, Server
from deployments.usage.part import UsagePart


class Part(Protocol):
    """One thing that is kept: its state, and the routes by which others of the application ask for it."""

    @property
    def routes(self) -> Sequence[BaseRoute]: ...

    async def start(self) -> None:
        """Reads what the last keeper left."""

    async def stop(self) -> None:
        """Writes what is not written yet. The process may also be killed without it."""


class Keeper:
    async def __init__(self, settings: dict[str, Any]) -> None:  # type: ignore[misc]
        """settings: Settings as plain data."""
        context = serve.get_replica_context()
        self._settings = Settings.model_validate(settings)
        self._parts = parts(self._settings, context.app_name)
        for part in self._parts:
            await part.start()
        host = ray.util.get_node_ip_address()
        guard = Guard(app(self._parts), self._well)
        self._server = Server(guard, {host})
        await self._server.start()
        AddressBook(context.app_name).write(Address(f"http://{host}:{self._server.port}", guard.secret))

    async def check_health(self) -> None:
        """Serve hook."""
        if not self._server.alive:
            raise RuntimeError("the keeper's HTTP server has ended")

    async def _well(self) -> None:
        pass

    async def __del__(self) -> None:
        """Serve calls it before the process ends. The constructor may have failed half way."""
        if server := getattr(self, "_server", None):
            await server.stop()
        for part in getattr(self, "_parts", ()):
            await part.stop()


def parts(settings: Settings, application: str) -> tuple[Part, ...]:
    """Their files lie in a folder of the application's own."""
    folder = settings.data_dir.expanduser() / application
    rates = Rates()
    return (
        LogsPart(settings.logs, folder, Board(application), RayCollector()),
        UsagePart(settings.usage, folder, application),
        MetricsPart(settings, application),
        LimitsPart(),
        ActivityPart(rates),
        HistoryPart(settings, folder, looking(application), rates.now, here),
        CachePart(Answers(int(settings.cache.max_mb * 2**20))),
    )


def here() -> dict[str, Memory]:
    """The memory of the keeper's node, by its address."""
    return {ray.util.get_node_ip_address(): memory.machine()}


def app(parts: Sequence[Part]) -> Starlette:
    return Starlette(
        routes=[route for part in parts for route in part.routes], exception_handlers={ApiError: _api_error}
    )


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers())
