"""A reader, its feed and the store behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from deployments.logs import reader as readers
from deployments.logs.feed import Feed
from deployments.logs.lines import Entry
from deployments.logs.reader import Reader
from deployments.logs.store import Block


class Log:
    """All blocks of a model, some of them in the feed."""

    def __init__(self, ring: int = 10_000) -> None:
        self.feed = Feed(0, ring)
        self.blocks: list[Block] = []
        self.over = False
        self.reads = 0

    def say(self, *messages: str) -> None:
        body = b"\n".join(Entry(1.0, "info", message, "r").encode() for message in messages)
        block = Block(self.feed.next, len(messages), body)
        self.blocks.append(block)
        self.feed.append(block)

    def end(self) -> None:
        self.over = True
        self.feed.wake()

    async def read(self, line: int, _: int) -> Sequence[Block]:
        self.reads += 1
        return [block for block in self.blocks if block.first >= line][:2]

    def reader(self, oldest: int = 0) -> Reader:
        return Reader(self.feed, self.read, lambda: self.over, oldest)


def parsed(piece: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.removeprefix(b"data: ")) for event in piece.split(b"\n\n") if event.startswith(b"data")]


async def told(reader: Reader) -> list[dict[str, Any]]:
    return [event async for piece in reader.events() for event in parsed(piece)]


def said(events: list[dict[str, Any]], kind: str) -> list[str]:
    return [event["log"]["message"] for event in events if event["type"] == kind]


async def test_history_of_a_stopped_model_ends() -> None:
    log = Log()
    log.say("a", "b")
    log.end()
    events = await told(log.reader())
    assert [event["type"] for event in events] == ["historical", "historical", "historical_complete", "stream_end"]
    assert events[0]["log"] == {"timestamp": 1.0, "level": "info", "message": "a", "replica": "r"}


async def test_model_without_a_log_ends() -> None:
    log = Log()
    log.end()
    assert [event["type"] for event in await told(log.reader())] == ["historical_complete", "stream_end"]


async def test_what_comes_meanwhile_is_told_once() -> None:
    log = Log(ring=300)
    for i in range(10):
        log.say(f"{i}")
    events: list[dict[str, Any]] = []
    count = 10
    async for piece in log.reader().events():
        events += parsed(piece)
        if count < 30:
            log.say(f"{count}", f"{count + 1}")
            count += 2
        elif not log.over:
            log.end()
    historical, realtime = said(events, "historical"), said(events, "realtime")
    assert historical == [f"{i}" for i in range(10)]
    assert historical + realtime == [f"{i}" for i in range(30)]


async def test_reader_that_falls_behind_reads_from_the_store_and_misses_nothing() -> None:
    log = Log(ring=300)
    slow = log.reader().events()
    events = parsed(await anext(slow))
    for i in range(100):
        log.say(f"{i}")
    log.end()
    events += [event async for piece in slow for event in parsed(piece)]
    assert said(events, "realtime") == [f"{i}" for i in range(100)]
    assert log.reads > 10


@pytest.mark.parametrize("left", [0, 3])
async def test_deleted_lines_are_told_as_such(left: int) -> None:
    log = Log(ring=300)
    slow = log.reader().events()
    await anext(slow)
    for i in range(20):
        log.say(f"{i}")
    log.blocks = log.blocks[20 - left :]
    log.feed.forget()
    log.end()
    events = [event async for piece in slow for event in parsed(piece)]
    assert said(events, "realtime") == [
        f"{20 - left} lines were deleted before they could be sent.",
        *(f"{i}" for i in range(20 - left, 20)),
    ]
    assert events[0]["log"]["level"] == "warning"
    assert events[-1]["type"] == "stream_end"


async def test_waiting_reader_is_woken() -> None:
    log = Log()
    stream = log.reader().events()
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    log.say("now")
    assert said(parsed(await waiting), "realtime") == ["now"]
    await stream.aclose()


async def test_idle_reader_gets_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PING_S", 0.01)
    stream = Log().reader().events()
    assert [await anext(stream) for _ in range(3)][1:] == [b": ping\n\n"] * 2
    await stream.aclose()


async def test_reader_that_goes_is_no_longer_counted() -> None:
    log = Log()
    one, two = log.reader().events(), log.reader().events()
    await anext(one)
    await anext(two)
    assert log.feed.readers == 2
    await one.aclose()
    assert log.feed.readers == 1
    await two.aclose()


async def test_readers_of_the_newest_lines_ask_no_store() -> None:
    log = Log()
    log.say("a")
    log.end()
    for _ in range(20):
        await told(log.reader())
    assert log.reads == 0


async def test_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PIECE_BYTES", 200)
    log = Log()
    for i in range(50):
        log.say(f"{i}")
    log.end()
    pieces = [piece async for piece in log.reader().events()]
    assert max(map(len, pieces)) < 1000
    assert said([event for piece in pieces for event in parsed(piece)], "historical") == [f"{i}" for i in range(50)]


def test_ring_holds_the_newest_alone() -> None:
    log = Log(ring=300)
    for i in range(50):
        log.say(f"{i}")
    assert log.feed.since(0) is None
    assert log.feed.since(50) == ()
    newest = log.feed.since(49)
    assert newest is not None
    assert [block.first for block in newest] == [49]


def test_block_after_lines_that_the_feed_has_not_seen_begins_anew() -> None:
    log = Log()
    log.say("a")
    log.feed.append(Block(5, 1, b"{}"))
    assert log.feed.since(0) is None
    assert log.feed.since(5) == (Block(5, 1, b"{}"),)
    assert log.feed.next == 6
