from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from deployments.errors import RequestCancelled
from ingress import running as module
from ingress.onlooker import cancellable
from ingress.records import Account, Records
from ingress.running import Running, row
from ingress.usage import Reader
from tests.test_outbox import record

REPLICA = SimpleNamespace(url="http://x", headers={})


@pytest.fixture
def running() -> Running:
    return Running()


def begin(running: Running, id_: str = "id-7", model: str = "a") -> Account:
    records = Records("r1")
    records.on_begun.append(running.begun)
    records.on_finished.append(running.ended)
    scope = {"type": "http", "headers": [(b"x-request-id", id_.encode())]}
    account = records.begin(Request(scope), "/v1/completions")
    account.model = model
    return account


def reads(account: Account, events: int) -> None:
    account.reader = account.reader or Reader(events=True)
    for _ in range(events):
        account.chunk(REPLICA, b"data: {}\n\n", more=True)


async def works(account: Account, *, begun: asyncio.Event | None = None) -> None:
    """As a request does that waits for ever."""
    try:
        async with cancellable([account]):
            if begun is not None:
                begun.set()
            await asyncio.Event().wait()
    except RequestCancelled as error:
        account.ended(error.status)


def test_request_is_there_until_it_ends(running: Running) -> None:
    account = begin(running)
    (shown,) = running.rows()
    assert (shown["id"], shown["request_id"], shown["state"], shown["status"]) == (account.id, "id-7", "waiting", None)
    account.ended(200)
    assert running.rows() == []
    assert [one["state"] for one in running.last()] == ["done"]


def test_request_waits_until_it_has_a_replica_and_again_when_that_fails(running: Running) -> None:
    account = begin(running)
    states = [running.rows()[0]["state"]]
    for step in (account.waits, account.lent, account.waits, account.lent):
        step()
        states.append(running.rows()[0]["state"])
    assert states == ["waiting", "waiting", "running", "waiting", "running"]


def test_tokens_of_a_stream_are_counted_as_it_goes_and_stay_when_it_has_ended(running: Running) -> None:
    account = begin(running)
    reads(account, 4)
    assert running.rows()[0]["completion_tokens"] == 3
    assert running.tokens() == {"a": 3}
    reads(account, 2)
    account.ended(200)
    other = begin(running, model="b")
    reads(other, 2)
    assert running.tokens() == {"a": 5, "b": 1}


def test_request_of_no_model_counts_for_none(running: Running) -> None:
    account = begin(running, model="")
    reads(account, 4)
    assert running.tokens() == {}


@pytest.mark.parametrize(
    ("status", "state"), [(200, "done"), (400, "failed"), (503, "failed"), (499, "cancelled"), (304, "done")]
)
def test_end_is_told_by_the_status(status: int, state: str) -> None:
    shown = row(record(status=status, time=100.0, total_ms=1500.0))
    assert (shown["state"], shown["status"], shown["began_at"]) == (state, status, 98.5)


async def test_cancelled_request_has_ended_when_it_is_told(running: Running) -> None:
    account, begun = begin(running), asyncio.Event()
    working = asyncio.create_task(works(account, begun=begun))
    await begun.wait()
    assert await running.cancel(account.id)
    assert [one["state"] for one in running.last()] == ["cancelled"]
    await working


async def test_request_is_cancelled_between_two_parts_of_its_work(running: Running) -> None:
    """It has been read, and no replica is asked yet."""
    account = begin(running)
    async with cancellable([account]):
        pass
    cancelled = asyncio.create_task(running.cancel("id-7"))
    await asyncio.sleep(0)
    await works(account)
    assert await cancelled


async def test_all_that_go_by_the_clients_id_are_cancelled(running: Running) -> None:
    working = [asyncio.create_task(works(begin(running, id_))) for id_ in ("same", "same", "other")]
    assert await running.cancel("same")
    assert [one["request_id"] for one in running.rows()] == ["other"]
    working[2].cancel()


def test_request_that_ended_without_a_word_is_not_there_any_more(running: Running) -> None:
    account = begin(running)
    assert len(running.rows()) == 1
    del account
    assert running.rows() == []


async def test_nobody_is_cancelled_who_does_not_run(running: Running) -> None:
    begin(running).ended(200)
    assert not await running.cancel("id-7")


async def test_request_of_another_model_is_not_there_for_who_may_not_see_it(running: Running) -> None:
    account = begin(running)
    assert not await running.cancel(account.id, ["b"])
    assert len(running.rows()) == 1


async def test_client_that_does_not_read_holds_no_cancel(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.01)
    account = begin(running)
    assert await running.cancel(account.request_id)
