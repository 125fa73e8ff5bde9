"""Several engines in one process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import mlx.core as mx
import psutil
import pytest

from deployments.engines import EngineSpec
from deployments.engines.mlx import MLXEngine, create

BODY: dict[str, Any] = {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
SLACK = 2**16
"""Bytes: single numbers that MLX keeps."""


async def started(name: str, folder: Path, mode: str = "chat") -> Any:
    engine = create(EngineSpec((name,), folder, mode=mode))
    await engine.start()
    return engine


def client(engine: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(engine.app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=100)


async def complete(engine: Any, name: str) -> str:
    async with client(engine) as http:
        answer = (await http.post("/v1/completions", json={**BODY, "model": name})).json()
    assert answer["model"] == name
    return str(answer["choices"][0]["text"])


@pytest.fixture(scope="module")
async def first(smollm2: Path) -> AsyncIterator[MLXEngine]:
    engine = await started("first", smollm2)
    yield engine
    await engine.stop()


async def test_each_answers_under_its_own_name_at_the_same_time(first: MLXEngine, smollm2: Path) -> None:
    second = await started("second", smollm2)
    answers = await asyncio.gather(*(complete(e, n) for e, n in [(first, "first"), (second, "second")] * 3))
    assert set(answers) == {" Paris.\n"}
    async with client(second) as http:
        assert (await http.post("/v1/completions", json={**BODY, "model": "first"})).status_code == 404
    await second.stop()


async def test_one_starts_and_stops_while_the_other_streams(first: MLXEngine, smollm2: Path) -> None:
    second = await started("second", smollm2)
    long = {
        "model": "first",
        "prompt": "Once",
        "max_tokens": 100,
        "temperature": 0,
        "logit_bias": {"0": -100, "2": -100},
    }
    async with client(first) as http:
        streaming = asyncio.create_task(http.post("/v1/completions", json={**long, "stream": True}))
        for _ in range(2):
            await second.stop()
            second = await started("second", smollm2)
            assert await complete(second, "second") == " Paris.\n"
        assert not streaming.done()
        response = await streaming
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
    await second.stop()


async def test_memory_and_threads_come_back(first: MLXEngine, smollm2: Path) -> None:
    async def cycle() -> None:
        engine = await started("again", smollm2)
        assert await complete(engine, "again") == " Paris.\n"
        assert mx.get_active_memory() > memory
        await engine.stop()

    process, memory = psutil.Process(), mx.get_active_memory()
    await cycle()
    threads = process.num_threads() + 1  # asyncio's own pool may still grow by one
    for _ in range(5):
        await cycle()
        assert mx.get_active_memory() <= memory + SLACK
        assert process.num_threads() <= threads


async def test_embedding_model_runs_beside_a_generating_one(first: MLXEngine, minilm: Path) -> None:
    memory = mx.get_active_memory()
    mini = await started("mini", minilm, "embedding")

    async def embed() -> list[float]:
        async with client(mini) as http:
            answer = (
                await http.post("/v1/embeddings", json={"model": "mini", "input": "The cat sits outside."})
            ).json()
        vector: list[float] = answer["data"][0]["embedding"]
        return vector

    alone = await embed()
    text, *vectors = await asyncio.gather(complete(first, "first"), *(embed() for _ in range(4)))
    assert text == " Paris.\n"
    assert all(vector == pytest.approx(alone, abs=1e-5) for vector in vectors)
    await mini.stop()
    assert mx.get_active_memory() <= memory + SLACK
    assert await complete(first, "first") == " Paris.\n"
