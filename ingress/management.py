"""What operators ask for: start, stop and restart models, and see how they are."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import asdict
from typing import Any

from deployments.config import ModelConfig
from deployments.errors import ApiError, ModelLoadFailed, ModelNotRunning, StopTimeout
from deployments.memory import MB
from deployments.residency.board import SUPERSEDED, Board, Kind, Table, Wish
from ingress.catalog import Catalog
from ingress.leases import RETRY_AFTER_S, still_loading
from ingress.shared import Shared
from ingress.states import ModelState, State, States

logger = logging.getLogger("ray.serve.llm_manager")

LOOK_S = 0.1
CHANGES_S = 0.5
PING_S = 15.0
# Change all the time, and are told with the next change of something else.
_CLOCKS = ("idle_seconds", "last_used_at", "unloads_at", "memory_bytes", "loading")


class Management:
    def __init__(self, catalog: Catalog, states: States, board: Board, *, start_s: float, stop_s: float) -> None:
        """start_s, stop_s: how long a caller waits for a start, and for a stop."""
        self._catalog = catalog
        self._states = states
        self._board = board
        self._table = Shared(board.table, LOOK_S)
        self._start_s = start_s
        self._stop_s = stop_s

    # How the models are

    async def models(self) -> list[dict[str, Any]]:
        reading = await self._states.all()
        return [view(model, reading.of(model.deployment_name)) for model in self._catalog]

    async def model(self, name: str) -> dict[str, Any]:
        """Raises: ModelNotFound."""
        model = self._catalog.find(name)
        return view(model, await self._states.of(model.deployment_name))

    async def changes(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events: the whole table, then each model that has changed."""
        told: dict[str, dict[str, Any]] = {}
        quiet_since = time.monotonic()
        while True:
            models = await self.models()
            changed = [m for m in models if _steady(m) != told.get(m["name"])]
            if changed:
                first = not told
                told.update({m["name"]: _steady(m) for m in changed})
                if first:
                    yield _event({"type": "models", "models": models})
                else:
                    for m in changed:
                        yield _event({"type": "model", "model": m})
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > PING_S:
                yield b": ping\n\n"
                quiet_since = time.monotonic()
            await asyncio.sleep(CHANGES_S)

    # What is to become of them

    async def start(self, model: ModelConfig) -> None:
        """Returns once the model can answer; a start in progress is joined.

        Raises: ModelLoadFailed with the reason; ModelNotRunning if somebody stopped it meanwhile; ModelLoading or
        Capacity after `start_s`, while the start goes on.
        """
        await self._raise(model, "start")

    async def stop(self, model: ModelConfig) -> None:
        """Returns once the model's requests have ended and its processes are gone.

        Raises: StopTimeout after `stop_s`, while the stop goes on.
        """
        try:
            problem = await self._wait(await self.wish(model, "stop"), self._stop_s)
        except TimeoutError:
            raise StopTimeout(
                f"The model {model.name!r} still finishes its requests.", retry_after_s=RETRY_AFTER_S
            ) from None
        if problem:
            raise ModelNotRunning(f"The stop of {model.name!r} was given up: {problem}.", retry_after_s=RETRY_AFTER_S)

    async def stop_all(self) -> list[str]:
        """The models that were up, by name. Raises: StopTimeout."""
        reading = await self._states.all()
        up = [m.name for m in self._catalog if reading.of(m.deployment_name).state not in (State.STOPPED, State.FAILED)]
        await _all(self.stop(model) for model in self._catalog)
        return up

    async def restart_autostart(self) -> dict[str, str]:
        """Ends the `auto_start` models and starts them again. Returns each one's problem, by name; empty is success."""
        models = [model for model in self._catalog if model.auto_start]
        problems = await asyncio.gather(*(self._raise(model, "restart") for model in models), return_exceptions=True)
        told = {}
        for model, problem in zip(models, problems, strict=True):
            if isinstance(problem, BaseException) and not isinstance(problem, ApiError):
                raise problem
            told[model.name] = problem.message if isinstance(problem, ApiError) else ""
        return told

    async def wish(self, model: ModelConfig, kind: Kind) -> Wish:
        """Says what is wanted and waits for nothing."""
        return await asyncio.to_thread(self._board.wish, model.deployment_name, kind)

    async def _raise(self, model: ModelConfig, kind: Kind) -> None:
        try:
            problem = await self._wait(await self.wish(model, kind), self._start_s)
        except TimeoutError:
            raise still_loading(model.name, await self._states.of(model.deployment_name)) from None
        if not problem:
            return
        if problem.startswith(SUPERSEDED):
            raise ModelNotRunning(f"The start of {model.name!r} was given up: {problem}.", retry_after_s=RETRY_AFTER_S)
        raise ModelLoadFailed(f"The model {model.name!r} could not be loaded: {problem}", retry_after_s=RETRY_AFTER_S)

    async def _wait(self, wish: Wish, wait_s: float) -> str:
        """What became of the wish: empty is success. Raises: TimeoutError."""
        async with asyncio.timeout(wait_s):
            while True:
                answer = (await self._look()).row(wish.model).answers.get(wish.id)
                if answer is not None:
                    self._states.expire()
                    return answer
                await asyncio.sleep(LOOK_S)

    async def _look(self) -> Table:
        try:
            return await self._table.get() or Table()
        except Exception as error:  # the wish stands all the same
            logger.warning(f"The policy's table cannot be read: {error!r}")
            return Table()


def view(model: ModelConfig, now: ModelState) -> dict[str, Any]:
    """A model as `/api/models` shows it. Times are seconds since 1970."""
    idle = now.last_used_at is not None and now.state is State.RUNNING and not now.running and not now.pending
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "mode": model.mode,
        "engine": model.engine_name,
        "status": now.state,
        "failure_reason": now.failure_reason,
        "reason": now.reason,
        "loading": None if now.loading is None else asdict(now.loading),
        "replicas": now.replicas,
        "pending_requests": now.pending,
        "running_requests": now.running,
        "loaded_at": now.loaded_at,
        "last_used_at": now.last_used_at,
        "idle_seconds": round(max(0.0, time.time() - (now.last_used_at or 0)), 1) if idle else None,
        "unloads_at": now.unloads_at,
        "memory_bytes": int(now.memory_mb * MB),
        "memory_needed_bytes": None if now.needs_mb is None else int(now.needs_mb * MB),
        "context_length": now.context_length,
        "auto_start": model.auto_start,
        "auto_load": model.auto_load,
        "pinned": model.pinned,
        "priority": model.priority,
    }


def _steady(model: dict[str, Any]) -> dict[str, Any]:
    steady = {key: value for key, value in model.items() if key not in _CLOCKS}
    return {**steady, "phase": (model["loading"] or {}).get("phase")}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def _all(stops: Iterable[Any]) -> None:
    for outcome in await asyncio.gather(*stops, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
