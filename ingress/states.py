"""What state each model is in, as Serve's controller sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

TTL_S = 0.5


class State(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True)
class ModelState:
    state: State
    failure_reason: str | None = None


STOPPED = ModelState(State.STOPPED)


def state_of(trigger: str, message: str, replicas: Mapping[str, int]) -> ModelState:
    """The state of a deployment from Serve's DeploymentStatusOverview: why its status is what it is, the message
    to that, and how many replicas are in which state."""
    if replicas.get("RUNNING"):
        return ModelState(State.RUNNING)
    if trigger == "REPLICA_STARTUP_FAILED":
        return ModelState(State.FAILED, failure_reason(message))
    if any(replicas.get(state) for state in ("STARTING", "UPDATING", "RECOVERING", "PENDING_MIGRATION")):
        return ModelState(State.STARTING)
    if replicas.get("STOPPING"):
        return ModelState(State.STOPPING)
    return STOPPED


def failure_reason(message: str) -> str:
    """The last line of the trace that Serve reports: the exception itself."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown"


class States:
    """Reads all states at once; callers within TTL_S share one reading."""

    def __init__(self, read: Callable[[], Mapping[str, ModelState]]) -> None:
        """read: blocking; returns the states by deployment name."""
        self._read = read
        self._reading: asyncio.Task[Mapping[str, ModelState]] | None = None
        self._read_at = float("-inf")

    async def all(self) -> Mapping[str, ModelState]:
        now = time.monotonic()
        if self._reading is None or (self._reading.done() and now - self._read_at > TTL_S):
            self._read_at = now
            self._reading = asyncio.create_task(asyncio.to_thread(self._read))
        return await asyncio.shield(self._reading)

    async def of(self, deployment_name: str) -> ModelState:
        return (await self.all()).get(deployment_name, STOPPED)


def read_from_serve(app_name: str) -> Mapping[str, ModelState]:
    from ray import serve

    application: Any = serve.status().applications.get(app_name)
    if application is None:
        return {}
    return {
        name: state_of(str(d.status_trigger.value), d.message, {str(k): v for k, v in d.replica_states.items()})
        for name, d in application.deployments.items()
    }
