"""A model's replica: one process, one engine, one port. Serve starts, drains, checks and places it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from pathlib import Path
from typing import Any

import ray
from starlette.types import ASGIApp

from deployments import engines, memory, sizes, sources, warm
from deployments.config import ModelConfig, Variant
from deployments.errors import Capacity
from deployments.replica import TURN_S, Replica, announcer
from deployments.server import Guard
from deployments.shelf import Shelf

logger = logging.getLogger("ray.serve.llm_manager")

LEAVE_LOOK_S = 0.05
NO_POLICY_S = 3.0  # after which an application that publishes no table has no policy of ours


class ModelReplica(Replica):
    """The class behind every model's Serve deployment."""

    async def __init__(  # type: ignore[misc]
        self, model: dict[str, Any], rank: int, cache_dir: str, load_wait_s: float
    ) -> None:
        """model: the ModelConfig as plain data. rank: at which of its placements this is. Raises what the source or the
        engine raises."""
        self._config = ModelConfig.model_validate(model)
        self._variant: Variant = self._config.variants[rank]
        self._load_wait_s = load_wait_s
        super().__init__(self._config.deployment_name, cache_dir)
        await self.start()
        warm.refill(lambda: self._guard.unfinished, self._began_at)

    async def _load(self) -> None:
        config, variant = self._config, self._variant
        folder = None
        if variant.source is not None:
            logger.info(f"Model {config.name}: preparing {variant.source}.")
            await self._say("preparing the weights")
            folder = await asyncio.to_thread(
                sources.prepare, variant.source, self._cache_dir, plain=variant.engine == "vllm"
            )
            await self._wait_for_memory(folder)
        prepared = time.monotonic()
        logger.info(f"Model {config.name}: loading into {variant.engine}.")
        await self._say("loading")
        self._engine = engines.create(variant.engine, spec(config, variant, folder))
        self._meter = memory.Meter(self._engine.device_mb)
        await self._engine.start()
        if config.adapters:
            self._members = Shelf(
                _Adapters(self._engine, config, self._cache_dir),
                {adapter.name: math.inf for adapter in config.adapters},
                config.max_adapters,
                announcer(config.max_adapters),
                wait_s=self._load_wait_s,
                turn_s=TURN_S,
            )
        self._guard = Guard(self._engine.app, self._engine.check_health, self._members)
        now = time.monotonic()
        logger.info(
            f"Model {config.name}: up; prepared {prepared - self._started:.1f} s, loaded {now - prepared:.1f} s."
        )

    async def _wait_for_memory(self, folder: Path) -> None:
        """Where nobody knew before how much the model takes, the policy reserves it now.

        Raises: Capacity, if it can never fit.
        """
        if self._config.memory_mb is not None or ray.get_gpu_ids():
            return
        need_mb = await asyncio.to_thread(sizes.estimate_mb, folder, self._variant)
        await self._say("waiting for memory", need_mb=need_mb)
        began = time.monotonic()
        while True:
            table = await asyncio.to_thread(self._board.table)
            row = table.row(self._report.model) if table else None
            if row is None and time.monotonic() - began > NO_POLICY_S:
                return
            if row is not None and row.granted:
                return
            if row is not None and row.refused:
                raise Capacity(row.reason)
            await asyncio.sleep(LEAVE_LOOK_S)

    @property
    def _context_length(self) -> int | None:
        return self._engine.context_length

    async def _check_engine(self) -> None:
        await self._engine.check_health()

    async def _unload(self) -> None:
        if engine := getattr(self, "_engine", None):
            await engine.stop()

    def _keep_sizes(self, load_s: float) -> None:
        sizes.keep(sizes.Key.of_model(self._config, self._variant), self._cache_dir, self._meter.peak_mb, load_s)

    async def __del__(self) -> None:
        """Serve calls it after the drain. The constructor may have failed half way."""
        await self.stop()


def spec(model: ModelConfig, variant: Variant, folder: Path | None) -> engines.EngineSpec:
    return engines.EngineSpec(
        model.names,
        folder,
        variant.engine_args,
        mode=model.mode,
        device=variant.placement.device,
        max_adapters=model.max_adapters if model.adapters else 0,
    )


class _Adapters:
    """The adapters of one engine. They live as long as it is well."""

    def __init__(self, engine: engines.Engine, model: ModelConfig, cache_dir: Path) -> None:
        self._engine = engine
        self._paths = {adapter.name: adapter.path for adapter in model.adapters}
        self._cache_dir = cache_dir

    async def load(self, name: str) -> ASGIApp:
        folder = await asyncio.to_thread(sources.prepare_adapter, self._paths[name], self._cache_dir)
        await self._engine.load_adapter(name, folder)
        return self._engine.app

    async def unload(self, name: str) -> None:
        await self._engine.unload_adapter(name)

    async def check(self, name: str) -> None:
        pass
