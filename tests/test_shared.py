from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from ingress import shared
from ingress.shared import Shared

FOREVER = 3600.0
NEVER = -1.0  # a reading is out of date the moment it ends
request_var: contextvars.ContextVar[str] = contextvars.ContextVar("request_var", default="none")


class Reader:
    """Counts its calls, and blocks a thread until the gate is opened."""

    def __init__(self) -> None:
        self.count = 0
        self.at_once = 0
        self.most_at_once = 0
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.context = ""

    def __call__(self) -> int:
        self.count += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.context = request_var.get()
        assert self.gate.wait(10)
        self.at_once -= 1
        if self.failure:
            raise self.failure
        return self.count


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


async def test_callers_share_a_reading_in_progress_however_old() -> None:
    reader = Reader()
    reader.gate.clear()
    one = Shared(reader, NEVER)
    callers = [asyncio.create_task(one.get()) for _ in range(5)]
    await asyncio.sleep(0)  # a blocked reading does not block the loop
    assert not any(caller.done() for caller in callers)
    reader.gate.set()
    assert await asyncio.gather(*callers) == [1] * 5
    assert (reader.count, reader.most_at_once) == (1, 1)


async def test_reading_is_kept_for_its_time() -> None:
    one = Shared(Reader(), FOREVER)
    assert [await one.get() for _ in range(3)] == [1, 1, 1]


async def test_after_its_time_it_is_read_again() -> None:
    one = Shared(Reader(), NEVER)
    assert [await one.get() for _ in range(3)] == [1, 2, 3]


async def test_time_of_a_reading_begins_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes longer than it is kept would else be lost to callers that do not wait for so long."""
    clock = Clock()
    monkeypatch.setattr(shared, "time", clock)
    reader = Reader()
    reader.gate.clear()
    slow = Shared(reader, ttl_s=10)
    waiting = asyncio.create_task(slow.get())
    await asyncio.sleep(0)
    clock.now += 60
    reader.gate.set()
    await waiting
    clock.now += 9
    assert await slow.get() == 1
    clock.now += 2
    assert await slow.get() == 2


async def test_caller_that_leaves_does_not_end_the_others_reading() -> None:
    reader = Reader()
    reader.gate.clear()
    one = Shared(reader, NEVER)
    leaver, stayer = asyncio.create_task(one.get()), asyncio.create_task(one.get())
    await asyncio.sleep(0)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    reader.gate.set()
    assert await stayer == 1


async def test_failure_is_every_callers_and_does_not_stay() -> None:
    reader = Reader()
    reader.failure = RuntimeError("no controller")
    one = Shared(reader, NEVER)
    outcomes = await asyncio.gather(one.get(), one.get(), return_exceptions=True)
    assert [*outcomes] == [reader.failure] * 2
    reader.failure = None
    assert await one.get() == 2


async def test_failure_is_kept_for_its_time_too() -> None:
    reader = Reader()
    reader.failure = RuntimeError("no controller")
    one = Shared(reader, FOREVER)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no controller"):
            await one.get()
    assert reader.count == 1


async def test_reading_knows_nothing_of_the_request_that_began_it() -> None:
    """Ray would cancel its calls with that request."""
    reader = Reader()
    request_var.set("mine")
    await Shared(reader, FOREVER).get()
    assert reader.context == "none"
