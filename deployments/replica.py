"""What every replica does: it serves on a port of its own, tells the board how it is, and answers Serve's hooks."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve

from deployments import memory
from deployments.errors import EngineFailed
from deployments.keeper.address import AddressBook
from deployments.keeper.blocking import BlockingClient
from deployments.logs import shipper
from deployments.logs.quiet import SERVES_LOGGER, OnceADrain
from deployments.residency import policy
from deployments.residency.board import Board, Report
from deployments.server import Guard, Server
from deployments.shelf import Announce, Shelf

logger = logging.getLogger("ray.serve.llm_manager")

LOOPBACK = "127.0.0.1"
TELL_S = 0.1  # between two reports of what happens inside
SWEEP_S = 1.0  # between looks at what is idle inside
LEAVE_S = 1.0
LEAVE_LOOKS = 3  # in a row, that find nothing to do in a process that nobody wants and Serve does not look after
TURN_S = 30.0
"""Seconds that a member waits while all places inside the replica are in use."""


class Replica(ABC):
    """Requests do not come through Ray but to `url`'s port. Made inside Serve, on the replica's event loop."""

    def __init__(self, key: str, cache_dir: str) -> None:
        """key: what the model or pool is called on the board."""
        self._cache_dir = Path(cache_dir).expanduser()
        self._started = time.monotonic()
        self._began_at = time.time()
        self._host = ray.util.get_node_ip_address()
        context = serve.get_replica_context()
        node = ray.get_runtime_context().get_node_id()
        self._board = Board(context.app_name)
        replica = context.replica_id.unique_id
        self._report = Report(key, replica, node, deployment=context.deployment, address=self._host)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._checked_at = self._started
        self._members: Shelf | None = None
        self._guard: Guard
        self._server: Server
        self._meter: memory.Meter
        logging.getLogger(SERVES_LOGGER).addFilter(OnceADrain())
        keeper = BlockingClient(AddressBook(context.app_name))
        self._shipper = shipper.of_this_process(key, self._report.replica, node, keeper)
        self._shipper.start()

    @abstractmethod
    async def _load(self) -> None:
        """Makes `_guard` and `_meter`, and `_members` if it has any. Raises what the source or the engine raises."""

    @abstractmethod
    async def _check_engine(self) -> None:
        """Raises EngineFailed when the replica can be of no use any more."""

    @abstractmethod
    async def _unload(self) -> None:
        """May be called after a failed `_load`."""

    @abstractmethod
    def _keep_sizes(self, load_s: float) -> None:
        """Writes down what the replica took, for the next server. May block."""

    @property
    def _context_length(self) -> int | None:
        return None

    async def start(self) -> None:
        try:
            await self._load()
            server = Server(self._guard, {LOOPBACK, self._host})
            await server.start()
        except Exception as error:
            if self._stopping:
                raise
            logger.exception(f"Model {self._report.model}: could not be loaded.")
            await self._say("failed", failure=f"{type(error).__name__}: {error}")
            raise
        self._server = server
        self._load_s = time.monotonic() - self._started
        await self._say("up", context_length=self._context_length)
        await asyncio.to_thread(self._measure)
        work = [self._leave_when_done()]
        if self._members is not None:
            work += [self._tell(self._members), _sweep(self._members)]
        self._tasks = [asyncio.create_task(one) for one in work]

    async def stop(self) -> None:
        self._stopping = True
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if server := getattr(self, "_server", None):
            await asyncio.to_thread(self._measure)
            await server.stop()
        if self._members is not None:
            await self._members.clear()
        await self._unload()
        await asyncio.to_thread(self._shipper.stop)

    # What Serve and the ingress ask for

    async def wake(self) -> bool:
        """That Serve could call it says that the replica is up."""
        return True

    async def load(self, member: str) -> None:
        """Returns once the model inside this replica is loaded. Raises: ApiError."""
        if self._members is not None:
            await self._members.load(member)
            await self._report_members(self._members)

    async def unload(self, member: str) -> None:
        """Returns once the model inside this replica is gone, its requests finished. Raises: ApiError."""
        if self._members is not None:
            await self._members.unload(member)
            await self._report_members(self._members)

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
        self._checked_at = time.monotonic()
        if not self._server.alive:
            raise EngineFailed("The replica's HTTP server has ended.")
        await self._check_engine()

    # How it ends by itself

    async def _leave_when_done(self) -> None:
        """Serve lets a replica end when its slots are given back, and an ingress replica that was killed gives back
        none: what it held of this one's would keep the model's place for as long as an answer may take."""
        looks = 0
        while looks < LEAVE_LOOKS:
            await asyncio.sleep(LEAVE_S)
            # Serve asks each second how a replica is that it has not told to end.
            alone = time.monotonic() - self._checked_at > LEAVE_LOOKS * LEAVE_S
            done = alone and self._guard.unfinished == 0 and await asyncio.to_thread(self._is_unwanted)
            looks = looks + 1 if done else 0
        logger.info(f"Model {self._report.model}: ends with slots that nobody will give back.")
        await self.stop()
        self._end()

    def _is_unwanted(self) -> bool:
        """Whether the policy has decided that the model is down."""
        with suppress(Exception):  # Ray's control service may be away for a while
            table = self._board.table()
            return table is not None and table.row(self._report.model).replicas == 0
        return False

    def _end(self) -> None:
        ray.kill(ray.get_runtime_context().current_actor)

    # What the board is told

    async def _say(self, phase: str, **what: Any) -> None:
        self._report = replace(self._report, phase=phase, since=time.time(), **what)
        await self._leave_report()

    async def _tell(self, members: Shelf) -> None:
        while True:
            await members.changed()
            await self._report_members(members)
            await asyncio.sleep(TELL_S)

    async def _report_members(self, members: Shelf) -> None:
        self._report = replace(self._report, members=members.shown())
        await self._leave_report()

    async def _leave_report(self) -> None:
        try:
            await asyncio.to_thread(self._board.report, self._report)
        except Exception:  # what is shown of it is not worth the model
            logger.exception("The replica's report could not be left.")

    def _measure(self) -> None:
        self._meter.read()
        self._keep_sizes(self._load_s)


async def _sweep(members: Shelf) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        with suppress(Exception):  # a member that does not go properly has said so
            await members.unload_idle()


def announcer(capacity: int) -> Announce:
    """Serve's model multiplexing, as far as it is of use here: it learns which members are in this replica."""

    async def announce(name: str) -> bool:
        return True

    told: Announce = serve.multiplexed(max_num_models_per_replica=capacity)(announce)
    return told
