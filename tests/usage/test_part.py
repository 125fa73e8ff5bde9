"""The part behind a keeper's app, asked as the ingress asks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.keeper import keeper
from deployments.usage import part as module
from deployments.usage.part import UsagePart
from deployments.usage.settings import UsageSettings
from tests.test_outbox import record

DAY_S = 86400


async def ask(part: UsagePart, path: str, data: Any) -> Any:
    transport = httpx.ASGITransport(keeper.app([part]))
    async with httpx.AsyncClient(transport=transport, base_url="http://keeper") as client:
        answer = await client.post(f"/usage/{path}", json=data)
    return answer.json() if answer.status_code == 200 else answer.status_code


@pytest.fixture
async def part(tmp_path: Path) -> AsyncIterator[UsagePart]:
    part = UsagePart(UsageSettings(max_days=1), tmp_path, "app")
    await part.start()
    yield part
    await part.stop()


async def test_what_is_added_is_summed(part: UsagePart, tmp_path: Path) -> None:
    rows = [asdict(record(str(n), time=time.time() - 60)) for n in range(3)]
    assert await ask(part, "add", {"rows": rows}) == {"added": 3}
    assert await ask(part, "add", {"rows": rows}) == {"added": 0}
    found = await ask(part, "sums", {"range": "1h", "group_by": "model"})
    assert found["totals"]["requests"] == 3
    assert [group["model"] for group in found["usage"]] == ["a"]
    assert (tmp_path / "usage.sqlite").exists()


async def test_throughput_begins_with_a_whole_bucket(part: UsagePart) -> None:
    await ask(part, "add", {"rows": [asdict(record(time=time.time()))]})
    found = await ask(part, "throughput", {"range": "1h"})
    assert found["bucket_s"] == 30
    assert found["since"] % 30 == 0
    assert [row["requests"] for row in found["rows"]] == [1]


async def test_recent_ones_are_told(part: UsagePart) -> None:
    rows = [asdict(record(str(n), time=float(n))) for n in range(3)]
    await ask(part, "add", {"rows": rows})
    assert await ask(part, "recent", {"limit": 2, "models": None}) == {"rows": [rows[2], rows[1]]}


async def test_range_that_is_none_is_refused(part: UsagePart) -> None:
    assert await ask(part, "throughput", {"range": "soon"}) == 400


async def test_old_rows_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = UsagePart(UsageSettings(), tmp_path, "app")
    await ask(first, "add", {"rows": [asdict(record(time=time.time() - 2 * DAY_S))]})
    await first.stop()
    monkeypatch.setattr(module, "SWEEP_S", 0.01)
    part = UsagePart(UsageSettings(max_days=1), tmp_path, "app")
    await part.start()
    async with asyncio.timeout(10):
        while (await ask(part, "sums", {"range": "7d", "group_by": "model"}))["totals"]["requests"]:
            pass
    await part.stop()


async def test_database_that_is_away_costs_the_keeper_nothing_else(tmp_path: Path) -> None:
    part = UsagePart(UsageSettings(database_url="sqlite:////proc/no/usage.sqlite"), tmp_path, "app")
    await part.start()
    with pytest.raises(OSError, match="/proc/no"):
        await ask(part, "add", {"rows": [asdict(record())]})
    await part.stop()
