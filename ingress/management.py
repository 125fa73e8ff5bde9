"""What operators ask for: start, stop and restart models, and see how they are."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from deployments.errors import (
    ApiError,
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotRunning,
    StopTimeout,
    UpstreamTimeout,
)
from deployments.memory import MB
from deployments.residency.board import SUPERSEDED, Board, Kind, Table, Wish
from deployments.sse import event
from ingress.catalog import Catalog, Entry
from ingress.leases import RETRY_AFTER_S, Route, still_loading
from ingress.shared import Shared
from ingress.states import ModelState, State, States

logger = logging.getLogger("ray.serve.llm_manager")

LOOK_S = 0.1
CHANGES_S = 0.5
PIN_S = 10.0
PING_S = 15.0
_INSIDE = (State.RUNNING, State.STARTING, State.STOPPING)
# Change all the time, and are told with the next change of something else.
_CLOCKS = ("idle_seconds", "last_used_at", "unloads_at", "memory_bytes", "loading")


class Management:
    def __init__(
        self,
        catalog: Catalog,
        states: States,
        board: Board,
        routes: Mapping[str, Route],
        *,
        start_s: float,
        stop_s: float,
    ) -> None:
        """routes: of each entry, by its name. start_s, stop_s: how long a caller waits for a start, and for a stop."""
        self._catalog = catalog
        self._routes = routes
        self._unattended: set[asyncio.Task[None]] = set()
        self._states = states
        self._board = board
        self._table = Shared(board.table, LOOK_S)
        self._start_s = start_s
        self._stop_s = stop_s

    # How the models are

    async def models(self, shown: Iterable[Entry] | None = None) -> list[dict[str, Any]]:
        """shown: default is all."""
        reading = await self._states.all()
        return [view(entry, reading.of_entry(entry)) for entry in (self._catalog if shown is None else shown)]

    async def model(self, name: str) -> dict[str, Any]:
        """Raises: ModelNotFound."""
        entry = self._catalog.find(name)
        return view(entry, await self._states.of_entry(entry))

    async def changes(self, shown: Iterable[Entry] | None = None) -> AsyncGenerator[bytes, None]:
        """Server-sent events: the whole table, then each model that has changed."""
        told: dict[str, dict[str, Any]] = {}
        quiet_since = time.monotonic()
        while True:
            models = await self.models(shown)
            changed = [m for m in models if _steady(m) != told.get(m["name"])]
            if changed:
                first = not told
                told.update({m["name"]: _steady(m) for m in changed})
                if first:
                    yield event({"type": "models", "models": models})
                else:
                    for m in changed:
                        yield event({"type": "model", "model": m})
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > PING_S:
                yield b": ping\n\n"
                quiet_since = time.monotonic()
            await asyncio.sleep(CHANGES_S)

    # What is to become of them

    async def start(self, entry: Entry) -> None:
        """Returns once the model can answer; a start in progress is joined.

        Raises: ModelLoadFailed with the reason; ModelNotRunning if somebody stopped it meanwhile; ModelLoading or
        Capacity after `start_s`, while the start goes on.
        """
        await self._raise(entry, "start")

    async def stop(self, entry: Entry) -> None:
        """Returns once the model's requests have ended and its processes are gone; of one inside others' replicas, once
        it is gone from them.

        Raises: StopTimeout after `stop_s`, while the stop goes on.
        """
        late = StopTimeout(f"The model {entry.name!r} still finishes its requests.", retry_after_s=RETRY_AFTER_S)
        try:
            async with asyncio.timeout(self._stop_s):
                if entry.member is not None:
                    await self._take_out(entry)
                    return
                problem = await self._wait(await self._wish(entry, "stop"))
        except TimeoutError:
            raise late from None
        if problem:
            raise ModelNotRunning(f"The stop of {entry.name!r} was given up: {problem}.", retry_after_s=RETRY_AFTER_S)

    async def stop_all(self) -> list[str]:
        """The models that were up, by name. Raises: StopTimeout."""
        reading = await self._states.all()
        up = [e.name for e in self._catalog if reading.of_entry(e).state not in (State.STOPPED, State.FAILED)]
        await _all(self.stop(host) for host in self._catalog.hosts)
        return up

    async def restart_autostart(self) -> dict[str, str]:
        """Ends the `auto_start` models and starts them again. Returns each one's problem, by name; empty is success."""
        entries = [entry for entry in self._catalog if entry.auto_start]
        problems = await asyncio.gather(*(self._raise(entry, "restart") for entry in entries), return_exceptions=True)
        told = {}
        for entry, problem in zip(entries, problems, strict=True):
            if isinstance(problem, BaseException) and not isinstance(problem, ApiError):
                raise problem
            told[entry.name] = problem.message if isinstance(problem, ApiError) else ""
        return told

    async def pin(self, entry: Entry, *, pinned: bool) -> None:
        """Returns once it holds. Raises: InvalidRequest, if the model goes with others; UpstreamTimeout."""
        if entry.member is not None:
            what = f"the adapter of {entry.parent!r}" if entry.parent else f"a model of the pool {entry.pool!r}"
            raise InvalidRequest(f"{entry.name!r} is {what}: it stays as long as others let it.", param="alias")
        try:
            async with asyncio.timeout(PIN_S):
                await self._wait(await self._wish(entry, "pin" if pinned else "unpin"))
        except TimeoutError:
            raise UpstreamTimeout("Serve's controller does not answer; the wish stands.") from None

    async def wish(self, entry: Entry, kind: Kind) -> None:
        """Says what is wanted and waits for nothing."""
        if entry.member is None:
            await self._wish(entry, kind)
            return
        work = self.stop(entry) if kind == "stop" else self._raise(entry, kind)
        task = asyncio.create_task(_unattended(entry, work), context=contextvars.Context())
        self._unattended.add(task)
        task.add_done_callback(self._unattended.discard)

    async def _wish(self, entry: Entry, kind: Kind) -> Wish:
        return await asyncio.to_thread(self._board.wish, entry.deployment_name, kind)

    async def _raise(self, entry: Entry, kind: Kind) -> None:
        try:
            async with asyncio.timeout(self._start_s):
                if entry.member is not None and kind == "restart":  # the others beside it stay
                    await self._take_out(entry)
                    kind = "start"
                problem = await self._wait(await self._wish(entry, kind))
                if entry.member is not None and not problem:
                    await self._routes[entry.name].load()
                    self._states.expire()
        except TimeoutError:
            raise still_loading(entry.name, await self._states.of_entry(entry)) from None
        if not problem:
            return
        if problem.startswith(SUPERSEDED):
            raise ModelNotRunning(f"The start of {entry.name!r} was given up: {problem}.", retry_after_s=RETRY_AFTER_S)
        raise ModelLoadFailed(f"The model {entry.name!r} could not be loaded: {problem}", retry_after_s=RETRY_AFTER_S)

    async def _take_out(self, entry: Entry) -> None:
        """Each call reaches one replica that has the member."""
        while (await self._states.of_entry(entry, max_age_s=0)).state in _INSIDE:
            try:
                await self._routes[entry.name].unload()
            except EngineFailed as error:  # it goes with its replica
                logger.warning(f"Model {entry.name}: {error.message}")
                await asyncio.sleep(LOOK_S)
            self._states.expire()

    async def _wait(self, wish: Wish) -> str:
        """What became of the wish: empty is success."""
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


def view(model: Entry, now: ModelState) -> dict[str, Any]:
    """A model as `/api/models` shows it. Times are seconds since 1970."""
    idle = now.last_used_at is not None and now.state is State.RUNNING and not now.running and not now.pending
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "parent": model.parent,
        "pool": model.pool,
        "mode": model.mode,
        "engine": model.engine_at(now.deployment),
        "placement": now.deployment or model.deployment_name,
        "not_placed": dict(now.placements),
        "status": now.state,
        "failure_reason": now.failure_reason,
        "reason": now.reason,
        "loading": None if now.loading is None else asdict(now.loading),
        "replicas": now.replicas,
        "nodes": list(now.nodes),
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
        "pinned": model.model.pinned if now.pinned is None else now.pinned,
        "priority": model.model.priority,
    }


def _steady(model: dict[str, Any]) -> dict[str, Any]:
    steady = {key: value for key, value in model.items() if key not in _CLOCKS}
    return {**steady, "phase": (model["loading"] or {}).get("phase")}


async def _unattended(entry: Entry, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:
        logger.warning(f"Model {entry.name}: {error}")


async def _all(stops: Iterable[Any]) -> None:
    for outcome in await asyncio.gather(*stops, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
