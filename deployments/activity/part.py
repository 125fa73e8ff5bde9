"""The keeper's part that knows which requests run: all ingress replicas hold a question to it, and so hear at once when
somebody looks or cancels. It lies in memory alone: a new keeper is told anew."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.activity import wire
from deployments.activity.rates import Rates

LOOK_S = 0.4
"""Seconds that a look waits for what the replicas say."""
SAME_S = 0.2
"""Seconds within which looks share what was said."""
CANCEL_S = 2.5
"""Seconds that a cancel waits for what the replicas say."""
GONE_S = 5.0
"""Seconds after which a replica that says nothing has ended; until all that there are have come to a new keeper."""


@dataclass
class Replica:
    """Of the ingress. heard_at: when it last said something. running: its requests when it last told them, at told_at.
    asks: how often it has asked."""

    heard_at: float = 0.0
    running: list[dict[str, Any]] = field(default_factory=list)
    told_at: float = float("-inf")
    asks: int = 0


@dataclass
class Order:
    """A cancel. by: the replica that asks for it, and has looked itself. models: whose requests are meant; None is all.
    answered: replicas that have looked."""

    by: str
    id: str
    models: Collection[str] | None
    answered: set[str] = field(default_factory=set)
    found: bool = False

    def is_for(self, replica: str) -> bool:
        return replica != self.by and replica not in self.answered


class ActivityPart:
    def __init__(self, rates: Rates, clock: Callable[[], float] = time.monotonic) -> None:
        """rates: told of the tokens."""
        asked = {wire.EXCHANGE: self._exchange, wire.REQUESTS: self._requests, wire.CANCEL: self._cancel}
        self.routes = [Route(path, answer, methods=["POST"]) for path, answer in asked.items()]
        self._rates = rates
        self._clock = clock
        self._began_at = clock()
        self._replicas: dict[str, Replica] = {}
        self._orders: dict[str, Order] = {}
        self._looked_at = float("-inf")
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def _exchange(self, request: Request) -> Response:
        told = await request.json()
        name, now = told["replica"], self._clock()
        replica = self._replicas.setdefault(name, Replica())
        replica.heard_at = now
        replica.asks += 1
        asks = replica.asks
        if told["running"] is not None:
            replica.running, replica.told_at = told["running"], now
        self._rates.tell(name, told["tokens"])
        for number, found in told["cancelled"].items():
            if order := self._orders.get(number):
                order.answered.add(name)
                order.found = order.found or found
        await self._tell()
        await self._until(lambda: replica.asks != asks or self._wanted_of(name), wire.HELD_S)
        if replica.asks != asks:  # nobody reads this any more
            return JSONResponse({"look": False, "cancel": []})
        return JSONResponse({"look": self._looks_at(replica), "cancel": self._orders_for(name)})

    async def _requests(self, request: Request) -> Response:
        asker = (await request.json())["replica"]
        since = self._clock() - SAME_S
        if any(replica.told_at < since for replica in self._others(asker).values()):
            self._looked_at = self._clock()
            await self._tell()
        await self._until(lambda: self._all(asker, lambda _, replica: replica.told_at >= since), LOOK_S)
        now = self._clock()
        seen = [replica for replica in self._others(asker).values() if now - replica.told_at <= GONE_S]
        running = [row for replica in seen for row in replica.running]
        return JSONResponse({"running": running, "tokens_per_second": self._rates.now()})

    async def _cancel(self, request: Request) -> Response:
        told = await request.json()
        number, order = uuid.uuid4().hex, Order(told["replica"], told["id"], told["models"])
        self._orders[number] = order

        def answered() -> bool:
            return order.found or self._all(order.by, lambda name, _: name in order.answered)

        try:
            await self._tell()
            await self._until(answered, CANCEL_S)
        finally:
            del self._orders[number]
        return JSONResponse({"found": order.found})

    def _wanted_of(self, name: str) -> bool:
        return self._looks_at(self._replicas[name]) or bool(self._orders_for(name))

    def _looks_at(self, replica: Replica) -> bool:
        return replica.told_at < self._looked_at

    def _orders_for(self, name: str) -> list[dict[str, Any]]:
        return [
            {"number": number, "id": order.id, "models": order.models}
            for number, order in self._orders.items()
            if order.is_for(name)
        ]

    def _others(self, name: str) -> dict[str, Replica]:
        now = self._clock()
        self._replicas = {n: replica for n, replica in self._replicas.items() if now - replica.heard_at <= GONE_S}
        return {n: replica for n, replica in self._replicas.items() if n != name}

    def _all(self, asker: str, true: Callable[[str, Replica], bool]) -> bool:
        """Whether it is so of all other replicas that there may be."""
        known = self._clock() - self._began_at >= GONE_S
        return known and all(true(name, replica) for name, replica in self._others(asker).items())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, true: Callable[[], bool], within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(true)
