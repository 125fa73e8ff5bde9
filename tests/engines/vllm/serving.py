"""A vLLM engine on a loop of its own thread, behind the server that replicas have."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from safetensors.numpy import save_file

from deployments.engines import EngineSpec
from deployments.engines.vllm.engine import VLLMEngine
from deployments.server import SECRET_HEADER, Guard, Server

CACHE = Path(os.environ.get("LLM_MANAGER_CACHE", "~/.cache/llm-manager")).expanduser()
SMALL = {"kv_cache_memory_bytes": "384M", "max_model_len": 1024, "max_num_seqs": 16}
QUESTION = "What is the capital of France?"


@dataclass
class Loop:
    """An event loop in a thread."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __post_init__(self) -> None:
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, work: Any, seconds: float = 120) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)


@dataclass
class Served:
    engine: VLLMEngine
    loop: Loop
    url: str
    headers: dict[str, str]
    http: httpx.Client
    family: set[psutil.Process]

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def chat(self, model: str = "smol", content: str = QUESTION, **body: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": content}]
        given = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 12, **body}
        response = self.post("/v1/chat/completions", **given)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def said(self, model: str = "smol", **body: Any) -> str:
        return str(self.chat(model, **body)["choices"][0]["message"]["content"])

    @property
    def unfinished(self) -> int:
        return int(self.engine._engine.get_num_unfinished_requests())


@contextlib.contextmanager
def serve(spec: EngineSpec) -> Iterator[Served]:
    loop, others = Loop(), processes()
    engine = VLLMEngine(spec)
    try:
        with same_environment():
            loop.run(engine.start(), 280)
        guard = Guard(engine.app, engine.check_health)
        server = loop.run(listening(guard))
        url, headers = f"http://127.0.0.1:{server.port}", {SECRET_HEADER.decode(): guard.secret}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            yield Served(engine, loop, url, headers, http, processes() - others)
        loop.run(server.stop())
    finally:
        loop.run(engine.stop())
        loop.loop.call_soon_threadsafe(loop.loop.stop)


async def listening(guard: Guard) -> Server:
    server = Server(guard, {"127.0.0.1"})
    await server.start()
    return server


@contextlib.contextmanager
def same_environment() -> Iterator[None]:
    """vLLM sets variables that the servers of other tests would inherit."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def processes() -> set[psutil.Process]:
    """Those of all engines that this process has started, at any depth."""
    found: set[psutil.Process] = set()
    for child in multiprocessing.active_children():
        with contextlib.suppress(psutil.Error):
            found |= {psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)}
    return found


def await_that(what: str, look: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def write_adapter(folder: Path, model: Path, seed: int) -> Path:
    """A LoRA adapter as PEFT writes it, that turns the model's last layers to chance."""
    config = json.loads((model / "config.json").read_text())
    rank, last = 4, config["num_hidden_layers"] - 1
    random = np.random.default_rng(seed)
    weights = {}
    for layer in range(last - 3, last + 1):
        prefix = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        sizes = {"lora_A": (rank, config["intermediate_size"]), "lora_B": (config["hidden_size"], rank)}
        for part, shape in sizes.items():
            weights[f"{prefix}.{part}.weight"] = random.normal(scale=0.5, size=shape).astype(np.float32)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0}
    about |= {"target_modules": ["down_proj"], "bias": "none", "base_model_name_or_path": str(model)}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder
