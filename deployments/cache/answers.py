"""The answers that are kept, and who computes those that are not there yet. It belongs to one event loop."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cachetools import Cache, TLRUCache

OVERHEAD = 1024
"""Bytes that an answer is counted for beside its body."""


@dataclass(frozen=True)
class Answer:
    """model: its public name. stored_at: by the clock of the answers."""

    model: str
    content_type: str
    body: bytes
    ttl_s: float
    stored_at: float


@dataclass
class Flight:
    """Somebody computes an answer. kept: false if answers of the model were cleared since."""

    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    kept: bool = True
    answer: Answer | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Count:
    """hits: requests answered without an engine; joined: those of them that waited for another's. misses: requests that
    were to compute."""

    hits: int = 0
    joined: int = 0
    misses: int = 0


class Answers:
    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Above max_bytes the least recently used goes."""
        self.clock = clock
        self._kept: TLRUCache[str, Answer] = TLRUCache(max_bytes, _expires, clock, _size)
        self._flights: dict[str, Flight] = {}
        self._counts: dict[str, Count] = {}

    def look(self, key: str, model: str) -> Answer | Flight | None:
        """The answer, or a flight for who is to compute it now. None: another one does."""
        if answer := self._kept.get(key):
            self._count(model).hits += 1
            return answer
        if key in self._flights:
            return None
        self._count(model).misses += 1
        flight = self._flights[key] = Flight(model)
        return flight

    async def join(self, key: str, model: str) -> Answer | Flight:
        """As `look`, once whoever computes has ended: if in vain, one of those who wait is to compute next."""
        flight = self._flights.get(key)
        while flight is not None:
            await flight.over.wait()
            if flight.answer is not None:
                count = self._count(model)
                count.hits += 1
                count.joined += 1
                return flight.answer
            flight = self._flights.get(key)
        found = self.look(key, model)
        assert found is not None, "nobody computes"
        return found

    def store(self, key: str, answer: Answer, flight_id: str | None) -> None:
        """flight_id: of the flight that it comes from; None: it was computed past the cache."""
        flight = self._flights.get(key)
        if flight_id is None:
            self._keep(key, answer)
        elif flight is not None and flight.id == flight_id:
            flight.answer = answer
            if flight.kept:
                self._keep(key, answer)
            self.end(key, flight)

    def end(self, key: str, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        flight.over.set()

    def clear(self, model: str | None = None) -> int:
        """Forgets the answers of the model, or all, also those that are being computed; how many there were."""
        gone = [key for key, answer in self._all().items() if model in (None, answer.model)]
        for key in gone:
            self._kept.pop(key, None)
        for flight in self._flights.values():
            flight.kept = flight.kept and model not in (None, flight.model)
        return len(gone)

    def stats(self) -> dict[str, Any]:
        """Counts since the keeper began, in all and by model."""
        models: dict[str, dict[str, int]] = {
            model: {"entries": 0, "bytes": 0, **vars(count)} for model, count in sorted(self._counts.items())
        }
        for answer in self._all().values():
            row = models.setdefault(answer.model, {"entries": 0, "bytes": 0, **vars(Count())})
            row["entries"] += 1
            row["bytes"] += _size(answer)
        names = ("entries", "bytes", *vars(Count()))
        totals = {name: sum(row[name] for row in models.values()) for name in names}
        return {**totals, "max_bytes": int(self._kept.maxsize), "models": models}

    def _all(self) -> dict[str, Answer]:
        """Without using them: who goes first stays the same."""
        return {key: Cache.__getitem__(self._kept, key) for key in self._kept}

    def _keep(self, key: str, answer: Answer) -> None:
        if _size(answer) <= self._kept.maxsize:
            self._kept[key] = answer

    def _count(self, model: str) -> Count:
        return self._counts.setdefault(model, Count())


def _size(answer: Answer) -> int:
    return len(answer.body) + OVERHEAD


def _expires(_: str, answer: Answer, now: float) -> float:
    return now + answer.ttl_s
