"""The way to a model's replicas: one slot on a replica, reserved through Serve, shared by the requests of a moment.

A reservation costs an RPC at each end, about as much as the rest of a short request. So a lease holds one for
LEASE_S and lends it to every request that comes in that time; it is given back when the last of them has ended.
Serve drains a replica until all slots are given back, so a request that has a lease is never cut by an eviction.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any

from deployments.errors import ApiError, Capacity, ModelLoadFailed, ModelLoading
from deployments.residency.decision import BACK_OFF_S
from deployments.server import SECRET_HEADER
from ingress.states import STOPPED, ModelState, State, States

LEASE_S = 0.25
LOOPBACK = "127.0.0.1"
LOOK_S = 0.5  # between looks at the state of a model that is waited for
RETRY_S = 0.1
RETRY_AFTER_S = round(BACK_OFF_S)

logger = logging.getLogger("ray.serve.llm_manager")


def load_failed(name: str, now: ModelState) -> ModelLoadFailed:
    return ModelLoadFailed(f"The model {name!r} could not be loaded: {now.failure_reason}", retry_after_s=RETRY_AFTER_S)


def still_loading(name: str, now: ModelState) -> ApiError:
    """What to say of a model that did not come up in time: it is loading, or waits for a place, or failed."""
    if now.state is State.FAILED:
        return load_failed(name, now)
    if now.state is not State.RUNNING and not now.has_place:
        why = now.reason or "the others are in use"
        return Capacity(f"No room for the model {name!r}: {why}.", retry_after_s=RETRY_AFTER_S)
    if now.loading is None:
        return ModelLoading(f"The model {name!r} is still loading.", retry_after_s=RETRY_AFTER_S)
    return ModelLoading(
        f"The model {name!r} is still loading: {now.loading}.",
        retry_after_s=now.loading.retry_after_s,
        details={"loading": asdict(now.loading)},
    )


class Lease:
    """A replica that may be asked, until `release`."""

    def __init__(self, slot: AbstractAsyncContextManager[Any], selection: Any, here: str) -> None:
        metadata = selection.replica_metadata
        host = LOOPBACK if selection.node_id == here else metadata["host"]
        self.url = f"http://{host}:{metadata['port']}"
        self.headers = {SECRET_HEADER.decode(): metadata["secret"]}
        self.users = 0
        self._slot = slot
        self._lent_until = time.monotonic() + LEASE_S

    def lends(self, share: int) -> bool:
        return self.users < share and time.monotonic() < self._lent_until

    def end(self) -> None:
        """Lends to nobody any more."""
        self._lent_until = float("-inf")

    @property
    def done(self) -> bool:
        return self.users == 0 and self._lent_until == float("-inf")

    async def give_back(self) -> None:
        await self._slot.__aexit__(None, None, None)


@dataclass
class _Opening:
    task: asyncio.Task[None]
    waiting: int = 0


class Route:
    """The leases on one model's replicas."""

    def __init__(self, handle: Any, *, name: str, deployment_name: str, share: int, here: str, states: States) -> None:
        """handle: Serve's handle of the model's deployment. share: requests that one slot may stand for.
        here: this node's id."""
        self._handle = handle
        self._name = name
        self._deployment_name = deployment_name
        self._share = share
        self._here = here
        self._states = states
        self._current: Lease | None = None
        self._opening: _Opening | None = None
        self._held: set[Lease] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def acquire(self, wait_s: float) -> Lease:
        """A lease on a replica of the model, which is loaded if need be.

        Raises: ModelLoadFailed with the engine's reason; ModelLoading or Capacity after `wait_s` seconds.
        """
        deadline = time.monotonic() + wait_s
        while True:
            lease = self._current
            if lease is not None and lease.lends(self._share):
                lease.users += 1
                return lease
            try:
                await self._join_opening(deadline)
            except ApiError:
                raise
            except Exception as error:  # Serve's many ways to say that a replica died or never came
                logger.warning(f"Model {self._name}: no replica: {error!r}")
                await self._raise_reason(timed_out=time.monotonic() >= deadline)
                await asyncio.sleep(RETRY_S)

    def release(self, lease: Lease) -> None:
        lease.users -= 1
        self._close_if_done(lease)

    async def _join_opening(self, deadline: float) -> None:
        """Waits for the opening in progress, or starts one."""
        opening = self._opening
        if opening is None:
            opening = self._opening = _Opening(_detached(self._open()))
        task = opening.task
        opening.waiting += 1
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=min(LOOK_S, max(0.0, deadline - time.monotonic())))
                if not task.done():
                    await self._raise_reason(timed_out=time.monotonic() >= deadline)
        finally:
            opening.waiting -= 1
            if task.done() or opening.waiting == 0:
                task.cancel()  # nobody waits any more: Serve must not go on counting a request
                if self._opening is opening:
                    self._opening = None
        if task.cancelled():
            raise RuntimeError("Serve cancelled the call")
        task.result()

    async def _raise_reason(self, *, timed_out: bool) -> None:
        """Raises what there is to say about a model that is not up yet."""
        try:
            now = await asyncio.wait_for(self._states.of(self._deployment_name, LOOK_S), LOOK_S)
        except Exception as error:
            logger.warning(f"The states of the models cannot be read: {error!r}")
            now = STOPPED
        if now.state is State.FAILED and now.backing_off:
            raise load_failed(self._name, now)
        if now.refused:
            raise Capacity(f"The model {self._name!r} cannot be loaded: {now.reason}.", retry_after_s=RETRY_AFTER_S)
        if timed_out:
            raise still_loading(self._name, now)

    async def _open(self) -> None:
        if not self._held:
            # Wakes a model that is not up. `choose_replica` would too, but cannot be cancelled while it waits.
            await self._handle.wake.remote()
            self._states.expire()
        slot = self._handle.choose_replica()
        lease = Lease(slot, await slot.__aenter__(), self._here)
        self._held.add(lease)
        self._current = lease
        asyncio.get_running_loop().call_later(LEASE_S, self._expire, lease)

    def _expire(self, lease: Lease) -> None:
        lease.end()
        self._close_if_done(lease)

    def _close_if_done(self, lease: Lease) -> None:
        if lease.done and lease in self._held:
            self._held.remove(lease)
            task = _detached(lease.give_back())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _detached(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that belongs to no request. Ray cancels the calls that a request made when it cancels the request, and it
    knows them by the context: a slot would never be given back, or others' wait would end."""
    return asyncio.create_task(work, context=contextvars.Context())
