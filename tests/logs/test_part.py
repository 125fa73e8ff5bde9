"""The keeper's part over HTTP: replicas ship to it, readers listen."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deployments.errors import KeeperGone
from deployments.keeper import keeper
from deployments.keeper.address import Address, AddressBook
from deployments.keeper.blocking import BlockingClient
from deployments.keeper.client import KeeperClient, KeeperRefused
from deployments.logs import part as parts
from deployments.logs.batch import Source
from deployments.logs.collect import NodeGone, Rest, rest
from deployments.logs.part import LogsPart
from deployments.logs.settings import LogSettings
from deployments.logs.shipper import Shipper
from deployments.residency.board import Board, Row, Table, encode
from deployments.server import Guard, Server
from tests.logs.sources import batch, source
from tests.residency.store import Memory

MODEL = "org--a"
NOBODY = 2**22 + 7  # no process has this id


class Here:
    """Collects on this machine; the node may be gone."""

    def __init__(self) -> None:
        self.gone = False

    async def collect(self, source: Source, offsets: Mapping[str, int]) -> Rest:
        if self.gone:
            raise NodeGone
        return rest(source, offsets)


class Application:
    """A keeper whose parts are the logs, and a board on which the model has a place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Memory()
        self.book = AddressBook("app", self.store)
        self.board = Board("app", self.store)
        self.collector = Here()
        self.place(1)
        self.client = KeeperClient(self.book)

    def place(self, replicas: int, *, waiting: bool = False) -> None:
        self.board.publish(encode(Table(rows={MODEL: Row(replicas=replicas, waiting=waiting, deployment=MODEL)})))

    async def start(self) -> None:
        self.part = LogsPart(LogSettings(), self.folder, self.board, self.collector)
        await self.part.start()
        guard = Guard(keeper.app([self.part]), _well)
        self.server = Server(guard, {"127.0.0.1"})
        await self.server.start()
        self.book.write(Address(f"http://127.0.0.1:{self.server.port}", guard.secret))

    async def stop(self) -> None:
        await self.server.stop()
        await self.part.stop()

    async def ship(self, data: bytes) -> Any:
        address = await self.client.address()
        async with (
            aiohttp.ClientSession() as session,
            session.post(address.url + "/logs/ship", data=data, headers=address.headers) as answer,
        ):
            return await answer.json()

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        self.client.forget()
        address = await self.client.address()
        url = f"{address.url}/api/logs/stream?model={MODEL}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=address.headers) as answer:
            assert answer.content_type == "text/event-stream"
            async for line in answer.content:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    async def shipped(self, count: int, deadline_s: float = 30) -> None:
        """Returns once so many lines are kept."""
        end = time.monotonic() + deadline_s
        while (await self.client.ask("/logs/stats")).get(MODEL, {}).get("log_count") != count:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    async def told(self) -> list[dict[str, Any]]:
        return [event async for event in self.events()]

    async def messages(self) -> list[str]:
        return [event["log"]["message"] for event in await self.told() if "log" in event]


async def _well() -> None:
    pass


async def until(look: Callable[[], bool], deadline_s: float = 10) -> None:
    end = time.monotonic() + deadline_s
    while not look():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Application]:
    monkeypatch.setattr(parts, "LOOK_S", 0.02)
    application = Application(tmp_path / "app")
    await application.start()
    yield application
    await application.client.close()
    await application.stop()


@asynccontextmanager
async def shipping(app: Application, *files: Path, who: Source | None = None) -> AsyncIterator[Shipper]:
    for file in files:
        file.touch()
    shipper = Shipper(who or source(), [str(file) for file in files], BlockingClient(app.book))
    shipper.start()
    try:
        yield shipper
    finally:
        await asyncio.to_thread(shipper.stop)


def say(file: Path, text: str) -> None:
    with file.open("a") as printed:
        printed.write(text)


async def test_what_a_process_prints_is_heard_until_it_stops(app: Application, tmp_path: Path) -> None:
    out = tmp_path / "out"
    say(out, "of another life\n")
    async with shipping(app, out):
        say(out, "one\n")
        stream = app.events()
        events = [await anext(stream)]
        while not any("log" in event for event in events):
            events.append(await anext(stream))
        say(out, "two\nlast words")
        app.place(0)
    events += [event async for event in stream]
    assert [event["log"]["message"] for event in events if "log" in event] == ["one", "two", "last words"]
    assert events[-1] == {"type": "stream_end"}
    assert await app.messages() == ["one", "two", "last words"]


async def test_stream_stays_open_while_the_model_is_to_come(app: Application) -> None:
    app.place(0, waiting=True)
    stream = app.events()
    assert await anext(stream) == {"type": "historical_complete"}
    end = asyncio.ensure_future(anext(stream))
    await until(lambda: bool(app.part._journal.read_now))
    assert not end.done()
    app.place(0)
    assert await end == {"type": "stream_end"}


async def test_keeper_that_comes_back_misses_and_doubles_nothing(app: Application, tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with shipping(app, out):
        for life in range(3):
            for number in range(200):
                say(out, f"{life}.{number}\n")
                if number == 100:
                    await app.stop()
                if number == 150:
                    await app.start()
            await asyncio.sleep(0)
        app.place(0)
    assert await app.messages() == [f"{life}.{number}" for life in range(3) for number in range(200)]


async def test_batch_whose_answer_was_lost_is_taken_once(app: Application) -> None:
    for _ in range(2):
        await app.ship(batch(0, 5, ["a"]).encode())
    await app.ship(batch(5, 5, [], ended=True).encode())
    app.place(0)
    assert await app.messages() == ["a"]


async def test_killed_process_is_looked_after(
    app: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "SILENCE_S", 0.1)
    out = tmp_path / "out"
    say(out, "heard\nlast words")
    dead = source(pid=NOBODY)
    first = batch(0, 6, ["heard"], dead)
    await app.ship(first.encode().replace(b"/var/log/a.out", str(out).encode()))
    app.place(0)
    events = await app.told()
    assert [event["log"]["message"] for event in events if "log" in event] == [
        "heard",
        "last words",
        "The process is gone without having said so.",
    ]
    assert events[-2]["log"]["level"] == "error"


async def test_process_that_is_only_slow_loses_nothing(
    app: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "SILENCE_S", 0.0)
    out = tmp_path / "out"
    async with shipping(app, out):
        for number in range(500):
            say(out, f"{number}\n")
            await asyncio.sleep(0.001)
        app.place(0)
    assert await app.messages() == [str(number) for number in range(500)]


async def test_node_that_is_gone_is_told(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    app.collector.gone = True
    monkeypatch.setattr(parts, "SILENCE_S", 0.0)
    await app.ship(batch(0, 5, ["a"]).encode())
    app.place(0)
    assert (await app.messages())[-1].startswith("The node of this process is gone")


async def test_next_keeper_knows_whom_it_does_not_hear(
    app: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    say(out, "heard\nunheard\n")
    first = batch(0, 6, ["heard"], source(pid=NOBODY))
    await app.ship(first.encode().replace(b"/var/log/a.out", str(out).encode()))
    await app.stop()
    monkeypatch.setattr(parts, "SILENCE_S", 0.0)
    app.place(0)
    await app.start()
    assert (await app.messages())[:2] == ["heard", "unheard"]


async def test_reader_that_does_not_read_holds_up_nobody(app: Application, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wanted = [f"{number} {'x' * 500}" for number in range(10_000)]
    async with shipping(app, out):
        stuck = app.events()
        await anext(stuck)
        for start in range(0, len(wanted), 1000):
            say(out, "\n".join(wanted[start : start + 1000]) + "\n")
            await asyncio.sleep(0)
        await app.shipped(len(wanted))
        app.place(0)
    assert await app.messages() == wanted
    assert [event["log"]["message"] async for event in stuck if "log" in event] == wanted


async def test_secrets_do_not_leave_the_process(app: Application, tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with shipping(app, out):
        say(out, "Authorization: Bearer abcdefghijklmnop\n")
        app.place(0)
    assert await app.messages() == ["Authorization: ***"]
    assert b"abcdefghijklmnop" not in b"".join(path.read_bytes() for path in app.folder.iterdir())


async def test_log_is_counted_and_cleared(app: Application) -> None:
    await app.ship(batch(0, 5, ["a", "b"]).encode())
    assert await app.client.ask("/logs/stats") == {MODEL: {"log_count": 2, "subscriber_count": 0}}
    stream = app.events()
    await anext(stream)
    assert (await app.client.ask("/logs/stats"))[MODEL]["subscriber_count"] == 1
    await stream.aclose()  # type: ignore[attr-defined]
    assert await app.client.ask("/logs/clear", {"model": MODEL, "keep_minutes": 1}) == {"deleted": 0}
    assert await app.client.ask("/logs/clear", {"model": MODEL, "keep_minutes": 0}) == {"deleted": 2}
    assert (await app.client.ask("/logs/stats"))[MODEL]["log_count"] == 0


async def test_what_is_no_batch_is_refused(app: Application) -> None:
    with pytest.raises(KeeperRefused) as refused:
        await app.client.ask("/logs/ship", {"a": 1})
    assert refused.value.status == 400


async def test_logs_that_cannot_be_kept_are_refused_until_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "OPEN_S", 0.01)
    application = Application(tmp_path / "app")
    (tmp_path / "app").write_text("a file where the folder is to be")
    await application.start()
    with pytest.raises(KeeperGone):
        await application.client.ask("/logs/stats")
    (tmp_path / "app").unlink()
    async with asyncio.timeout(10):
        while "files" not in await application.ship(batch(0, 5, ["a"]).encode()):  # noqa: ASYNC110  # as a shipper does
            await asyncio.sleep(0.01)
    assert (await application.client.ask("/logs/stats"))[MODEL]["log_count"] == 1
    await application.stop()
    await application.client.close()
