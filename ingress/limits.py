"""How much each key may use in a minute. Decided here, by what this replica has counted and what the keeper last told
of the others: a burst that comes to several replicas within SYNC_S may so get through at each of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from deployments.errors import RateLimited
from deployments.keys import KeyConfig
from deployments.limits.counts import Counts, Used, minute_of
from deployments.limits.part import PATH
from deployments.limits.window import PERIOD_S, Window

SYNC_S = 0.15
WITHIN_S = 1.0

logger = logging.getLogger("ray.serve.llm_manager")


class Keeper(Protocol):
    """As `deployments.keeper.client.KeeperClient`."""

    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any: ...


class Limits:
    def __init__(self, keeper: Keeper, replica: str, clock: Callable[[], float] = time.time) -> None:
        """replica: an id of this ingress replica, which no other one has."""
        self._keeper = keeper
        self._replica = replica
        self._clock = clock
        self._own, self._others = Counts(), Counts()
        self._alone = False  # the keeper is away

    def admit(self, key: KeyConfig) -> None:
        """Counts a request. Raises: RateLimited, if there is no room for it or no token left."""
        if not key.is_limited:
            return
        full = {kind: window for kind, window in self.windows(key).items() if window.is_full}
        if full:
            kind, window = max(full.items(), key=lambda one: one[1].wait_s)
            raise RateLimited(
                f"The key {key.name!r} has used its {window.limit} {kind} a minute.",
                retry_after_s=max(1, math.ceil(window.wait_s)),
            )
        self._count(key.name, Used(requests=1))

    def spent(self, key: KeyConfig | None, tokens: int) -> None:
        """What an answer to the key has used. It is known at the end, so one answer may use more than was left."""
        if key is not None and key.tokens_per_minute is not None:
            self._count(key.name, Used(tokens=tokens))

    def windows(self, key: KeyConfig) -> dict[str, Window]:
        """Of requests and of tokens, where the key has such a limit."""
        now = self._clock()
        minute = minute_of(now)
        (before, during) = (self._used(key.name, at) for at in (minute - 1, minute))
        elapsed_s = now - minute * PERIOD_S
        windows = {}
        if key.requests_per_minute is not None:
            windows["requests"] = Window(key.requests_per_minute, before.requests, during.requests, elapsed_s)
        if key.tokens_per_minute is not None:
            windows["tokens"] = Window(key.tokens_per_minute, before.tokens, during.tokens, elapsed_s)
        return windows

    def telling(self, key: KeyConfig, send: Send) -> Send:
        """`send` that tells the key how much it has left."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers(self.windows(key)))
            await send(message)

        return told if key.is_limited else send

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            await asyncio.sleep(SYNC_S)
            await self.exchange()

    async def exchange(self) -> None:
        """Tells the keeper what was used here, and learns what was used elsewhere. Without it that stays as it was."""
        self._own.forget_before(minute_of(self._clock()) - 1)
        report = {"replica": self._replica, "used": self._own.plain()}
        try:
            answer = await self._keeper.ask(PATH, report, within_s=WITHIN_S)
        except Exception as error:  # it is away, or Ray's store is, where its address lies
            if not self._alone:
                logger.warning(f"Limits are counted by this replica alone: {error!r}")
            self._alone = True
            return
        self._alone = False
        self._others = Counts.of(answer["others"])

    def _count(self, name: str, used: Used) -> None:
        self._own.add(name, minute_of(self._clock()), used)

    def _used(self, name: str, minute: int) -> Used:
        own, others = self._own.at(name, minute), self._others.at(name, minute)
        return Used(own.requests + others.requests, own.tokens + others.tokens)


def headers(windows: dict[str, Window]) -> dict[str, str]:
    """As OpenAI sends them: `x-ratelimit-limit-requests: 60`, `-remaining-requests: 59`, `-reset-requests: 1m3s`."""
    told = {}
    for kind, window in windows.items():
        told[f"x-ratelimit-limit-{kind}"] = str(window.limit)
        told[f"x-ratelimit-remaining-{kind}"] = str(window.remaining)
        told[f"x-ratelimit-reset-{kind}"] = _duration(window.reset_s)
    return told


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
