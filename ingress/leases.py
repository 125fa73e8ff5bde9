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
from collections.abc import Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any

from deployments.errors import ApiError, Capacity, EngineFailed, ModelLoadFailed, ModelLoading, ModelNotFound
from deployments.residency.decision import BACK_OFF_S
from deployments.server import MEMBER_HEADER, SECRET_HEADER
from ingress import handles as serves
from ingress.states import STOPPED, ModelState, State, States

LEASE_S = 0.25
LOOPBACK = "127.0.0.1"
LOOK_S = 0.5  # between looks at the state of a model that is waited for
RETRY_S = 0.1
REST_S = 30.0  # without any request, after which Serve's handles are closed
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

    def __init__(
        self, slot: AbstractAsyncContextManager[Any], selection: Any, here: str, member: str | None = None
    ) -> None:
        metadata = selection.replica_metadata
        host = LOOPBACK if selection.node_id == here else metadata["host"]
        self.url = f"http://{host}:{metadata['port']}"
        self.headers = {SECRET_HEADER.decode(): metadata["secret"]}
        if member is not None:
            self.headers[MEMBER_HEADER.decode()] = member
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
    deployment: str
    waiting: int = 0


class Route:
    """The leases on one model's replicas."""

    def __init__(
        self,
        handles: Mapping[str, Any],
        *,
        name: str,
        deployment_name: str,
        share: int,
        here: str,
        states: States,
        member: str | None = None,
    ) -> None:
        """handles: Serve's handle of the deployment at each of the model's placements, by its name, the first one's
        first. share: requests that one slot may stand for. here: this node's id. member: what the model is called
        inside replicas that hold several."""
        self._handles = handles
        self._name = name
        self._deployment_name = deployment_name
        self._share = share
        self._here = here
        self._states = states
        self._member = member
        self._deployment = deployment_name  # where it is served, as far as is known
        self._lost = False  # its start
        self._current: dict[str, Lease] = {}  # by session
        self._opening: dict[str, _Opening] = {}
        self._held: dict[Lease, str] = {}  # at which deployment
        self._closing: set[asyncio.Future[None]] = set()
        self._calls = 0
        self._resting: asyncio.TimerHandle | None = None

    async def acquire(self, wait_s: float, session: str = "") -> Lease:
        """A lease on a replica of the model, which is loaded if need be; of one session all on the same replica.

        Raises: ModelLoadFailed with the engine's reason; ModelLoading or Capacity after `wait_s` seconds; ModelNotFound
        if newer settings have it no more.
        """
        deadline = time.monotonic() + wait_s
        while True:
            lease = self._current.get(session)
            if lease is not None and lease.lends(self._share):
                lease.users += 1
                return lease
            try:
                await self._until_forgotten(deadline)
                await self._join_opening(session, deadline)
            except ApiError:
                raise
            except Exception as error:  # Serve's many ways to say that a replica died or never came
                logger.warning(f"Model {self._name}: no replica: {error!r}")
                await self._raise_reason(timed_out=time.monotonic() >= deadline)
                await asyncio.sleep(RETRY_S)

    def release(self, lease: Lease) -> None:
        lease.users -= 1
        self._close_if_done(lease)

    async def _until_forgotten(self, deadline: float) -> None:
        """Waits while a start was lost. As long as anybody waits at Serve, it neither ends that nor begins another."""
        while self._lost:
            await asyncio.sleep(RETRY_S)
            await self._raise_reason(timed_out=time.monotonic() >= deadline)

    async def _join_opening(self, session: str, deadline: float) -> None:
        """Waits for the opening in progress, or starts one."""
        opening = self._opening.get(session)
        if opening is None:
            opening = _Opening(_detached(self._open(session, self._deployment)), self._deployment)
            self._opening[session] = opening
        task = opening.task
        opening.waiting += 1
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=min(LOOK_S, max(0.0, deadline - time.monotonic())))
                if not task.done():
                    await self._raise_reason(timed_out=time.monotonic() >= deadline)
                if self._lost:
                    task.cancel()
                    raise RuntimeError("its process was lost while it was starting")
                if self._deployment != opening.deployment:
                    task.cancel()
                    raise RuntimeError(f"the model is now served by {self._deployment}")
        finally:
            opening.waiting -= 1
            if task.done() or opening.waiting == 0:
                task.cancel()  # nobody waits any more: Serve must not go on counting a request
                if self._opening.get(session) is opening:
                    del self._opening[session]
                    self._rest_later()
        if task.cancelled():
            raise RuntimeError("Serve cancelled the call")
        task.result()

    async def _raise_reason(self, *, timed_out: bool) -> None:
        """Raises what there is to say about a model that is not up yet."""
        now = await self._look()
        if now.gone:
            raise ModelNotFound(f"The model {self._name!r} does not exist any more.", param="model")
        if now.state is State.FAILED and now.backing_off:
            raise load_failed(self._name, now)
        if now.refused:
            raise Capacity(f"The model {self._name!r} cannot be loaded: {now.reason}.", retry_after_s=RETRY_AFTER_S)
        if timed_out:
            raise still_loading(self._name, now)

    async def _look(self) -> ModelState:
        """How the model is, or those that hold it. Learns where it is served."""
        try:
            now = await asyncio.wait_for(self._states.of(self._deployment_name, LOOK_S), LOOK_S)
        except Exception as error:
            logger.warning(f"The states of the models cannot be read: {error!r}")
            return STOPPED
        if now.deployment in self._handles:
            self._deployment = now.deployment
        self._lost = now.lost
        return now

    async def _open(self, session: str, deployment: str) -> None:
        handle = self._asking(self._handles[deployment])
        if session:
            handle = handle.options(session_id=session)
        if deployment not in self._held.values():
            # Wakes a model that is not up. `choose_replica` would too, but cannot be cancelled while it waits.
            await handle.wake.remote()
            self._states.expire()
        slot = handle.choose_replica()
        lease = Lease(slot, await slot.__aenter__(), self._here, self._member)
        self._held[lease] = deployment
        self._current[session] = lease
        asyncio.get_running_loop().call_later(LEASE_S, self._expire, session, lease)

    def _asking(self, handle: Any) -> Any:
        """Serve's multiplexing sends such calls where the member is."""
        return handle if self._member is None else handle.options(multiplexed_model_id=self._member)

    async def load(self) -> None:
        """Loads the member into a replica, which is up. Raises: ApiError."""
        await self._call("load")

    async def unload(self) -> None:
        """Unloads the member from a replica that has it. Raises: ApiError."""
        await self._call("unload")

    async def _call(self, method: str) -> None:
        await self._look()
        handle = self._asking(self._handles[self._deployment])
        self._calls += 1
        try:
            await getattr(handle, method).remote(self._member)
        except Exception as error:
            cause = getattr(error, "cause", None) or error  # Ray wraps what a replica raises
            if isinstance(cause, ApiError):
                raise cause from None
            raise EngineFailed(f"The replica of the model {self._name!r} failed: {cause!r}") from error
        finally:
            self._calls -= 1
            self._rest_later()

    def _expire(self, session: str, lease: Lease) -> None:
        lease.end()
        if self._current.get(session) is lease:
            del self._current[session]
        self._close_if_done(lease)

    def _close_if_done(self, lease: Lease) -> None:
        if lease.done and lease in self._held:
            del self._held[lease]
            self._keep(_detached(lease.give_back()))
            self._rest_later()

    def _rest_later(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
        loop = asyncio.get_running_loop()
        self._resting = loop.call_later(REST_S, self._rest, context=contextvars.Context())

    def _rest(self) -> None:
        if self._held or self._opening or self._calls or self._closing:
            return  # its end asks again
        for handle in self._handles.values():
            if (closed := serves.close(handle)) is not None:
                self._keep(closed)

    def _keep(self, work: asyncio.Future[None]) -> None:
        self._closing.add(work)
        work.add_done_callback(self._closing.discard)


def _detached(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that belongs to no request. Ray cancels the calls that a request made when it cancels the request, and it
    knows them by the context: a slot would never be given back, or others' wait would end."""
    return asyncio.create_task(work, context=contextvars.Context())
