from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.errors import ResponseNotFound
from deployments.server import SECRET_HEADER
from ingress import responses
from ingress.responses import Held, Responses, Watch

SECRET = {SECRET_HEADER.decode(): "s3cret"}
NEAR = SimpleNamespace(url="http://127.0.0.1:77", headers=SECRET)
HELD = Held("a", "http://10.0.0.1:77", "s3cret")


class Memory:
    """A store that several ingress replicas see."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.broken = False

    def put(self, key: str, value: bytes) -> None:
        if self.broken:
            raise OSError("no store")
        self.values[key] = value

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.values if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


@pytest.fixture
def store() -> Memory:
    return Memory()


async def test_response_of_one_ingress_replica_is_found_by_another(store: Memory) -> None:
    await Responses("app", "10.0.0.1", store).keep("resp_1", "a", NEAR)
    held = await Responses("app", "10.0.0.2", store).find("resp_1")
    assert held == HELD, "at an address that other nodes reach too"
    assert held.headers == SECRET


async def test_response_of_another_application_is_not_found(store: Memory) -> None:
    await Responses("app", "10.0.0.1", store).keep("resp_1", "a", NEAR)
    with pytest.raises(ResponseNotFound):
        await Responses("other", "10.0.0.1", store).find("resp_1")


@pytest.mark.parametrize("id_", ["resp_2", "", "..", "a/b", "x" * 200])
async def test_unknown_response_is_not_found(store: Memory, id_: str) -> None:
    with pytest.raises(ResponseNotFound):
        await Responses("app", "10.0.0.1", store).find(id_)


async def test_ingress_replica_remembers_its_last_ones(store: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "LIMIT", 2)
    known = Responses("app", "10.0.0.1", store)
    for id_ in "abc":
        await known.keep(id_, "a", NEAR)
    assert sorted(store.values) == ["app/response/b", "app/response/c"]
    await known.keep("b", "a", NEAR)
    await known.keep("d", "a", NEAR)
    assert sorted(store.values) == ["app/response/b", "app/response/d"], "what is kept again is the last one"


async def test_response_is_found_here_although_the_store_is_broken(store: Memory) -> None:
    store.broken = True
    known = Responses("app", "10.0.0.1", store)
    await known.keep("resp_1", "a", NEAR)
    assert await known.find("resp_1") == HELD


# Watch ---------------------------------------------------------------------------------------------------------------


def created(**fields: Any) -> bytes:
    data = {"type": "response.created", "response": {"id": "resp_1", **fields}}
    return b"event: response.created\ndata: " + json.dumps(data).encode() + b"\n\n"


async def seen(store: Memory, watch: Watch, *chunks: bytes) -> list[str]:
    """The keys of the store once these chunks have passed by."""
    for chunk in chunks:
        assert watch.chunk(NEAR, chunk, more=True) == chunk
    await asyncio.gather(*watch._responses._writing)
    return list(store.values)


def watching(store: Memory, *, stored: bool = True) -> Watch:
    return Watch(Responses("app", "10.0.0.1", store), "a", stored=stored)


@pytest.mark.parametrize(
    ("fields", "asked", "kept"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"store": True}, False, True),
        ({"store": False}, True, False),
        ({"store": False, "background": True}, True, True),
        ({"store": None, "background": False}, True, True),
    ],
)
async def test_response_is_kept_if_the_engine_keeps_it(
    store: Memory, fields: dict[str, Any], asked: bool, kept: bool
) -> None:
    await watching(store, stored=asked).whole(NEAR, json.dumps({"id": "resp_1", **fields}).encode())
    assert list(store.values) == ["app/response/resp_1"] * kept
    store.values.clear()
    assert await seen(store, watching(store, stored=asked), created(**fields)) == ["app/response/resp_1"] * kept


async def test_first_event_of_a_stream_is_read_however_it_is_cut(store: Memory) -> None:
    event = created()
    for cut in range(1, len(event)):
        store.values.clear()
        assert await seen(store, watching(store), event[:cut], event[cut:] + b"data: {") == ["app/response/resp_1"]


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: {}\n\n", created()],
        [b"data: [DONE]\n\n"],
        [b": ping\n\n"],
        [b"event: error\ndata: []\n\n"],
        [created(id="../x")],
        [created(id=3)],
        [b"data: {", created()],
    ],
)
async def test_stream_that_begins_otherwise_is_let_go(store: Memory, chunks: list[bytes]) -> None:
    assert await seen(store, watching(store), *chunks) == []


async def test_first_event_without_an_end_is_let_go(store: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "MAX_EVENT", 10)
    assert await seen(store, watching(store), b"data: " + b" " * 10, created()) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'"x"', b'{"response": 3}', b'{"id": "/"}'])
async def test_answer_that_is_no_response_is_let_go(store: Memory, body: bytes) -> None:
    await watching(store).whole(NEAR, body)
    assert store.values == {}
