"""The keeper's part and the ingress's client, over a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deployments.cache import answers, wire
from deployments.cache import client as clients
from deployments.cache.answers import Answer, Answers
from deployments.cache.client import CacheClient, Flight, Hit
from deployments.cache.part import CachePart
from deployments.keeper import keeper
from deployments.keeper.address import Address, AddressBook
from deployments.keeper.client import KeeperClient
from deployments.server import Server
from tests.test_keeper import serve as serve_app
from tests.test_responses import Memory

ANSWER = Hit(b'\xff\x00{"id": 1}\r\n', "application/json; charset=utf-8", "0")


class Watched(Answers):
    """Tells when somebody waits, and when a flight has ended."""

    def __init__(self) -> None:
        super().__init__(2**20)
        self.waits, self.ended = asyncio.Event(), asyncio.Event()

    async def join(self, key: str, model: str) -> Answer | answers.Flight:
        self.waits.set()
        return await super().join(key, model)

    def end(self, key: str, flight: answers.Flight) -> None:
        super().end(key, flight)
        self.ended.set()


class Kept:
    """A keeper with a cache, and two replicas of the ingress."""

    def __init__(self) -> None:
        self.answers = Watched()
        self.book = AddressBook("app", Memory())
        self.keepers = [KeeperClient(self.book) for _ in range(2)]
        self.one, self.other = (CacheClient(keeper) for keeper in self.keepers)
        self.server: Server

    async def start(self) -> None:
        self.server = await serve_app(self.book, keeper.app([CachePart(self.answers)]))

    async def stop(self) -> None:
        await self.server.stop()
        for client in (self.one, self.other):
            await client.close()


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    kept = Kept()
    await kept.start()
    yield kept
    await kept.stop()


async def find(client: CacheClient, wait_s: float = 10) -> Hit | Flight | None:
    return await client.find("k", "m", wait_s)


async def flight(client: CacheClient) -> Flight:
    found = await find(client)
    assert isinstance(found, Flight)
    return found


async def joined(kept: Kept) -> asyncio.Task[Hit | Flight | None]:
    """The other replica's request, once it waits."""
    task = asyncio.create_task(find(kept.other))
    await asyncio.wait_for(kept.answers.waits.wait(), 10)
    assert not task.done()
    return task


async def test_answer_comes_back_byte_by_byte(kept: Kept) -> None:
    await kept.one.store("k", "m", 60, ANSWER, await flight(kept.one))
    assert await find(kept.one) == ANSWER
    assert await find(kept.other) == ANSWER


async def test_who_waits_at_another_replica_gets_the_answer(kept: Kept) -> None:
    mine = await flight(kept.one)
    waits = await joined(kept)
    await kept.one.store("k", "m", 60, ANSWER, mine)
    assert await waits == ANSWER


async def test_who_drops_its_flight_lets_the_next_one_compute(kept: Kept) -> None:
    mine = await flight(kept.one)
    waits = await joined(kept)
    mine.drop()
    assert isinstance(await waits, Flight)


async def test_who_waits_no_longer_than_it_may_is_told(kept: Kept) -> None:
    await flight(kept.one)
    with pytest.raises(TimeoutError):
        await find(kept.other, wait_s=0.05)


async def test_who_waits_and_leaves_does_not_come_to_compute(kept: Kept) -> None:
    mine = await flight(kept.one)
    waits = await joined(kept)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    mine.drop()
    await asyncio.wait_for(kept.answers.ended.wait(), 10)
    await flight(kept.one)


async def test_keeper_that_is_away_is_gone_without_and_told_of_once(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    mine = await flight(kept.one)
    await kept.server.stop()
    await kept.other.store("k", "m", 60, ANSWER, mine)
    assert await find(kept.other) is None
    assert len(caplog.records) == 1


async def test_keeper_that_dies_while_one_waits_lets_it_compute_at_once(kept: Kept) -> None:
    asked = []

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            asked.append(head.split()[1].decode())
            if asked[-1] == wire.JOIN:
                break
            writer.write(b"HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    dying = await asyncio.start_server(dies, "127.0.0.1", 0)
    kept.book.write(Address(f"http://127.0.0.1:{dying.sockets[0].getsockname()[1]}", "s"))
    assert await find(kept.one) is None
    assert asked == [wire.LOOK, wire.JOIN]
    dying.close()


async def test_keeper_that_hangs_is_gone_without_soon(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "LOOK_S", 0.05)
    hanging = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    kept.book.write(Address(f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}", "s"))
    assert await find(kept.one) is None
    hanging.close()


async def test_next_keeper_is_found(kept: Kept) -> None:
    await kept.one.store("k", "m", 60, ANSWER, await flight(kept.one))
    await kept.server.stop()
    assert await find(kept.one) is None
    kept.answers = Watched()
    await kept.start()
    assert isinstance(await find(kept.one), Flight), "what was kept is lost"


async def test_strangers_at_the_keepers_port_are_gone_without(kept: Kept) -> None:
    right = await kept.keepers[0].address()
    kept.keepers[0]._address = Address(right.url, "the one before")
    assert await find(kept.one) is None
    assert isinstance(await find(kept.one), Flight)


async def test_no_keeper_yet_is_gone_without() -> None:
    client = CacheClient(KeeperClient(AddressBook("app", Memory())))
    assert await find(client) is None
    await client.close()


async def test_answers_are_counted_and_cleared(kept: Kept) -> None:
    ask = kept.keepers[0].ask
    await kept.one.store("k", "m", 60, ANSWER, await flight(kept.one))
    await find(kept.one)
    told = await ask(wire.STATS)
    assert (told["entries"], told["hits"], told["misses"], told["max_bytes"]) == (1, 1, 1, 2**20)
    assert await ask(wire.CLEAR, "n") == 0
    assert await ask(wire.CLEAR, None) == 1
    assert isinstance(await find(kept.one), Flight)
