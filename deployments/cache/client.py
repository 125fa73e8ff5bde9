"""The ingress's way to the cache: one question on a connection that stays open, and never a long wait for a keeper that
is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from deployments.cache import wire
from deployments.errors import KeeperGone
from deployments.keeper.client import KeeperClient

LOOK_S = 0.5
STORE_S = 1.0
"""Seconds after which the request goes on without the cache."""
_AWAY = (aiohttp.ClientError, TimeoutError, OSError, KeeperGone)

logger = logging.getLogger("ray.serve.llm_manager")


@dataclass(frozen=True)
class Hit:
    body: bytes
    content_type: str
    age_s: str


class Flight:
    """The right to compute an answer that others wait for: theirs once it is stored or dropped."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self.id = answer.headers[wire.FLIGHT]

    def drop(self) -> None:
        self._answer.close()


class CacheClient:
    """Must be used on one event loop."""

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper
        self._session: aiohttp.ClientSession | None = None
        self._away = False  # and that has been said

    async def find(self, key: str, model: str, wait_s: float) -> Hit | Flight | None:
        """None: the cache is away. Whoever is the first to ask gets a flight; the others wait for it.

        Raises: TimeoutError, if they have waited for `wait_s`.
        """
        headers = {wire.KEY: key, wire.MODEL: model}
        try:
            found = await self._ask(wire.LOOK, headers, LOOK_S)
        except _AWAY as error:
            self._goes_without(error)
            return None
        if found.status != wire.BUSY:
            return await self._found(found)
        found.release()
        try:
            return await self._found(await self._ask(wire.JOIN, headers, wait_s))
        except TimeoutError:
            raise
        except _AWAY as error:
            self._goes_without(error)
            return None

    async def store(self, key: str, model: str, ttl_s: float, hit: Hit, flight: Flight | None) -> None:
        headers = {wire.KEY: key, wire.MODEL: model, wire.TTL: str(ttl_s), wire.TYPE: hit.content_type}
        if flight is not None:
            headers[wire.FLIGHT] = flight.id
        try:
            (await self._ask(wire.STORE, headers, STORE_S, hit.body)).release()
        except _AWAY as error:
            self._goes_without(error)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(
        self, path: str, headers: Mapping[str, str], within_s: float, body: bytes = b""
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60), timeout=aiohttp.ClientTimeout(total=None)
            )
        async with asyncio.timeout(within_s):
            address = await self._keeper.address()
            headers = {**headers, **address.headers}
            answer = await self._session.post(address.url + path, data=body, headers=headers)
        self._away = False
        return answer

    async def _found(self, answer: aiohttp.ClientResponse) -> Hit | Flight | None:
        if answer.status == wire.COMPUTE:
            return Flight(answer)
        try:
            if answer.status != wire.HIT:  # another process has the keeper's port by now
                self._keeper.forget()
                return None
            async with asyncio.timeout(LOOK_S):
                return Hit(await answer.read(), answer.headers[wire.TYPE], answer.headers[wire.AGE])
        except _AWAY as error:
            self._goes_without(error)
            return None
        finally:
            answer.release()

    def _goes_without(self, error: Exception) -> None:
        if not self._away:
            logger.warning(f"The cache does not answer, and requests go on without it: {error!r}")
        self._away = True
        self._keeper.forget()
