"""A model's replica: one process, one engine, one port. Serve starts, drains, checks and places it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve

from deployments import engines, memory, sizes, sources, warm
from deployments.config import ModelConfig
from deployments.errors import Capacity, EngineFailed
from deployments.residency import policy
from deployments.residency.board import Board, Report
from deployments.server import Guard, Server

logger = logging.getLogger("ray.serve.llm_manager")

LOOPBACK = "127.0.0.1"
LEAVE_LOOK_S = 0.05
NO_POLICY_S = 3.0  # after which an application that publishes no table has no policy of ours


class ModelReplica:
    """The class behind every model's Serve deployment. Requests do not come through Ray but to `url`'s port."""

    async def __init__(self, model: dict[str, Any], cache_dir: str) -> None:  # type: ignore[misc]
        """model: the ModelConfig as plain data. Raises what the source or the engine raises."""
        self._config = ModelConfig.model_validate(model)
        self._cache_dir = await asyncio.to_thread(Path(cache_dir).expanduser)
        self._started = time.monotonic()
        self._host = ray.util.get_node_ip_address()
        context = serve.get_replica_context()
        node = ray.get_runtime_context().get_node_id()
        self._board = Board(context.app_name)
        self._report = Report(context.deployment, context.replica_id.unique_id, node)
        try:
            await self._start()
        except Exception as error:
            await self._say("failed", failure=f"{type(error).__name__}: {error}")
            raise

    async def _start(self) -> None:
        config, began_at = self._config, time.time()
        folder = None
        if config.source is not None:
            logger.info(f"Model {config.name}: preparing {config.source}.")
            await self._say("preparing the weights")
            folder = await asyncio.to_thread(sources.prepare, config.source, self._cache_dir)
            await self._wait_for_memory(folder)
        prepared = time.monotonic()
        logger.info(f"Model {config.name}: loading into {config.engine_name}.")
        await self._say("loading")
        spec = engines.EngineSpec(config.names, folder, config.engine_args)
        self._engine = engines.create(config.engine_name, spec)
        self._meter = memory.Meter(self._engine.device_mb)
        await self._engine.start()
        self._guard = Guard(self._engine.app, self._engine.check_health)
        self._server = Server(self._guard, {LOOPBACK, self._host})
        await self._server.start()
        now = time.monotonic()
        self._load_s = now - self._started
        logger.info(
            f"Model {config.name}: up; prepared {prepared - self._started:.1f} s, loaded {now - prepared:.1f} s."
        )
        await self._say("up", context_length=self._engine.context_length)
        await asyncio.to_thread(self._keep_sizes)
        warm.refill(lambda: self._guard.unfinished, began_at)

    async def _wait_for_memory(self, folder: Path) -> None:
        """Where nobody knew before how much the model takes, the policy reserves it now.

        Raises: Capacity, if it can never fit.
        """
        if self._config.memory_mb is not None or ray.get_gpu_ids():
            return
        need_mb = await asyncio.to_thread(sizes.estimate_mb, folder, self._config.engine_args)
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

    async def _say(self, phase: str, **what: Any) -> None:
        self._report = replace(self._report, phase=phase, since=time.time(), **what)
        try:
            await asyncio.to_thread(self._board.report, self._report)
        except Exception:  # what is shown of it is not worth the model
            logger.exception("The replica's report could not be left.")

    def _keep_sizes(self) -> None:
        self._meter.read()
        sizes.keep(self._config, self._cache_dir, self._meter.peak_mb, self._load_s)

    async def wake(self) -> None:
        """Does nothing: that Serve could call it says that the replica is up."""

    def record_replica_metadata(self) -> dict[str, Any]:
        """Serve hook: what the ingress needs to reach this replica."""
        return {"host": self._host, "port": self._server.port, "secret": self._guard.secret}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve hook: the slots that the ingress holds do not count as requests in Serve's own figures."""
        machine = memory.machine()
        return {
            policy.UNFINISHED: float(self._guard.unfinished),
            policy.MEMORY: self._meter.read(),
            policy.NODE_TOTAL: machine.total_mb,
            policy.NODE_FREE: machine.free_mb,
            policy.KEEP_ALIVE: self._guard.keep_alive_s,
            policy.KEEP_ALIVE_AT: self._guard.keep_alive_at,
        }

    async def check_health(self) -> None:
        """Serve hook. Raises EngineFailed when the engine or its server cannot answer any more."""
        if not self._server.alive:
            raise EngineFailed("The replica's HTTP server has ended.")
        await self._engine.check_health()

    async def __del__(self) -> None:
        """Serve calls it after the drain. The constructor may have failed half way."""
        if server := getattr(self, "_server", None):
            await asyncio.to_thread(self._keep_sizes)
            await server.stop()
        if engine := getattr(self, "_engine", None):
            await engine.stop()
