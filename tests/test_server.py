from __future__ import annotations

import asyncio
import math
import socket
import sys
import time

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import RETRY_HEADER, EngineFailed
from deployments.server import KEEP_ALIVE_HEADER, MEMBER_HEADER, SECRET_HEADER, Guard, Server
from deployments.shelf import Shelf


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


async def test_what_is_between_ingress_and_replica_is_not_passed_on_and_all_else_is() -> None:
    app = App()
    ours = [(KEEP_ALIVE_HEADER, b"300.0"), (MEMBER_HEADER, b"m")]
    headers = [(b"a", b"1"), *ours, (b"a", b"2"), (b"x-keep-alives", b"3")]
    async with asking(Guard(app, healthy)) as client:
        await client.get("/", headers=headers)
    passed_on = app.scope["headers"]
    assert not {name for name, _ in passed_on} & {KEEP_ALIVE_HEADER, MEMBER_HEADER, SECRET_HEADER}
    assert passed_on[-3:] == [(b"a", b"1"), (b"a", b"2"), (b"x-keep-alives", b"3")]


# Members -------------------------------------------------------------------------------------------------------------


class Loader:
    """Members whose apps are `App`s; those in `broken` cannot be loaded."""

    def __init__(self) -> None:
        self.apps = {"a": App(), "b": App()}
        self.broken: set[str] = set()

    async def load(self, name: str) -> App:
        if name in self.broken:
            raise ValueError("no weights")
        return self.apps[name]

    async def unload(self, name: str) -> None:
        pass

    async def check(self, name: str) -> None:
        pass


async def unheard(_: str) -> None:
    pass


def holding(loader: Loader, app: App | None = None, min_keep_alive_s: float = 0) -> tuple[Guard, Shelf]:
    members = Shelf(loader, dict.fromkeys(loader.apps, math.inf), 2, unheard, wait_s=10, turn_s=10)
    return Guard(app, healthy, members, min_keep_alive_s), members


async def test_member_that_is_named_answers_and_nobody_else() -> None:
    loader, base = Loader(), App()
    guard, members = holding(loader, base)
    loader.apps["a"].gate.clear()
    async with asking(guard) as client:
        answer = asyncio.create_task(client.get("/", headers={MEMBER_HEADER.decode(): "a"}))
        await asyncio.wait_for(loader.apps["a"].running.wait(), 10)
        assert (members.shown()["a"]["running"], guard.unfinished) == (1, 1)
        loader.apps["a"].gate.set()
        assert (await answer).text == "yes"
        assert (members.shown()["a"]["running"], guard.unfinished) == (0, 0)
        await client.get("/")
    assert (loader.apps["a"].asked, loader.apps["b"].asked, base.asked) == (1, 0, 1)


@pytest.mark.parametrize(("member", "status", "code"), [("b", 503, "model_load_failed"), ("c", 404, "model_not_found")])
async def test_member_that_cannot_be_had_is_told_so(member: str, status: int, code: str) -> None:
    loader = Loader()
    loader.broken = {"b"}
    async with asking(holding(loader)[0]) as client:
        answer = await client.get("/", headers={MEMBER_HEADER.decode(): member})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert RETRY_HEADER not in answer.headers


async def test_replica_that_has_only_members_answers_for_nobody_else() -> None:
    async with asking(holding(Loader())[0]) as client:
        assert (await client.get("/")).status_code == 404


async def test_word_for_a_member_does_not_end_the_replica_sooner() -> None:
    guard, _ = holding(Loader(), min_keep_alive_s=60)
    async with asking(guard) as client:
        for said, meant in [("0.0", 60.0), ("90.0", 90.0), ("-1.0", -1.0)]:
            await client.get("/", headers={MEMBER_HEADER.decode(): "a", KEEP_ALIVE_HEADER.decode(): said})
            assert guard.keep_alive_s == meant


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


async def test_no_write_waits_for_the_other_side() -> None:
    """asyncio sees to that only for sockets that say their protocol; the ones of `create_server` do not."""
    server = Server(App(), {"127.0.0.1"})
    listening = server._sockets[0]
    with socket.create_connection(("127.0.0.1", server.port)):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await server.stop()


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
