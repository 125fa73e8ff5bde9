from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from deployments.errors import KeeperGone
from deployments.keeper.client import KeeperRefused
from deployments.usage.record import Record
from ingress import outbox as module
from ingress.outbox import Outbox


def record(id_: str = "1", **more: Any) -> Record:
    said: dict[str, Any] = {
        **{"id": id_, "time": 1e9, "model": "a", "key": "", "path": "/v1/chat/completions", "status": 200},
        **{"prompt_tokens": 3, "completion_tokens": 5, "cached_tokens": 2, "queue_ms": 1.0, "ttft_ms": 10.0},
        **{"total_ms": 50.0, "request_id": "id-7", "replica": "r1", "streamed": True},
    }
    return Record(**{**said, **more})


class Keeper:
    def __init__(self) -> None:
        self.rows: list[str] = []
        self.failure: Exception | None = None
        self.asked = asyncio.Event()

    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any:
        assert path == "/usage/add"
        self.asked.set()
        if self.failure:
            raise self.failure
        self.rows += [row["id"] for row in data["rows"]]
        return {"added": len(data["rows"])}


async def test_records_are_sent_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD_S", 0.0)
    keeper = Keeper()
    outbox = Outbox(keeper)
    outbox.start()
    outbox.add(record("1"))
    await asyncio.wait_for(keeper.asked.wait(), 10)
    outbox.add(record("2"))
    await outbox.stop()
    assert keeper.rows == ["1", "2"]


@pytest.mark.parametrize("failure", [KeeperGone("away"), KeeperRefused(500, "disk full")])
async def test_records_wait_while_the_keeper_is_away_and_are_told_once(failure: Exception) -> None:
    keeper = Keeper()
    told: list[str] = []
    outbox = Outbox(keeper, [lambda records: told.extend(one.id for one in records)])
    keeper.failure = failure
    outbox.add(record("1"))
    with contextlib.suppress(KeeperGone):
        await outbox.send()
    assert told == ["1"]
    keeper.failure = None
    outbox.add(record("2"))
    await outbox.send()
    assert keeper.rows == told == ["1", "2"]


async def test_batch_that_the_keeper_does_not_understand_is_given_up() -> None:
    keeper = Keeper()
    outbox = Outbox(keeper)
    keeper.failure = KeeperRefused(400, "no such field")
    outbox.add(record("1"))
    await outbox.send()
    keeper.failure = None
    outbox.add(record("2"))
    await outbox.send()
    assert keeper.rows == ["2"]


async def test_many_are_sent_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    keeper = Keeper()
    outbox = Outbox(keeper)
    for n in range(5):
        outbox.add(record(str(n)))
    await outbox.send()
    assert keeper.rows == list("01234")


async def test_records_are_told_a_few_at_a_time_each_once() -> None:
    slices: list[list[str]] = []
    outbox = Outbox(Keeper(), [lambda records: slices.append([one.id for one in records])])
    sent = [str(n) for n in range(2 * module.SLICE + 1)]
    for id_ in sent:
        outbox.add(record(id_))
    await outbox.send()
    assert [len(one) for one in slices] == [module.SLICE, module.SLICE, 1]
    assert [id_ for one in slices for id_ in one] == sent


async def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    keeper = Keeper()
    outbox = Outbox(keeper)
    for n in range(5):
        outbox.add(record(str(n)))
    await outbox.send()
    assert (keeper.rows, outbox.lost) == (["3", "4"], 3)


async def test_listener_that_fails_keeps_nothing_from_the_keeper() -> None:
    def fails(_: Sequence[Record]) -> None:
        raise RuntimeError("disk full")

    keeper = Keeper()
    outbox = Outbox(keeper, [fails])
    outbox.add(record("1"))
    await outbox.send()
    assert keeper.rows == ["1"]
