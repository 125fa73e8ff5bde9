"""A model's replica: one process, one engine, one port. Serve starts, drains, checks and places it."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import ray

from deployments import engines, sources
from deployments.config import ModelConfig
from deployments.errors import EngineFailed
from deployments.residency import UNFINISHED
from deployments.server import Guard, Server

logger = logging.getLogger("ray.serve.llm_manager")

LOOPBACK = "127.0.0.1"


class ModelReplica:
    """The class behind every model's Serve deployment. Requests do not come through Ray but to `url`'s port."""

    async def __init__(self, model: dict[str, Any], cache_dir: str) -> None:  # type: ignore[misc]
        """model: the ModelConfig as plain data. Raises what the source or the engine raises."""
        config = ModelConfig.model_validate(model)
        started = time.monotonic()
        folder = None
        if config.source is not None:
            logger.info(f"Model {config.name}: preparing {config.source}.")
            folder = await asyncio.to_thread(_prepare, config.source, cache_dir)
        prepared = time.monotonic()
        logger.info(f"Model {config.name}: loading into {config.engine_name}.")
        spec = engines.EngineSpec(config.names, folder, config.engine_args)
        self._engine = engines.create(config.engine_name, spec)
        await self._engine.start()
        self._guard = Guard(self._engine.app, self._engine.check_health)
        self._host = ray.util.get_node_ip_address()
        self._server = Server(self._guard, {LOOPBACK, self._host})
        await self._server.start()
        now = time.monotonic()
        logger.info(f"Model {config.name}: up; prepared {prepared - started:.1f} s, loaded {now - prepared:.1f} s.")

    async def wake(self) -> None:
        """Does nothing: that Serve could call it says that the replica is up."""

    def record_replica_metadata(self) -> dict[str, Any]:
        """Serve hook: what the ingress needs to reach this replica."""
        return {"host": self._host, "port": self._server.port, "secret": self._guard.secret}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve hook: the slots that the ingress holds do not count as requests in Serve's own figures."""
        return {UNFINISHED: float(self._guard.unfinished)}

    async def check_health(self) -> None:
        """Serve hook. Raises EngineFailed when the engine or its server cannot answer any more."""
        if not self._server.alive:
            raise EngineFailed("The replica's HTTP server has ended.")
        await self._engine.check_health()

    async def __del__(self) -> None:
        """Serve calls it after the drain. The constructor may have failed half way."""
        if server := getattr(self, "_server", None):
            await server.stop()
        if engine := getattr(self, "_engine", None):
            await engine.stop()


def _prepare(source: str, cache_dir: str) -> Path:
    return sources.prepare(source, Path(cache_dir).expanduser())
