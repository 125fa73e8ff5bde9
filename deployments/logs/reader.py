"""One who listens to a model's log: its place in it, and what it is told as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Literal

from deployments.logs.feed import Feed
from deployments.logs.lines import Entry
from deployments.logs.store import Block
from deployments.sse import event

PING_S = 15.0
PIECE_BYTES = 256 * 1024
PING = b": ping\n\n"
Kind = Literal["historical", "realtime"]

ReadStore = Callable[[int, int], Awaitable[Sequence[Block]]]
"""Blocks from a line on, about so many bytes of them."""


class Reader:
    def __init__(self, feed: Feed, read: ReadStore, over: Callable[[], bool], oldest: int) -> None:
        """over: whether the model has stopped and everything that it said is in the log. oldest: the line to begin
        with."""
        self._feed = feed
        self._read = read
        self._over = over
        self._line = oldest

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Everything that there is, then everything that comes, until the model has stopped."""
        self._feed.readers += 1
        try:
            edge = self._feed.next
            while self._line < edge:
                async for piece in self._next("historical", edge):
                    yield piece
            yield event({"type": "historical_complete"})
            async for piece in self._live():
                yield piece
            yield event({"type": "stream_end"})
        finally:
            self._feed.readers -= 1

    async def _live(self) -> AsyncGenerator[bytes, None]:
        quiet_since = time.monotonic()
        while True:
            while self._line < self._feed.next:
                async for piece in self._next("realtime", self._feed.next):
                    yield piece
                quiet_since = time.monotonic()
            if self._over():
                return
            try:
                async with asyncio.timeout(max(0.0, quiet_since + PING_S - time.monotonic())):
                    await self._feed.changed()
            except TimeoutError:
                yield PING
                quiet_since = time.monotonic()

    async def _next(self, kind: Kind, edge: int) -> AsyncGenerator[bytes, None]:
        """What comes next, up to the line `edge`: lines that were deleted meanwhile are told as such."""
        blocks = self._feed.since(self._line)
        if blocks is None:
            blocks = await self._read(self._line, PIECE_BYTES)
        reached = min(edge, blocks[0].first if blocks else edge)
        if reached > self._line:
            yield _missing(kind, reached - self._line)
            self._line = reached
        ready, size = [], 0
        for block in blocks:
            if self._line >= edge or size >= PIECE_BYTES:
                break
            ready.append(block.body)
            size += len(block.body)
            self._line = block.next
        if ready:
            yield encode(kind, b"\n".join(ready))


def encode(kind: Kind, body: bytes) -> bytes:
    """Events of lines of JSON."""
    begin = b'data: {"type":"' + kind.encode() + b'","log":'
    return begin + body.replace(b"\n", b"}\n\n" + begin) + b"}\n\n"


def _missing(kind: Kind, count: int) -> bytes:
    message = f"{count} lines were deleted before they could be sent."
    return encode(kind, Entry(round(time.time(), 3), "warning", message, "").encode())
