"""What keys have used, minute by minute of the clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from deployments.limits.window import PERIOD_S


class Used(NamedTuple):
    requests: int = 0
    tokens: int = 0


class Counts:
    """By a key's name and the minute. As plain data: `{name: {minute: [requests, tokens]}}`."""

    def __init__(self) -> None:
        self._used: dict[str, dict[int, Used]] = {}

    def add(self, name: str, minute: int, used: Used) -> None:
        minutes = self._used.setdefault(name, {})
        before = minutes.get(minute, Used())
        minutes[minute] = Used(before.requests + used.requests, before.tokens + used.tokens)

    def at(self, name: str, minute: int) -> Used:
        return self._used.get(name, {}).get(minute, Used())

    def forget_before(self, minute: int) -> None:
        kept = {name: {m: used for m, used in minutes.items() if m >= minute} for name, minutes in self._used.items()}
        self._used = {name: minutes for name, minutes in kept.items() if minutes}

    def __bool__(self) -> bool:
        return bool(self._used)

    def plain(self) -> dict[str, Any]:
        return {name: {str(minute): used for minute, used in minutes.items()} for name, minutes in self._used.items()}

    @classmethod
    def of(cls, plain: Mapping[str, Mapping[str, Iterable[int]]]) -> Counts:
        counts = cls()
        for name, minutes in plain.items():
            for minute, used in minutes.items():
                counts.add(name, int(minute), Used(*used))
        return counts

    @classmethod
    def sum(cls, several: Iterable[Counts]) -> Counts:
        total = cls()
        for counts in several:
            for name, minutes in counts._used.items():
                for minute, used in minutes.items():
                    total.add(name, minute, used)
        return total


def minute_of(time_s: float) -> int:
    """time_s: seconds since 1970."""
    return int(time_s // PERIOD_S)
