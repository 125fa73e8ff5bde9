"""Requests that go on whatever happens to the server, and what became of each of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import aiohttp

from benchmarks.load import END, PATH, WITH_KEY, request_body

TIMEOUT_S = 120.0
SHORT_EVERY_S = 0.2
SHORT_TOKENS = 2
PAUSE_S = 0.1  # of a client whose answer was not whole


class Outcome(Enum):
    """What a client saw. UNBEGUN: an error status, or no answer at all. EVENT: a stream that began and ended with an
    error event. BROKEN: the connection was lost in the middle of an answer, which a client's library says. SILENT: the
    answer looks finished, and is not."""

    WHOLE = "whole"
    UNBEGUN = "unbegun"
    EVENT = "error event"
    BROKEN = "connection lost"
    SILENT = "silent"


@dataclass(frozen=True)
class Answer:
    """sent, ended: seconds of time.monotonic. detail: what was wrong."""

    model: str
    sent: float
    ended: float
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Streams:
    """Clients that ask a model for one stream after the other."""

    model: str
    clients: int
    tokens: int


def outcome_of(body: bytes) -> Outcome:
    """Of a stream that the server ended."""
    if body.endswith(END):
        return Outcome.WHOLE
    last = body.rstrip().rpartition(b"\n")[2]
    try:
        return Outcome.EVENT if "error" in json.loads(last.removeprefix(b"data: ")) else Outcome.SILENT
    except ValueError:
        return Outcome.SILENT


@dataclass
class Load:
    """Goes on from `start` to `stop`; by hand between `open` and `close`. aimed: the model that short requests are for,
    one each `every_s`."""

    url: str
    aimed: str
    streams: Sequence[Streams]
    every_s: float = SHORT_EVERY_S
    answers: list[Answer] = field(default_factory=list)

    async def open(self) -> None:
        # A connection each: what is lost with one is one request.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=WITH_KEY)

    async def start(self) -> None:
        await self.open()
        self._stopping = asyncio.Event()
        clients = [self._client(one) for one in self.streams for _ in range(one.clients)]
        self._tasks = [asyncio.create_task(work) for work in (self._pace(), *clients)]

    async def stop(self) -> None:
        """Returns when every answer has ended."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        await self.close()

    async def close(self) -> None:
        await self._session.close()

    async def _pace(self) -> None:
        running: set[asyncio.Task[Answer]] = set()
        for number in itertools.count():
            if self._stopping.is_set():
                break
            task = asyncio.create_task(self.ask(self.aimed, SHORT_TOKENS, stream=number % 2 == 0))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(self.every_s)
        await asyncio.gather(*running)

    async def _client(self, streams: Streams) -> None:
        while not self._stopping.is_set():
            answer = await self.ask(streams.model, streams.tokens, stream=True)
            if answer.outcome is not Outcome.WHOLE:
                await asyncio.sleep(PAUSE_S)

    async def ask(self, model: str, tokens: int, *, stream: bool) -> Answer:
        sent = time.monotonic()
        parts: list[bytes] = []
        detail, begun = "", False
        try:
            async with self._session.post(self.url + PATH, json=request_body(model, tokens, stream=stream)) as got:
                if got.status != 200:
                    outcome, detail = Outcome.UNBEGUN, f"status {got.status}: {(await got.text())[-200:]}"
                else:
                    begun = True
                    async for part in got.content.iter_any():
                        parts.append(part)
                    outcome = outcome_of(b"".join(parts)) if stream else Outcome.WHOLE
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            outcome, detail = (Outcome.BROKEN if begun else Outcome.UNBEGUN), repr(error)
        answer = Answer(model, sent, time.monotonic(), outcome, detail)
        self.answers.append(answer)
        return answer


def counts(answers: Sequence[Answer]) -> Mapping[Outcome, int]:
    found = [answer.outcome for answer in answers]
    return {outcome: found.count(outcome) for outcome in Outcome}


def recovered_s(answers: Sequence[Answer], model: str, at: float) -> float | None:
    """Seconds from `at` to the first whole answer of a request for the model that was sent after it."""
    whole = [a.ended for a in answers if a.outcome is Outcome.WHOLE and a.sent >= at and a.model == model]
    return min(whole) - at if whole else None


def troubled_s(answers: Sequence[Answer], at: float) -> float:
    """Seconds after `at` in which the last request was sent that had no whole answer; 0 if all had."""
    return max((max(0.0, a.sent - at) for a in answers if a.outcome is not Outcome.WHOLE), default=0.0)
