from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import RETRY_HEADER, EngineFailed
from deployments.server import KEEP_ALIVE_HEADER, SECRET_HEADER, Guard, Server


class App:
    """Answers `yes`, when its gate is open."""

    def __init__(self) -> None:
        self.asked = 0
        self.running = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        self.scope = scope
        self.running.set()
        await self.gate.wait()
        if self.failure:
            raise self.failure
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})


async def healthy() -> None:
    pass


async def broken() -> None:
    raise EngineFailed("The engine's thread has died.")


def asking(guard: Guard, secret: str | None = None) -> httpx.AsyncClient:
    headers = {SECRET_HEADER.decode(): guard.secret if secret is None else secret}
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://test", headers=headers)


async def test_request_with_the_secret_reaches_the_app() -> None:
    app = App()
    async with asking(Guard(app, healthy)) as client:
        response = await client.get("/")
    assert (response.status_code, response.text, app.asked) == (200, "yes", 1)


@pytest.mark.parametrize("secret", ["", "wrong", "ü"])
async def test_request_without_the_secret_is_refused_and_asks_nothing(secret: str) -> None:
    app = App()
    guard = Guard(app, broken)
    async with asking(guard) as client:
        del client.headers[SECRET_HEADER.decode()]
        headers = [(SECRET_HEADER, secret.encode())] if secret else []
        response = await client.get("/", headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert (app.asked, guard.unfinished) == (0, 0)


def test_every_replica_has_a_secret_of_its_own() -> None:
    first, second = Guard(App(), healthy), Guard(App(), healthy)
    assert first.secret != second.secret
    assert len(first.secret) >= 32


async def test_requests_are_counted_until_they_are_finished() -> None:
    app = App()
    app.gate.clear()
    guard = Guard(app, healthy)
    async with asking(guard) as client, asyncio.timeout(10):
        first, second = asyncio.create_task(client.get("/")), asyncio.create_task(client.get("/"))
        while app.asked < 2:
            app.running.clear()
            await app.running.wait()
        assert guard.unfinished == 2
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert guard.unfinished == 1
        app.gate.set()
        await second
    assert guard.unfinished == 0


async def test_request_that_fails_is_finished_too() -> None:
    app = App()
    app.failure = RuntimeError("bug")
    guard = Guard(app, healthy)
    async with asking(guard) as client:
        with pytest.raises(RuntimeError, match="bug"):
            await client.get("/")
    assert guard.unfinished == 0


async def test_broken_engine_is_not_asked_and_another_replica_may_be() -> None:
    app = App()
    guard = Guard(app, broken)
    async with asking(guard) as client:
        response = await client.get("/")
    assert response.status_code == 503
    assert response.headers[RETRY_HEADER] == "1"
    assert response.json()["error"]["code"] == "engine_failed"
    assert (app.asked, guard.unfinished) == (0, 0)


async def test_what_is_not_http_does_not_reach_the_app() -> None:
    app = App()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    await Guard(app, healthy)({"type": "websocket", "headers": []}, receive, send)
    assert (app.asked, sent) == (0, [])


# How long the model is to stay ---------------------------------------------------------------------------------------


async def test_last_request_that_said_so_decides_how_long_the_model_stays() -> None:
    guard = Guard(App(), healthy)
    assert (guard.keep_alive_s, guard.keep_alive_at) == (0, 0)
    async with asking(guard) as client:
        before = time.time()
        await client.get("/", headers={"x-keep-alive": "300.0"})
        assert guard.keep_alive_s == 300
        said_at = guard.keep_alive_at
        assert before <= said_at <= time.time()
        await client.get("/")
        assert (guard.keep_alive_s, guard.keep_alive_at) == (300, said_at)
        await client.get("/", headers={"x-keep-alive": "-1.0"})
        assert guard.keep_alive_s == -1
        assert guard.keep_alive_at >= said_at


async def test_stranger_does_not_say_how_long_the_model_stays() -> None:
    guard = Guard(App(), healthy)
    async with asking(guard, "wrong") as client:
        await client.get("/", headers={"x-keep-alive": "300.0"})
    assert (guard.keep_alive_s, guard.keep_alive_at) == (0, 0)


async def test_keep_alive_is_not_passed_on_and_all_else_is() -> None:
    app = App()
    headers = [(b"a", b"1"), (KEEP_ALIVE_HEADER, b"300.0"), (b"a", b"2"), (b"x-keep-alives", b"3")]
    async with asking(Guard(app, healthy)) as client:
        await client.get("/", headers=headers)
    passed_on = [header for header in app.scope["headers"] if header[0] != KEEP_ALIVE_HEADER]
    assert app.scope["headers"] == passed_on
    assert passed_on[-3:] == [(b"a", b"1"), (b"a", b"2"), (b"x-keep-alives", b"3")]


async def test_scope_is_the_servers_own_where_nothing_is_taken_out() -> None:
    app = App()
    guard = Guard(app, healthy)
    scope: Scope = {"type": "http", "headers": [(SECRET_HEADER, guard.secret.encode())]}

    async def ignored(*_: object) -> Any:
        raise AssertionError

    app.failure = RuntimeError("enough")
    with pytest.raises(RuntimeError, match="enough"):
        await guard(scope, ignored, ignored)
    assert app.scope is scope


# Server, on real ports -----------------------------------------------------------------------------------------------


async def test_server_answers_on_its_port_once_it_has_started() -> None:
    app = App()
    server = Server(app, {"127.0.0.1"})
    assert not server.alive
    await server.start()
    try:
        assert server.alive
        async with httpx.AsyncClient() as client:
            response = await client.get(f"http://127.0.0.1:{server.port}/")
        assert response.text == "yes"
        assert "server" not in response.headers
    finally:
        await server.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no 127.0.0.2 of their own")
async def test_port_is_the_same_on_every_address_and_on_no_other() -> None:
    server = Server(App(), {"127.0.0.1", "127.0.0.2"})
    await server.start()
    try:
        async with httpx.AsyncClient() as client:
            for host in ("127.0.0.1", "127.0.0.2"):
                assert (await client.get(f"http://{host}:{server.port}/")).text == "yes"
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.3:{server.port}/")
    finally:
        await server.stop()


def test_address_that_is_not_this_machines_is_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        Server(App(), {"127.0.0.1", "192.0.2.1"})


async def test_stopped_server_is_not_alive_and_leaves_its_port() -> None:
    server = Server(App(), {"127.0.0.1"})
    await server.start()
    await server.stop()
    assert not server.alive
    with socket.create_server(("127.0.0.1", server.port)):
        pass


async def test_server_that_was_never_started_can_be_stopped() -> None:
    server = Server(App(), {"127.0.0.1"})
    await server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        pass


async def test_stop_does_not_wait_for_open_requests() -> None:
    app = App()
    app.gate.clear()
    server = Server(app, {"127.0.0.1"})
    await server.start()
    async with httpx.AsyncClient() as client:
        request = asyncio.create_task(client.get(f"http://127.0.0.1:{server.port}/"))
        await asyncio.wait_for(app.running.wait(), 10)
        await asyncio.wait_for(server.stop(), 10)
        assert not request.done()
        request.cancel()
    app.gate.set()
