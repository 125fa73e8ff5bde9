"""Models inside one replica: the adapters of its engine, or the engines of a pool.

As many are loaded as fit; the least recently used idle one makes room, as the residency policy does it with whole
replicas. Serve's model multiplexing, which is told of each load, sends requests to the replica that has their model;
its own LRU does not look at unfinished requests, so it is never left to choose.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol

from starlette.types import ASGIApp

from deployments import clock
from deployments.errors import ApiError, Capacity, EngineFailed, ModelLoadFailed, ModelLoading, ModelNotFound

logger = logging.getLogger("ray.serve.llm_manager")

BACK_OFF_S = 10.0
"""Seconds in which a member that could not be loaded is not tried again."""

Announce = Callable[[str], Awaitable[object]]
"""Tells Serve that this replica has a member, or is about to."""


class Loader(Protocol):
    """How members come and go. Their names are public model names."""

    async def load(self, name: str) -> ASGIApp:
        """What answers for the member. Raises: any exception; its text is what the client reads as the reason."""

    async def unload(self, name: str) -> None: ...

    async def check(self, name: str) -> None:
        """Raises EngineFailed if the member cannot answer any more. Must return at once."""


@dataclass
class Shown:
    """A member as others see it. phase: "", "waiting", "loading", "up", "leaving" or "failed". Times are seconds since
    1970. load_s: what its last load took."""

    phase: str = ""
    since: float = 0
    running: int = 0
    waiting: int = 0
    last_used: float | None = None
    load_s: float | None = None
    failure: str | None = None


@dataclass
class _Member:
    name: str
    idle_s: float
    shown: Shown = field(default_factory=Shown)
    app: ASGIApp | None = None
    closed: bool = False  # it is to go: who wants it waits until it is back
    keep_s: float | None = None  # the last request's own idle time
    coming: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self.app is not None and not self.closed

    @property
    def idle(self) -> bool:
        return self.ready and not self.shown.running and not self.shown.waiting

    @property
    def idle_limit_s(self) -> float:
        return self.idle_s if self.keep_s is None else self.keep_s


class Shelf:
    """Belongs to one event loop."""

    def __init__(
        self,
        loader: Loader,
        members: Mapping[str, float],
        capacity: int,
        announce: Announce,
        *,
        wait_s: float,
        turn_s: float,
    ) -> None:
        """members: seconds after which each is unloaded when idle; inf is never. wait_s: how long a request waits for
        its member. turn_s: how long a member waits while all others are in use; then the one that has been loaded
        longest finishes its requests and goes."""
        self._loader = loader
        self._members = {name: _Member(name, idle_s) for name, idle_s in members.items()}
        self._capacity = capacity
        self._announce = announce
        self._wait_s = wait_s
        self._turn_s = turn_s
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Event()
        self._wakers: list[asyncio.Event] = []

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[ASGIApp]:
        """Lends what answers for the member, which is loaded if need be and stays at least until the end.

        Raises: ModelNotFound; ModelLoadFailed with the reason; ModelLoading or Capacity after `wait_s`.
        """
        member = self._find(name)
        member.shown.waiting += 1
        try:
            app = await self._bring(member)
        finally:
            member.shown.waiting -= 1
            member.shown.last_used = clock.time()
        member.shown.running += 1
        self._tell()
        try:
            yield app
        finally:
            member.shown.running -= 1
            member.shown.last_used = clock.time()
            self._tell()

    async def load(self, name: str) -> None:
        """Returns once it is loaded. Raises: as `use`."""
        self._find(name).shown.failure = None  # an operator's word: no back-off
        async with self.use(name):
            pass

    async def unload(self, name: str) -> None:
        """Returns once its requests have ended and it is gone."""
        member = self._find(name)
        if member.coming is not None:
            await asyncio.wait({member.coming})
        await self._take_down(member)

    async def unload_idle(self) -> None:
        """Unloads what has been idle for its time."""
        for member in self._members.values():
            quiet_s = clock.time() - (member.shown.last_used or member.shown.since)
            if member.idle and quiet_s >= member.idle_limit_s:
                await self._take_down(member)

    async def clear(self) -> None:
        """Unloads everything, finished or not."""
        for member in self._members.values():
            if member.coming is not None:
                member.coming.cancel()
            if member.app is not None:
                member.app = None
                await self._loader.unload(member.name)

    def keep(self, name: str, seconds: float) -> None:
        """A request's own idle time for its member; negative is for ever."""
        if member := self._members.get(name):
            member.keep_s = seconds if seconds >= 0 else math.inf

    def shown(self) -> dict[str, dict[str, object]]:
        """Those of which there is anything to say, as plain data."""
        return {name: asdict(m.shown) for name, m in self._members.items() if m.shown != Shown()}

    async def changed(self) -> None:
        """Returns when something has changed since the last call."""
        await self._changed.wait()
        self._changed.clear()

    def _find(self, name: str) -> _Member:
        try:
            return self._members[name]
        except KeyError:
            raise ModelNotFound(f"The model {name!r} is not served here.", param="model") from None

    async def _bring(self, member: _Member) -> ASGIApp:
        deadline = time.monotonic() + self._wait_s
        while True:
            if member.ready:
                if await self._is_well(member):
                    assert member.app is not None
                    return member.app
                await self._take_down(member)
            shown = member.shown
            if shown.failure is not None and clock.time() - shown.since < BACK_OFF_S:
                raise ModelLoadFailed(
                    f"The model {member.name!r} could not be loaded: {shown.failure}", retry_after_s=round(BACK_OFF_S)
                )
            if member.coming is None:
                # It belongs to no request: with one that ends, Ray would cancel what was called in its context.
                member.coming = asyncio.create_task(self._come(member), context=contextvars.Context())
            await asyncio.wait({member.coming}, timeout=max(0.0, deadline - time.monotonic()))
            if not member.ready and time.monotonic() >= deadline:
                raise self._late(member)

    async def _is_well(self, member: _Member) -> bool:
        try:
            await self._loader.check(member.name)
        except EngineFailed as error:
            logger.warning(f"Model {member.name}: {error}; it is loaded again.")
            return False
        return True

    def _late(self, member: _Member) -> ApiError:
        if member.shown.phase == "loading":
            return ModelLoading(f"The model {member.name!r} is still loading.", retry_after_s=round(BACK_OFF_S))
        why = f"all {self._capacity} places of its process are in use"
        return Capacity(f"No room for the model {member.name!r}: {why}.", retry_after_s=round(BACK_OFF_S))

    async def _come(self, member: _Member) -> None:
        try:
            self._enter(member, "waiting")
            async with self._one_at_a_time:
                if await self._make_room(member):
                    await self._load(member)
                else:
                    self._enter(member, "")
        finally:
            member.coming = None

    async def _make_room(self, member: _Member) -> bool:
        """Whether it is still wanted once there is."""
        began = time.monotonic()
        while self._is_full() and member.shown.waiting:
            waited_s = time.monotonic() - began
            if victim := self._victim(over=waited_s >= self._turn_s):
                await self._take_down(victim)
            else:
                await self._next_change(max(0.01, self._turn_s - waited_s))
        return member.shown.waiting > 0

    def _is_full(self) -> bool:
        return sum(m.app is not None for m in self._members.values()) >= self._capacity

    def _victim(self, *, over: bool) -> _Member | None:
        loaded = [member for member in self._members.values() if member.ready]
        if idle := [member for member in loaded if member.idle]:
            return min(idle, key=lambda m: m.shown.last_used or 0)
        return min(loaded, key=lambda m: m.shown.since, default=None) if over else None

    async def _load(self, member: _Member) -> None:
        self._enter(member, "loading")
        began = time.monotonic()
        try:
            # Serve drops the one that it heard of longest ago: that is none that is loaded.
            loaded = [m for m in self._members.values() if m.app is not None]
            for name in [*(m.name for m in sorted(loaded, key=lambda m: m.shown.last_used or 0)), member.name]:
                await self._announce(name)
            member.app = await self._loader.load(member.name)
        except Exception as error:
            logger.warning(f"Model {member.name} could not be loaded.", exc_info=True)
            self._enter(member, "failed", f"{type(error).__name__}: {error}")
            return
        member.shown.load_s = time.monotonic() - began
        self._enter(member, "up")
        logger.info(f"Model {member.name}: up; loaded in {member.shown.load_s:.2f} s.")

    async def _take_down(self, member: _Member) -> None:
        """Waits for its requests, then unloads it."""
        if member.closed:  # somebody else does
            while member.closed:
                await self._next_change(1.0)
            return
        if member.app is None:
            return
        member.closed = True
        self._enter(member, "leaving")
        try:
            while member.shown.running:
                await self._next_change(1.0)
            member.app = None
            await self._loader.unload(member.name)
            logger.info(f"Model {member.name}: unloaded.")
        except Exception:
            logger.exception(f"Model {member.name} could not be unloaded properly.")
        finally:
            member.closed, member.keep_s = False, None
            self._enter(member, "")

    def _enter(self, member: _Member, phase: str, failure: str | None = None) -> None:
        member.shown.phase, member.shown.since, member.shown.failure = phase, clock.time(), failure
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        for waker in self._wakers:
            waker.set()
        self._wakers.clear()

    async def _next_change(self, timeout_s: float) -> None:
        waker = asyncio.Event()
        self._wakers.append(waker)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await waker.wait()
