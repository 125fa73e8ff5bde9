"""The newest blocks of one model's log in memory, for all who listen. Each reader keeps its place itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import dropwhile

from deployments.logs.store import Block

RING_BYTES = 2 * 2**20


class Feed:
    """next: the number of the line after the newest. readers: how many listen."""

    def __init__(self, next_line: int, max_bytes: int = RING_BYTES) -> None:
        self.next = next_line
        self.readers = 0
        self._max_bytes = max_bytes
        self._ring: deque[Block] = deque()
        self._size = 0
        self._changed = asyncio.Event()

    def append(self, block: Block) -> None:
        if block.first != self.next:
            self.forget()
        self._ring.append(block)
        self._size += len(block.body)
        while self._size > self._max_bytes and len(self._ring) > 1:
            self._size -= len(self._ring.popleft().body)
        self.next = block.next
        self.wake()

    def since(self, line: int) -> Sequence[Block] | None:
        """The blocks from that line on; None if the store must be asked."""
        if line >= self.next:
            return ()
        if not self._ring or line < self._ring[0].first:
            return None
        return tuple(dropwhile(lambda block: block.first < line, self._ring))

    def forget(self) -> None:
        """Lines were deleted."""
        self._ring.clear()
        self._size = 0

    def wake(self) -> None:
        """Lets everybody look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        await self._changed.wait()
