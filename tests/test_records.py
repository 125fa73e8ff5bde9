from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from deployments.errors import Capacity
from deployments.usage.record import Record
from ingress import records as module
from ingress.onlooker import until_asked
from ingress.records import Account, Records
from ingress.usage import Reader

REPLICA = SimpleNamespace(url="http://x", headers={})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def made() -> list[Record]:
    return []


def begin(made: list[Record], state: dict[str, Any] | None = None) -> Account:
    records = Records("r1")
    records.on_finished.append(made.append)
    headers = [(b"x-request-id", b"id-7")]
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": headers, "state": state or {}}
    account = records.begin(Request(scope), "/v1/chat/completions")
    account.model = "a"
    return account


async def test_times_of_a_stream_are_measured_from_the_request(clock: Clock, made: list[Record]) -> None:
    account = begin(made)
    clock.now += 1
    for wait in (2, 3):  # another replica, after the first one has failed
        account.waits()
        clock.now += wait
        account.lent()
    clock.now += 0.5
    account.chunk(REPLICA, b"data: 1\n\n", more=True)
    clock.now += 1
    account.chunk(REPLICA, b"data: 2\n\n", more=False)
    account.ended(200)
    (record,) = made
    assert (record.queue_ms, record.ttft_ms, record.total_ms, record.streamed) == (5000, 6500, 7500, True)
    assert (record.model, record.path, record.status, record.time) == ("a", "/v1/chat/completions", 200, 1e9)
    assert (record.request_id, record.replica, record.key) == ("id-7", "r1", "")


async def test_wait_that_was_given_up_counts(clock: Clock, made: list[Record]) -> None:
    account = begin(made)
    account.waits()
    clock.now += 4
    account.ended(503)
    assert (made[0].queue_ms, made[0].ttft_ms, made[0].total_ms) == (4000, None, 4000)


async def test_tokens_are_those_that_the_answer_tells(made: list[Record]) -> None:
    account = begin(made)
    account.reader = Reader()
    await account.whole(REPLICA, b'{"usage":{"prompt_tokens":3,"completion_tokens":5}}')
    account.ended(200)
    record = made[0]
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (3, 5, 0)
    assert record.streamed is False


async def test_answer_that_no_engine_gave_says_so(made: list[Record]) -> None:
    account = begin(made)
    account.from_cache = True
    await account.whole(REPLICA, b"{}")
    account.ended(200)
    assert made[0].from_cache is True


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (b"data: 2\n\ndata: [DONE]\n\n", 200),
        (b"event: message_stop\ndata: {}\n\n", 200),
        (b"event: response.completed\ndata: {}\n\n", 200),
        (b"data: 2\n\n", 499),
    ],
)
def test_client_who_leaves_after_the_last_event_has_his_whole_answer(
    made: list[Record], last: bytes, status: int
) -> None:
    account = begin(made)
    account.chunk(REPLICA, b"data: 1\n\n", more=True)
    account.chunk(REPLICA, last, more=True)
    account.ended(499)
    assert made[0].status == status


def test_listener_that_fails_keeps_nothing_from_the_others(made: list[Record]) -> None:
    def fails(_: Record) -> None:
        raise RuntimeError("no limit")

    records = Records("r1")
    records.on_finished += [fails, made.append]
    records.begin(Request({"type": "http", "headers": []}), "/v1/completions").ended(200)
    assert len(made) == 1


def test_key_goes_by_its_name(made: list[Record]) -> None:
    begin(made, {"key_name": "ci"}).ended(200)
    assert made[0].key == "ci"


def test_records_are_told_apart_where_clients_repeat_their_ids(made: list[Record]) -> None:
    begin(made).ended(200)
    begin(made).ended(200)
    assert made[0].request_id == made[1].request_id
    assert made[0].id != made[1].id


@pytest.mark.parametrize(
    ("error", "status"),
    [(Capacity("full"), 503), (ValueError("x"), 500), (asyncio.CancelledError(), 499)],
)
async def test_request_that_fails_before_a_replica_is_asked_is_recorded(
    made: list[Record], error: BaseException, status: int
) -> None:
    account = begin(made)
    with pytest.raises(type(error)):
        async with until_asked([account]):
            raise error
    assert [record.status for record in made] == [status]
