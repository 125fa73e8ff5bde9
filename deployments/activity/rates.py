"""Tokens per second of each model, from how many each ingress replica has read so far."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

WINDOW_S = 5.0
"""Seconds that a rate is an average of; more than two exchanges are apart."""
GONE_S = 10.0
"""Seconds after which a replica that says nothing counts no more."""

Told = tuple[float, Mapping[str, int]]


class Rates:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, deque[Told]] = {}

    def tell(self, replica: str, tokens: Mapping[str, int]) -> None:
        """tokens: by model, since the replica began."""
        now = self._clock()
        told = self._told.setdefault(replica, deque())
        told.append((now, tokens))
        while now - told[0][0] > WINDOW_S:
            told.popleft()

    def now(self) -> dict[str, float]:
        """Of the models that have produced any."""
        now = self._clock()
        self._told = {replica: told for replica, told in self._told.items() if now - told[-1][0] <= GONE_S}
        rates: dict[str, float] = {}
        for told in self._told.values():
            (since, before), (until, after) = told[0], told[-1]
            for model, tokens in after.items():
                if until > since and tokens > before.get(model, 0):
                    rates[model] = rates.get(model, 0) + (tokens - before.get(model, 0)) / (until - since)
        return {model: round(rate, 2) for model, rate in rates.items()}
