"""A pool's replica: one process that holds the engines of several models, and swaps them without a new process."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from deployments import engines, memory, sizes, sources, warm
from deployments.config import ModelConfig, PoolConfig
from deployments.errors import ApiError
from deployments.model import spec
from deployments.replica import TURN_S, Replica, announcer
from deployments.server import Guard
from deployments.shelf import Shelf

logger = logging.getLogger("ray.serve.llm_manager")


class PoolReplica(Replica):
    """The class behind every pool's Serve deployment."""

    async def __init__(  # type: ignore[misc]
        self, pool: dict[str, Any], models: list[dict[str, Any]], cache_dir: str, load_wait_s: float
    ) -> None:
        """pool, models: PoolConfig and the ModelConfigs of its members, as plain data."""
        self._pool = PoolConfig.model_validate(pool)
        self._models = [ModelConfig.model_validate(model) for model in models]
        self._load_wait_s = load_wait_s
        super().__init__(self._pool.deployment_name, cache_dir)
        await self.start()
        warm.refill(lambda: self._guard.unfinished, self._began_at)

    async def _load(self) -> None:
        capacity = self._pool.max_models_per_replica
        self._engines = _Engines(self._models, self._cache_dir)
        self._meter = memory.Meter(lambda: self._engines.device_mb)
        self._members = Shelf(
            self._engines,
            {model.name: model.idle_timeout_s or math.inf for model in self._models},
            capacity,
            announcer(capacity),
            wait_s=self._load_wait_s,
            turn_s=TURN_S,
        )
        self._guard = Guard(None, self._check_engine, self._members, self._pool.idle_timeout_s or math.inf)
        for model in [model for model in self._models if model.auto_start][:capacity]:
            try:
                await self._members.load(model.name)
            except ApiError as error:  # the others can be served
                logger.error(error.message)

    async def _check_engine(self) -> None:
        """An engine that is not well is replaced when it is next asked."""

    async def _unload(self) -> None:
        pass

    def _keep_sizes(self, load_s: float) -> None:
        sizes.keep(sizes.Key.of_pool(self._pool, self._models), self._cache_dir, self._meter.peak_mb, load_s)

    async def __del__(self) -> None:
        """Serve calls it after the drain. The constructor may have failed half way."""
        await self.stop()


class _Engines:
    """The engines that are up in this process, by their models' names."""

    def __init__(self, models: list[ModelConfig], cache_dir: Path) -> None:
        self._models = {model.name: model for model in models}
        self._cache_dir = cache_dir
        self._up: dict[str, engines.Engine] = {}

    @property
    def device_mb(self) -> float:
        """What an engine says of a device is the whole process's."""
        return max((engine.device_mb() for engine in self._up.values()), default=0)

    async def load(self, name: str) -> ASGIApp:
        model = self._models[name]
        [variant] = model.variants
        folder = None
        if variant.source is not None:
            folder = await asyncio.to_thread(sources.prepare, variant.source, self._cache_dir)
        engine = engines.create(variant.engine, spec(model, variant, folder))
        try:
            await engine.start()
        except BaseException:
            await engine.stop()
            raise
        self._up[name] = engine
        return engine.app

    async def unload(self, name: str) -> None:
        await self._up.pop(name).stop()

    async def check(self, name: str) -> None:
        await self._up[name].check_health()
