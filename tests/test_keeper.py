from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import InvalidRequest, KeeperGone
from deployments.keeper import keeper
from deployments.keeper.address import Address, AddressBook
from deployments.keeper.blocking import BlockingClient
from deployments.keeper.client import KeeperClient, KeeperRefused
from deployments.server import Guard, Server
from tests.test_responses import Memory


class Echo:
    """A part that says what it is told."""

    def __init__(self) -> None:
        self.routes = [Route("/echo", self._echo, methods=["POST"])]

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def _echo(self, request: Request) -> Response:
        data = await request.json()
        if data == "bad":
            raise InvalidRequest("Not so.")
        return JSONResponse(data)


async def well() -> None:
    pass


async def serve(book: AddressBook, app: Starlette | None = None) -> Server:
    guard = Guard(app or keeper.app([Echo()]), well)
    server = Server(guard, {"127.0.0.1"})
    await server.start()
    book.write(Address(f"http://127.0.0.1:{server.port}", guard.secret))
    return server


@pytest.fixture
def book() -> AddressBook:
    return AddressBook("app", Memory())


@pytest.mark.parametrize("data", [{"a": [1, None]}, [], None])
async def test_question_is_answered(book: AddressBook, data: Any) -> None:
    server, client = await serve(book), KeeperClient(book)
    assert await client.ask("/echo", data) == data
    assert json.loads(await client.fetch("/echo", data)) == data
    await client.close()
    await server.stop()


async def test_refusal_is_told_and_not_repeated(book: AddressBook) -> None:
    server, client = await serve(book), KeeperClient(book)
    with pytest.raises(KeeperRefused, match="Not so") as refused:
        await client.ask("/echo", "bad")
    assert refused.value.status == 400
    await client.close()
    await server.stop()


async def test_next_keeper_is_found(book: AddressBook) -> None:
    server, client = await serve(book), KeeperClient(book)
    await client.ask("/echo", 1)
    await server.stop()
    asked = asyncio.create_task(client.ask("/echo", 2))
    await asyncio.sleep(0)
    server = await serve(book)
    assert await asked == 2
    await client.close()
    await server.stop()


async def test_keeper_with_another_secret_is_looked_up_again(book: AddressBook) -> None:
    server, client = await serve(book), KeeperClient(book)
    await client.ask("/echo", 1)
    right = await client.address()
    client._address = Address(right.url, "the one before")
    assert await client.ask("/echo", 2) == 2
    await client.close()
    await server.stop()


async def test_keeper_that_stays_away_is_an_error_in_time(book: AddressBook) -> None:
    client = KeeperClient(book)
    with pytest.raises(KeeperGone):
        await client.ask("/echo", 1, within_s=0.2)
    with pytest.raises(KeeperGone):
        await client.address()
    await client.close()


async def test_thread_asks_and_finds_the_next_keeper(book: AddressBook) -> None:
    client = BlockingClient(book)
    with pytest.raises(OSError, match="no keeper yet"):
        await asyncio.to_thread(client.post, "/echo", b"1")
    for number in (b"1", b"2"):
        server = await serve(book)
        assert await asyncio.to_thread(client.post, "/echo", number) == int(number)
        await server.stop()
        with pytest.raises(OSError, match="did not answer"):
            await asyncio.to_thread(client.post, "/echo", number)


async def test_refusal_is_an_error_for_a_thread_too(book: AddressBook) -> None:
    server, client = await serve(book), BlockingClient(book)
    with pytest.raises(OSError, match="status 400"):
        await asyncio.to_thread(client.post, "/echo", b'"bad"')
    assert await asyncio.to_thread(client.post, "/echo", b'"good"') == "good"
    client.close()
    await server.stop()
