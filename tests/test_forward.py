"""The forwarder between a fake client and upstreams that speak HTTP by hand, on real loopback ports."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope

from deployments.errors import (
    RETRY_HEADER,
    ApiError,
    EngineFailed,
    KeeperGone,
    QueueFull,
    RequestCancelled,
    UpstreamTimeout,
)
from deployments.server import KEEP_ALIVE_HEADER, SECRET_HEADER
from ingress import forward, leases
from ingress.forward import DELIVERIES, Forwarder, Upstream, upstream_of
from ingress.leases import Lease, Route
from ingress.onlooker import Onlooker
from ingress.onlooker import Replica as SomeReplica
from ingress.responses import Held

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
SCOPE: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
REQUEST = Upstream("/v1/completions?a=1", {"content-type": "application/json", "x-request-id": "id-7"}, b'{"a": 1}')


class Connection:
    """One request as a replica sees it, and the raw bytes that it writes in answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.head = ""
        self.body = b""

    async def read(self) -> None:
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        self.body = await self._reader.readexactly(int(self.header("content-length") or 0))

    def header(self, name: str) -> str | None:
        lines = (line.partition(": ") for line in self.head.splitlines())
        return next((value for key, _, value in lines if key.lower() == name), None)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        """A chunk of a chunked answer; the empty one ends it."""
        await self.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def closed_by_the_other_side(self) -> None:
        assert await self._reader.read() == b""

    def close(self) -> None:
        self._writer.close()


Script = Callable[[Connection], Awaitable[None]]


class Replica:
    """An upstream that answers each connection with its script, and closes it."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.asked: list[Connection] = []
        self.finished = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        try:
            await connection.read()
            self.asked.append(connection)
            await self._script(connection)
        finally:
            connection.close()
            self.finished.set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


class FakeRoute(Route):
    """Lends a lease on each port in turn, the last one for ever."""

    def __init__(self, *ports: int) -> None:
        self._ports = list(ports)
        self.acquired: list[Lease] = []
        self.released: list[Lease] = []
        self.waits: list[float] = []

    async def acquire(self, wait_s: float, session: str = "") -> Lease:
        self.waits.append(wait_s)
        port = self._ports.pop(0) if len(self._ports) > 1 else self._ports[0]
        metadata = {"host": "127.0.0.1", "port": port, "secret": "s3cret"}
        slot = contextlib.nullcontext()
        lease = Lease(slot, SimpleNamespace(replica_metadata=metadata, node_id="n"), "n")
        lease.users = 1
        self.acquired.append(lease)
        return lease

    def release(self, lease: Lease) -> None:
        self.released.append(lease)


class FullRoute(FakeRoute):
    """Has no lease to lend."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(0)
        self._error = error

    async def acquire(self, wait_s: float, session: str = "") -> Lease:
        raise self._error


class Client:
    """The ASGI side of a client: what is sent to it, and the moment when it leaves."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.leaves = asyncio.Event()
        self._bodies: asyncio.Queue[bytes] = asyncio.Queue()

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self._bodies.put_nowait(message["body"])

    async def next_body(self) -> bytes:
        return await asyncio.wait_for(self._bodies.get(), 10)

    @property
    def has_more(self) -> bool:
        return not self._bodies.empty()

    async def reads(self, response: Response) -> None:
        await asyncio.wait_for(response(SCOPE, self.receive, self.send), 10)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        assert [m["type"] for m in self.sent].count("http.response.start") == 1
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        """All of it, properly ended."""
        assert [m["more_body"] for m in self.sent[1:]] == [True] * (len(self.sent) - 2) + [False]
        return b"".join(m["body"] for m in self.sent[1:])


class Clock:
    """The forwarder's time, which stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def no_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between tries, and no lease that runs out by itself."""
    monkeypatch.setattr(forward, "RETRY_S", 0.0)
    monkeypatch.setattr(leases, "LEASE_S", 3600.0)


@pytest.fixture
async def forwarder() -> AsyncIterator[Forwarder]:
    forwarder = Forwarder(load_wait_s=30, request_timeout_s=30, join=forward.BEHIND_HAPROXY)
    yield forwarder
    await forwarder._client.close()


@contextlib.asynccontextmanager
async def impatient(load_wait_s: float, request_timeout_s: float) -> AsyncIterator[Forwarder]:
    forwarder = Forwarder(load_wait_s=load_wait_s, request_timeout_s=request_timeout_s, join=forward.BEHIND_HAPROXY)
    yield forwarder
    await forwarder._client.close()


def whole(status: str, body: bytes, *headers: str) -> Script:
    """Answers in one piece."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]

    async def script(connection: Connection) -> None:
        await connection.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    return script


def streams(*chunks: bytes, end: bool = True) -> Script:
    """Answers with these chunks; without an end the connection is lost after them."""

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        for chunk in chunks:
            await connection.chunk(chunk)
        if end:
            await connection.chunk(b"")

    return script


async def silent(connection: Connection) -> None:
    """Waits until the ingress hangs up."""
    await connection.closed_by_the_other_side()


async def dies(connection: Connection) -> None:
    """Closes the connection without a word."""


def stream_of(*messages: bytes, to: Client) -> Script:
    """Streams each chunk when the client has got the one before; then waits until the ingress hangs up."""

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        for message in messages:
            await connection.chunk(message)
            assert await to.next_body() == message
        await connection.closed_by_the_other_side()

    return script


def torn_error(client: Client, received: bytes) -> dict[str, Any]:
    """The error event after `received`, which must be an event of its own and the last one."""
    rest = client.body.removeprefix(received)
    assert rest != client.body
    assert b"[DONE]" not in rest
    *_, event, end = client.body.split(b"\n\n")
    assert end == b""
    error: dict[str, Any] = json.loads(event.lstrip(b"\n").removeprefix(b"data: "))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


# Untouched -----------------------------------------------------------------------------------------------------------


async def test_replica_gets_the_request_as_it_is_and_its_secret(forwarder: Forwarder) -> None:
    replica = Replica(whole("200 OK", b"{}"))
    async with replica.listening() as port:
        await Client().reads(forwarder.answer(FakeRoute(port), REQUEST))
    (asked,) = replica.asked
    assert asked.head.startswith("POST /v1/completions?a=1 HTTP/1.1\r\n")
    assert asked.body == REQUEST.body
    assert asked.header("content-type") == "application/json"
    assert asked.header("x-request-id") == "id-7"
    assert asked.header(SECRET_HEADER.decode()) == "s3cret"
    assert [asked.header(name) for name in ("user-agent", "accept", "accept-encoding", "cookie")] == [None] * 4


async def test_answer_comes_back_untouched_with_its_length(forwarder: Forwarder) -> None:
    body = b'{"a":  "\xc3\xa9"}\n'
    script = whole("200 OK", body, "Content-Type: application/json; charset=x", "X-Own: \xe9", "x-two: 1", "x-two: 2")
    client = Client()
    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.status == 200
    assert client.headers == [
        (b"content-type", b"application/json; charset=x"),
        (b"x-own", b"\xe9"),
        (b"x-two", b"1"),
        (b"x-two", b"2"),
        (b"content-length", str(len(body)).encode()),
    ]
    assert client.body == body


async def test_answer_without_an_announced_length_gets_one(forwarder: Forwarder) -> None:
    async def script(connection: Connection) -> None:
        await connection.write(SSE.replace(b"text/event-stream", b"application/json"))
        await connection.chunk(b"[1,")
        await connection.chunk(b"2]")
        await connection.chunk(b"")

    client = Client()
    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.headers == [(b"content-type", b"application/json"), (b"content-length", b"5")]
    assert client.body == b"[1,2]"


async def test_hop_by_hop_headers_are_dropped(forwarder: Forwarder) -> None:
    dropped = ["Connection: close", "Keep-Alive: timeout=5", "TE: x", "Upgrade: h2c", "Server: uvicorn", "Date: today"]
    client = Client()
    async with Replica(whole("200 OK", b"", *dropped, "x-kept: 1")).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.headers == [(b"x-kept", b"1"), (b"content-length", b"0")]


async def test_compressed_answer_stays_compressed(forwarder: Forwarder) -> None:
    body = gzip.compress(b"{}")
    client = Client()
    async with Replica(whole("200 OK", body, "content-encoding: gzip")).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert (b"content-encoding", b"gzip") in client.headers
    assert client.body == body


OURS = json.dumps({"error": {"message": "m", "type": "server_error", "param": None, "code": "x"}}, indent=3).encode()


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many Requests", "500 Oops", "503 Busy"])
async def test_error_of_the_engine_is_an_answer_like_others(forwarder: Forwarder, status: str) -> None:
    replica, client = Replica(whole(status, OURS, "retry-after: 3")), Client()
    async with replica.listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.status == int(status[:3])
    assert (b"retry-after", b"3") in client.headers
    assert client.body == OURS
    assert len(replica.asked) == 1


async def test_error_of_another_shape_gets_ours(forwarder: Forwarder) -> None:
    said = b'{"error": {"message": "too hot", "type": "BadRequestError", "param": "temperature", "code": 400}}'
    client = Client()
    script = whole("400 Bad Request", said, "content-type: text/x", "x-own: 1")
    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.status == 400
    assert json.loads(client.body)["error"] == {
        "message": "too hot",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "invalid_value",
    }
    assert sorted(client.headers) == [
        (b"content-length", str(len(client.body)).encode()),
        (b"content-type", b"application/json"),
        (b"x-own", b"1"),
    ]


async def test_error_that_says_what_the_engine_has_not_got_is_a_400(forwarder: Forwarder) -> None:
    client = Client()
    async with Replica(whole("404 Not Found", b'{"detail":"Not Found"}')).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.status == 400
    assert json.loads(client.body)["error"]["code"] == "wrong_mode"
    assert "/v1/completions " in json.loads(client.body)["error"]["message"]


async def test_compressed_error_is_not_read(forwarder: Forwarder) -> None:
    body, client = gzip.compress(b"no"), Client()
    async with Replica(whole("400 Bad Request", body, "content-encoding: gzip")).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.body == body


async def test_redirect_of_an_engine_is_not_followed(forwarder: Forwarder) -> None:
    replica, client = Replica(whole("307 Elsewhere", b"", "location: /sleep")), Client()
    async with replica.listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.status == 307
    assert len(replica.asked) == 1


async def test_replica_is_asked_with_the_clients_method(forwarder: Forwarder) -> None:
    replica = Replica(whole("200 OK", b"{}"))
    async with replica.listening() as port:
        await Client().reads(forwarder.answer(FakeRoute(port), Upstream("/v1/responses/r", {}, b"", "GET")))
    (asked,) = replica.asked
    assert asked.head.startswith("GET /v1/responses/r HTTP/1.1\r\n")
    assert asked.header("content-type") is None


async def test_stream_comes_back_untouched_and_without_a_length(forwarder: Forwarder) -> None:
    chunks = [b"data: {}\n\n", b"da", b"ta: \xf0\x9f", b"\xa6\x99\n\n: ping\n\n", DONE]
    route, client = FakeRoute(0), Client()
    async with Replica(streams(*chunks)).listening() as port:
        route._ports = [port]
        await client.reads(forwarder.answer(route, REQUEST))
    assert client.status == 200
    assert client.headers == [(b"content-type", b"text/event-stream")]
    assert client.body == b"".join(chunks)
    assert route.released == route.acquired
    assert route.acquired[0].lends(9), "a good replica is asked again"


async def test_stream_without_a_byte_is_an_empty_answer(forwarder: Forwarder) -> None:
    client = Client()
    async with Replica(streams()).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert (client.status, client.body) == (200, b"")


# Another replica -----------------------------------------------------------------------------------------------------


async def breaks_off(connection: Connection) -> None:
    """Loses the connection in the middle of an answer in one piece."""
    await connection.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n[1")


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(dies, id="no answer"),
        pytest.param(streams(end=False), id="only the head of a stream"),
        pytest.param(breaks_off, id="half of an answer in one piece"),
        pytest.param(whole("503 Busy", b"{}", f"{RETRY_HEADER}: 1"), id="an answer that says so"),
    ],
)
async def test_replica_lost_before_the_first_byte_is_replaced(forwarder: Forwarder, first: Script) -> None:
    bad, good, client = Replica(first), Replica(whole("200 OK", b"good")), Client()
    async with bad.listening() as one, good.listening() as two:
        route = FakeRoute(one, two)
        await client.reads(forwarder.answer(route, REQUEST))
    assert (client.status, client.body) == (200, b"good")
    assert [replica.asked[0].body for replica in (bad, good)] == [REQUEST.body] * 2
    assert route.released == route.acquired
    assert [lease.lends(9) for lease in route.acquired] == [False, True]


async def test_request_reaches_only_so_many_replicas(forwarder: Forwarder) -> None:
    """It may be what kills them."""
    bad, client = Replica(dies), Client()
    async with bad.listening() as port:
        route = FakeRoute(port)
        with pytest.raises(EngineFailed):
            await client.reads(forwarder.answer(route, REQUEST))
    assert len(bad.asked) == DELIVERIES
    assert client.sent == []
    assert route.released == route.acquired


async def test_replicas_that_cannot_be_reached_are_no_deliveries(forwarder: Forwarder, closed_port: int) -> None:
    client = Client()
    async with Replica(whole("200 OK", b"good")).listening() as port:
        route = FakeRoute(*[closed_port] * (2 * DELIVERIES), port)
        await client.reads(forwarder.answer(route, REQUEST))
    assert client.body == b"good"
    assert len(route.released) == 2 * DELIVERIES + 1


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


async def test_search_for_a_replica_ends_with_the_wait_for_the_model(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(forward, "time", clock)

    class Slow(FakeRoute):
        async def acquire(self, wait_s: float, session: str = "") -> Lease:
            clock.now += 4
            return await super().acquire(wait_s, session)

    route = Slow(closed_port)
    async with impatient(10, 30) as forwarder:
        with pytest.raises(EngineFailed):
            await Client().reads(forwarder.answer(route, REQUEST))
    assert route.waits == [10, 6, 2]


async def test_error_of_the_route_reaches_the_caller(forwarder: Forwarder) -> None:
    client, error = Client(), ApiError("no room")
    with pytest.raises(ApiError) as caught:
        await client.reads(forwarder.answer(FullRoute(error), REQUEST))
    assert caught.value is error
    assert client.sent == []


# After the first byte ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"data: 1\n\n", id="between events"),
        pytest.param(b"data: 1\n\ndata: {", id="in the middle of an event"),
        pytest.param(b"data: 1\n", id="in the middle of an event's end"),
    ],
)
async def test_replica_lost_after_the_first_byte_is_an_error_event(forwarder: Forwarder, sent: bytes) -> None:
    client = Client()
    good = Replica(streams(DONE))

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(sent)
        assert await client.next_body() == sent

    bad = Replica(script)
    async with bad.listening() as one, good.listening() as two:
        route = FakeRoute(one, two)
        await client.reads(forwarder.answer(route, REQUEST))
    error = torn_error(client, sent)
    assert (error["type"], error["code"]) == ("server_error", "engine_failed")
    assert good.asked == []
    assert route.released == route.acquired
    assert not route.acquired[0].lends(9)


async def test_whole_events_are_followed_by_the_error_alone(forwarder: Forwarder) -> None:
    client = Client()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await client.next_body()

    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.body.startswith(b'data: 1\n\ndata: {"error"')


async def test_error_event_of_messages_is_anthropics_too(forwarder: Forwarder) -> None:
    client = Client()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await client.next_body()

    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), Upstream("/v1/messages?beta=true", {}, b"{}")))
    assert client.body.startswith(b'data: 1\n\nevent: error\ndata: {"type": "error", "error": {"message": "')


# Onlookers -----------------------------------------------------------------------------------------------------------


class Watching(Onlooker):
    """Remembers what it has seen, and from where."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.steps: list[str | int] = []

    def waits(self) -> None:
        self.steps.append("waits")

    def lent(self) -> None:
        self.steps.append("lent")

    def begins(self) -> None:
        self.steps.append("begins")

    async def whole(self, replica: SomeReplica, body: bytes) -> None:
        await asyncio.sleep(0)
        self.seen.append((replica.url, body))

    def chunk(self, replica: SomeReplica, chunk: bytes, *, more: bool) -> bytes:
        self.seen.append((replica.url, chunk))
        return chunk

    def ended(self, status: int) -> None:
        self.steps.append(status)


class Shouting(Onlooker):
    """Keeps what begins with `hush` from the client, raises the rest."""

    def chunk(self, replica: SomeReplica, chunk: bytes, *, more: bool) -> bytes:
        return b"" if chunk.startswith(b"hush") else chunk.upper()


async def test_onlooker_sees_an_answer_before_the_client_has_it(forwarder: Forwarder) -> None:
    client = Client()

    class Slow(Watching):
        async def whole(self, replica: SomeReplica, body: bytes) -> None:
            assert client.sent == []
            await super().whole(replica, body)

    onlooker = Slow()
    async with Replica(whole("200 OK", b"{}")).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST, [onlooker]))
    assert onlooker.seen == [(f"http://127.0.0.1:{port}", b"{}")]
    assert client.body == b"{}"


async def test_onlooker_sees_a_stream_that_is_not_changed(forwarder: Forwarder) -> None:
    client, onlooker = Client(), Watching()
    async with Replica(streams(b"data: 1\n\n", DONE)).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST, [onlooker]))
    assert client.body == b"data: 1\n\n" + DONE
    assert b"".join(chunk for _, chunk in onlooker.seen) == client.body


async def test_onlooker_sees_no_error(forwarder: Forwarder) -> None:
    onlooker = Watching()
    async with Replica(whole("400 Bad Request", OURS)).listening() as port:
        await Client().reads(forwarder.answer(FakeRoute(port), REQUEST, [onlooker]))
    assert onlooker.seen == []


async def test_client_gets_what_the_onlookers_leave_each_after_the_one_before(forwarder: Forwarder) -> None:
    client, second = Client(), Watching()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"a")
        assert await client.next_body() == b"A"
        await connection.chunk(b"hush")
        await connection.chunk(b"")

    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST, [Shouting(), second]))
    assert client.body == b"A"
    assert b"".join(chunk for _, chunk in second.seen) == b"A"


@pytest.mark.parametrize(
    ("script", "steps"),
    [
        (streams(b"data: 1\n\n", DONE), ["waits", "lent", "begins", 200]),
        (whole("400 Bad Request", OURS), ["waits", "lent", "begins", 400]),
        (dies, ["waits", "lent"] * DELIVERIES + [503]),
        (streams(b"data: 1\n\n", end=False), ["waits", "lent", "begins", 503]),
    ],
)
async def test_onlooker_is_told_each_wait_and_how_the_request_ends(
    forwarder: Forwarder, script: Script, steps: list[str | int]
) -> None:
    onlooker = Watching()
    async with Replica(script).listening() as port:
        with contextlib.suppress(EngineFailed):
            await Client().reads(forwarder.answer(FakeRoute(port), REQUEST, [onlooker]))
    assert onlooker.steps == steps


async def test_onlooker_is_told_that_the_only_replica_is_asked(forwarder: Forwarder) -> None:
    onlooker = Watching()
    async with Replica(whole("200 OK", b"{}")).listening() as port:
        await Client().reads(forwarder.answer_of(held(port), REQUEST, GONE, [onlooker]))
    assert onlooker.steps == ["lent", "begins", 200]


async def test_onlooker_is_told_that_there_was_no_replica(forwarder: Forwarder) -> None:
    onlooker = Watching()
    with pytest.raises(EngineFailed):
        await Client().reads(forwarder.answer(FullRoute(EngineFailed("none")), REQUEST, [onlooker]))
    assert onlooker.steps == ["waits", 503]


async def test_onlooker_may_refuse_the_wait(forwarder: Forwarder) -> None:
    class Refusing(Watching):
        def waits(self) -> None:
            raise QueueFull("full")

    onlooker = Refusing()
    with pytest.raises(QueueFull):
        await Client().reads(forwarder.answer(FullRoute(EngineFailed("somebody was asked")), REQUEST, [onlooker]))
    assert onlooker.steps == [429]


async def test_onlooker_is_told_that_the_client_has_left(forwarder: Forwarder) -> None:
    client, onlooker = Client(), Watching()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await client.next_body()
        client.leaves.set()
        await connection.closed_by_the_other_side()

    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST, [onlooker]))
    assert onlooker.steps == ["waits", "lent", "begins", 499]


# One replica and no other --------------------------------------------------------------------------------------------

GONE = ApiError("gone")


def held(port: int) -> Held:
    return Held("a", f"http://127.0.0.1:{port}", "s3cret")


@pytest.mark.parametrize("script", [whole("200 OK", b"{}"), streams(b"data: 1\n\n", DONE)])
async def test_replica_is_asked_without_a_lease(forwarder: Forwarder, script: Script) -> None:
    replica, client = Replica(script), Client()
    async with replica.listening() as port:
        await client.reads(forwarder.answer_of(held(port), REQUEST, GONE))
    assert client.status == 200
    assert client.body in (b"{}", b"data: 1\n\n" + DONE)
    (asked,) = replica.asked
    assert asked.header(SECRET_HEADER.decode()) == "s3cret"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(dies, id="dies"),
        pytest.param(whole("401 Unauthorized", OURS), id="is another one"),
        pytest.param(whole("503 Broken", OURS, f"{RETRY_HEADER}: 1"), id="is broken"),
    ],
)
async def test_replica_that_cannot_answer_is_gone(forwarder: Forwarder, script: Script) -> None:
    replica, client = Replica(script), Client()
    async with replica.listening() as port:
        with pytest.raises(ApiError) as caught:
            await client.reads(forwarder.answer_of(held(port), REQUEST, GONE))
    assert caught.value is GONE
    assert client.sent == []
    assert len(replica.asked) == 1


async def test_replica_that_is_not_there_is_gone(forwarder: Forwarder, closed_port: int) -> None:
    with pytest.raises(ApiError) as caught:
        await Client().reads(forwarder.answer_of(held(closed_port), REQUEST, GONE))
    assert caught.value is GONE


async def test_replica_lost_in_its_stream_is_an_error_event(forwarder: Forwarder) -> None:
    client = Client()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await client.next_body()

    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer_of(held(port), REQUEST, GONE))
    assert torn_error(client, b"data: 1\n\n")["code"] == "engine_failed"


@pytest.mark.parametrize("limit", [{}, {"timeout_s": 0.05}, {"timeout_s": None}])
async def test_stream_may_have_no_time_limit(limit: dict[str, Any]) -> None:
    client = Client()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await client.next_body()
        await asyncio.sleep(0.2)
        await connection.chunk(b"data: 2\n\n")
        await connection.chunk(b"")

    async with Replica(script).listening() as port, impatient(30, 0.05) as hasty:
        await client.reads(hasty.answer_of(held(port), REQUEST, GONE, **limit))
    if "timeout_s" in limit and limit["timeout_s"] is None:
        assert client.body == b"data: 1\n\ndata: 2\n\n"
    else:
        assert torn_error(client, b"data: 1\n\n")["code"] == "timeout"


async def test_stream_that_is_lost_says_what_it_was_told_to_and_of_what_type_the_event_is(forwarder: Forwarder) -> None:
    client, lost = Client(), KeeperGone("The logs are away.")

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await client.next_body()

    async with Replica(script).listening() as port:
        request = replace(REQUEST, target="/api/logs/stream?model=a")
        await client.reads(forwarder.answer_of(held(port), request, GONE, lost=lost))
    event = json.loads(client.body.removeprefix(b"data: 1\n\ndata: "))
    assert (event["type"], event["message"]) == ("error", "The logs are away.")


# Clients that leave --------------------------------------------------------------------------------------------------


async def leaves(client: Client, response: Response, replica: Replica, *, when: Awaitable[object]) -> None:
    """The client leaves, and the replica sees the connection end."""
    reading = asyncio.create_task(client.reads(response))
    await asyncio.wait_for(when, 10)
    client.leaves.set()
    await reading
    await asyncio.wait_for(replica.finished.wait(), 10)


async def test_client_that_leaves_ends_a_stream(forwarder: Forwarder) -> None:
    client, started = Client(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await client.next_body()
        started.set()
        await connection.closed_by_the_other_side()

    replica = Replica(script)
    async with replica.listening() as port:
        route = FakeRoute(port)
        await leaves(client, forwarder.answer(route, REQUEST), replica, when=started.wait())
    assert [m.get("body") for m in client.sent[1:]] == [b"data: 1\n\n"], "nothing is sent to a client that has left"
    assert route.released == route.acquired
    assert len(route.acquired) == 1


class Canceller(Onlooker):
    """Cancels when a test says so."""

    def __init__(self) -> None:
        self.cancel: Callable[[], None] = lambda: None
        self.status = 0

    def works(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel

    def ended(self, status: int) -> None:
        self.status = status


async def test_cancelled_stream_ends_with_an_error_and_so_does_the_upstream(forwarder: Forwarder) -> None:
    client, canceller, started = Client(), Canceller(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await client.next_body()
        started.set()
        await connection.closed_by_the_other_side()

    replica = Replica(script)
    async with replica.listening() as port:
        route = FakeRoute(port)
        reading = asyncio.create_task(client.reads(forwarder.answer(route, REQUEST, [canceller])))
        await asyncio.wait_for(started.wait(), 10)
        canceller.cancel()
        await reading
        await asyncio.wait_for(replica.finished.wait(), 10)
    assert torn_error(client, b"data: 1\n\n")["code"] == "request_cancelled"
    assert canceller.status == 499
    assert route.released == route.acquired


async def test_cancelled_answer_in_one_piece_is_an_error_and_ends_the_upstream(forwarder: Forwarder) -> None:
    client, canceller, asked = Client(), Canceller(), asyncio.Event()

    async def script(connection: Connection) -> None:
        asked.set()
        await connection.closed_by_the_other_side()

    replica = Replica(script)
    async with replica.listening() as port:
        route = FakeRoute(port)
        reading = asyncio.create_task(client.reads(forwarder.answer(route, REQUEST, [canceller])))
        await asyncio.wait_for(asked.wait(), 10)
        canceller.cancel()
        with pytest.raises(RequestCancelled):
            await reading
        await asyncio.wait_for(replica.finished.wait(), 10)
    assert (client.sent, canceller.status) == ([], 499)
    assert route.released == route.acquired
    canceller.cancel()  # it is over: nothing happens


async def test_client_that_leaves_ends_an_answer_in_one_piece(forwarder: Forwarder) -> None:
    client, asked = Client(), asyncio.Event()

    async def script(connection: Connection) -> None:
        asked.set()
        await connection.closed_by_the_other_side()

    replica = Replica(script)
    async with replica.listening() as port:
        route = FakeRoute(port)
        await leaves(client, forwarder.answer(route, REQUEST), replica, when=asked.wait())
    assert client.sent == []
    assert route.released == route.acquired
    assert len(replica.asked) == 1


async def test_client_that_leaves_ends_the_wait_for_a_replica(forwarder: Forwarder) -> None:
    class Waiting(FakeRoute):
        ended = False

        async def acquire(self, wait_s: float, session: str = "") -> Lease:
            try:
                await asyncio.Event().wait()
            finally:
                self.ended = True
            raise AssertionError

    client, route = Client(), Waiting(0)
    reading = asyncio.create_task(client.reads(forwarder.answer(route, REQUEST)))
    await asyncio.sleep(0)
    client.leaves.set()
    await reading
    assert route.ended
    assert route.released == []


async def test_server_that_ends_the_request_ends_the_upstream(forwarder: Forwarder) -> None:
    client, asked = Client(), asyncio.Event()

    async def script(connection: Connection) -> None:
        asked.set()
        await connection.closed_by_the_other_side()

    replica = Replica(script)
    async with replica.listening() as port:
        route = FakeRoute(port)
        reading = asyncio.create_task(client.reads(forwarder.answer(route, REQUEST)))
        await asyncio.wait_for(asked.wait(), 10)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(replica.finished.wait(), 10)
    assert route.released == route.acquired


# Pace ----------------------------------------------------------------------------------------------------------------


async def turns(count: int = 50) -> None:
    """Lets the loop carry what can be carried at once."""
    for _ in range(count):
        await asyncio.sleep(0)


def join(monkeypatch: pytest.MonkeyPatch, forwarder: Forwarder, step_s: float, max_s: float) -> Clock:
    """Sets the times within which chunks are joined, and stops the forwarder's clock."""
    clock = Clock()
    monkeypatch.setattr(forwarder, "_join", forward.Join(step_s, max_s))
    monkeypatch.setattr(forward, "time", clock)
    return clock


async def test_first_bytes_are_never_held(forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch) -> None:
    join(monkeypatch, forwarder, 3600, 3600)
    client, got = Client(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        assert await client.next_body() == b"data: 1\n\n"
        got.set()
        await connection.closed_by_the_other_side()

    replica = Replica(script)
    async with replica.listening() as port:
        await leaves(client, forwarder.answer(FakeRoute(port), REQUEST), replica, when=got.wait())


async def test_slow_stream_is_never_held(forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = join(monkeypatch, forwarder, 3600, 3600)
    client, got = Client(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        for message in (b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"):
            await connection.chunk(message)
            assert await client.next_body() == message
            await turns()
            clock.now += 3601
        got.set()
        await connection.closed_by_the_other_side()

    replica = Replica(script)
    async with replica.listening() as port:
        await leaves(client, forwarder.answer(FakeRoute(port), REQUEST), replica, when=got.wait())


async def test_chunks_that_come_close_together_leave_together(
    forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(monkeypatch, forwarder, 0.1, 0.1)
    client = Client()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        assert await client.next_body() == b"data: 1\n\n"
        for message in (b"data: 2\n\n", b"data: 3\n\n"):
            await connection.chunk(message)
            await turns()
            assert not client.has_more, "passed on alone"
        assert await client.next_body() == b"data: 2\n\ndata: 3\n\n"
        await connection.chunk(DONE)
        await connection.chunk(b"")

    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert client.body == b"data: 1\n\ndata: 2\n\ndata: 3\n\n" + DONE


@pytest.mark.parametrize(
    ("others", "ended", "after_s", "held"),
    [
        pytest.param(0, 0, 9, True, id="sooner than one step"),
        pytest.param(0, 0, 15, False, id="later than one step"),
        pytest.param(1, 0, 15, True, id="sooner than the steps of two streams"),
        pytest.param(1, 1, 15, False, id="streams that have ended do not count"),
        pytest.param(9, 0, 24, True, id="sooner than the maximum"),
        pytest.param(9, 0, 26, False, id="later than the maximum"),
    ],
)
async def test_chunk_is_held_the_longer_the_more_streams_run(
    forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch, others: int, ended: int, after_s: float, held: bool
) -> None:
    clock = join(monkeypatch, forwarder, 10, 25)
    more = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await more.wait()
        await connection.chunk(b"data: 2\n\n")
        await connection.closed_by_the_other_side()

    async def begin(client: Client) -> asyncio.Task[None]:
        reading = asyncio.create_task(client.reads(forwarder.answer(FakeRoute(port), REQUEST)))
        await client.next_body()
        await turns()
        return reading

    async def leave(client: Client, reading: asyncio.Task[None]) -> None:
        client.leaves.set()
        await reading

    async with Replica(script).listening() as port:
        running = [(client, await begin(client)) for client in (Client() for _ in range(others))]
        for client, reading in running[:ended]:
            await leave(client, reading)
        watched = Client()
        running.append((watched, await begin(watched)))
        clock.now += after_s
        more.set()
        await turns()
        assert watched.has_more is not held
        for client, reading in running[ended:]:
            await leave(client, reading)


async def test_held_chunk_is_passed_on_when_the_replica_is_lost(
    forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(monkeypatch, forwarder, 0.05, 0.05)
    client = Client()

    async def script(connection: Connection) -> None:
        await connection.write(SSE)
        await connection.chunk(b"data: 1\n\n")
        await client.next_body()
        await connection.chunk(b"data: 2\n\n")
        await turns()

    async with Replica(script).listening() as port:
        await client.reads(forwarder.answer(FakeRoute(port), REQUEST))
    assert torn_error(client, b"data: 1\n\ndata: 2\n\n")["code"] == "engine_failed"


# Time ----------------------------------------------------------------------------------------------------------------


async def test_answer_that_does_not_begin_in_time_is_a_timeout() -> None:
    replica, client = Replica(silent), Client()
    async with replica.listening() as port, impatient(0.05, 0.05) as forwarder:
        route = FakeRoute(port)
        with pytest.raises(UpstreamTimeout):
            await client.reads(forwarder.answer(route, REQUEST))
        await asyncio.wait_for(replica.finished.wait(), 10)
    assert client.sent == []
    assert route.released == route.acquired
    assert len(replica.asked) == 1


async def test_stream_that_does_not_end_in_time_ends_with_an_error_event() -> None:
    client = Client()
    replica = Replica(stream_of(b"data: 1\n\n", b"data: {", to=client))
    async with replica.listening() as port, impatient(0.2, 0.2) as forwarder:
        route = FakeRoute(port)
        await client.reads(forwarder.answer(route, REQUEST))
        await asyncio.wait_for(replica.finished.wait(), 10)
    error = torn_error(client, b"data: 1\n\ndata: {")
    assert (error["type"], error["code"]) == ("server_error", "timeout")
    assert route.released == route.acquired


async def test_wait_for_the_model_is_not_taken_from_the_answers_time() -> None:
    class Loading(FakeRoute):
        async def acquire(self, wait_s: float, session: str = "") -> Lease:
            loaded = asyncio.Event()
            asyncio.get_running_loop().call_later(0.25, loaded.set)
            await loaded.wait()
            return await super().acquire(wait_s, session)

    client = Client()
    async with Replica(whole("200 OK", b"good")).listening() as port, impatient(30, 0.2) as forwarder:
        await client.reads(forwarder.answer(Loading(port), REQUEST))
    assert client.body == b"good"


# upstream_of ---------------------------------------------------------------------------------------------------------


def request(path: str, query: bytes = b"", root: str = "", method: str = "POST", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "method": method,
            "scheme": "http",
            "server": ("test", 80),
            "path": path,
            "root_path": root,
            "query_string": query,
            "headers": raw,
        }
    )


def test_replica_gets_nothing_of_the_clients_credentials() -> None:
    asked = request(
        "/v1/completions", authorization="Bearer key", x_api_key="key", cookie="a=b", x_replica_secret="guess", host="h"
    )
    assert upstream_of(asked, "/v1/completions", b"{}", "id-1") == Upstream(
        "/v1/completions", {"content-type": "application/json", "x-request-id": "id-1"}, b"{}", "POST"
    )


def test_replica_gets_what_engines_read_of_the_headers() -> None:
    told = {"accept": "text/event-stream", "anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}
    told |= {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    asked = request("/v1/messages", b"", "", "POST", **told)
    assert upstream_of(asked, "/v1/messages", b"{}", "id-1").headers.items() >= told.items()


def test_word_on_how_long_the_model_stays_is_the_ingresss_and_not_the_clients() -> None:
    asked = request("/v1/completions", x_keep_alive="5m")
    header = KEEP_ALIVE_HEADER.decode()
    assert header not in upstream_of(asked, "/v1/completions", b"{}", "id-1").headers
    for seconds in (0.0, 300.0, 0.5, 1e9, -1.0):
        told = upstream_of(asked, "/v1/completions", b"{}", "id-1", seconds).headers[header]
        assert float(told) == seconds


def test_content_type_is_the_clients() -> None:
    asked = request("/v1/audio", content_type="multipart/form-data; boundary=x")
    assert upstream_of(asked, "/v1/audio", b"--x--", "").headers["content-type"] == "multipart/form-data; boundary=x"
    assert "content-type" not in upstream_of(request("/v1/audio"), "/v1/audio", b"", "").headers


def test_path_is_the_endpoints_and_the_query_is_kept() -> None:
    asked = request("/llm/v1/rerank\n", b"a=%2F&b=c+d", root="/llm", method="GET")
    upstream = upstream_of(asked, "/v1/rerank", b"", "")
    assert (upstream.method, upstream.target) == ("GET", "/v1/rerank?a=%2F&b=c+d")
    assert upstream.path == "/v1/rerank"
