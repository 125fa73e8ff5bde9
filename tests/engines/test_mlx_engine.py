from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.engines import EngineSpec
from deployments.engines.mlx import MLXEngine
from deployments.engines.mlx.jobs import Job, Sampling, Token
from deployments.errors import EngineFailed, InternalError
from tests.engines.conftest import eventually


def client(engine: MLXEngine) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(engine.app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60)


async def wait_until_running(engine: MLXEngine, count: int) -> None:
    assert engine.generator is not None
    generator = engine.generator
    await asyncio.to_thread(eventually, lambda: generator.running == count)


LONG: dict[str, Any] = {"model": "m", "prompt": "Once", "max_tokens": 2000}


async def test_load_failure_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-architecture"}))
    engine = MLXEngine(EngineSpec(("m",), tmp_path))
    with pytest.raises(Exception, match=r"no-such-architecture|[Ss]afetensors"):
        await asyncio.wait_for(engine.start(), 20)
    with pytest.raises(EngineFailed):
        await engine.check_health()
    await engine.stop()


async def test_missing_folder_is_told() -> None:
    engine = MLXEngine(EngineSpec(("m",), Path("/nowhere")))
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        await engine.start()
    await engine.stop()


async def test_dead_thread_fails_every_waiter_and_the_health_check(smollm2: Path) -> None:
    engine = MLXEngine(EngineSpec(("m",), smollm2))
    await engine.start()
    await engine.check_health()
    assert engine.generator is not None
    async with client(engine) as http:
        waiting = [
            asyncio.create_task(http.post("/v1/completions", json=LONG)),
            asyncio.create_task(http.post("/v1/completions", json={**LONG, "stream": True})),
        ]
        await wait_until_running(engine, 2)
        engine.generator.requests.put("not a request")
        async with asyncio.timeout(10):
            answer, stream = await asyncio.gather(*waiting)
        with pytest.raises(EngineFailed):
            await engine.check_health()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")
        # The stream has failed before its first byte, or with an event after it.
        assert "engine_failed" in stream.text
        assert "[DONE]" not in stream.text
        started = time.monotonic()
        assert (await http.post("/v1/completions", json=LONG)).status_code == 503
        assert (await http.get("/health")).status_code == 503
        assert time.monotonic() - started < 1
    await engine.stop()


async def test_stop_ends_running_answers(smollm2: Path) -> None:
    engine = MLXEngine(EngineSpec(("m",), smollm2))
    await engine.start()
    async with client(engine) as http:
        waiting = asyncio.create_task(http.post("/v1/completions", json=LONG))
        await wait_until_running(engine, 1)
        await asyncio.wait_for(engine.stop(), 10)
        async with asyncio.timeout(5):
            assert (await waiting).status_code == 503


async def test_sequential_engine_takes_its_defaults_from_the_arguments(smollm2: Path) -> None:
    args = {"kv_bits": 8, "max_tokens": 3, "temperature": 0.0, "context_length": 20}
    engine = MLXEngine(EngineSpec(("m",), smollm2, args))
    await engine.start()
    async with client(engine) as http:
        body = {"model": "m", "prompt": "The capital of France is"}
        answers = await asyncio.gather(*(http.post("/v1/completions", json=body) for _ in range(2)))
        for answer in answers:
            assert answer.json()["choices"][0]["text"].startswith(" Paris")
            assert answer.json()["usage"]["completion_tokens"] == 3
        chat = {"model": "m", "messages": [{"role": "user", "content": "a very long question " * 5}]}
        refused = await http.post("/v1/chat/completions", json=chat)
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        cut = await http.post("/v1/completions", json={**body, "max_tokens": 1000})
        assert cut.json()["usage"]["total_tokens"] == 20
    await wait_until_running(engine, 0)
    await engine.stop()


class BrokenGuide:
    def allowed(self, last_token: int | None) -> Any:
        raise ValueError("no way on")


async def test_broken_constraint_fails_its_request_and_no_other(smollm2: Path) -> None:
    engine = MLXEngine(EngineSpec(("m",), smollm2))
    await engine.start()
    generator = engine.generator
    assert generator is not None
    good = generator.submit([Job("The capital of France is", Sampling(temperature=0), 3)])
    bad = generator.submit([Job("The capital of France is", Sampling(temperature=0), 3, BrokenGuide())])
    with pytest.raises(InternalError):
        async for _ in bad:
            pass
    text = "".join([item.text async for _, item in good if isinstance(item, Token)])
    assert text.startswith(" Paris")
    await engine.check_health()
    await engine.stop()
