"""Servers to look at: what a fake one tells."""

from __future__ import annotations

import math
import time
from typing import Any

from tests.console.fake import GB, Fake, line, node, request, row


def studio() -> Fake:
    """Five models on a Mac and a GPU node, one of each state, and a past."""
    fake, now = Fake(), time.time()
    gpu: dict[str, Any] = {"index": 0, "online": True, "name": "NVIDIA H100", "memory_total": 81559}
    gpu |= {"memory_used": 52200, "temperature": 54, "utilization": 71, "power": 412.0}
    cuda = {"online": True, "info": {"device_count": 1, "memory_total": 81559, "devices": [gpu]}}
    fake.nodes = [node("studio", "10.0.0.1"), node("rack-1", "10.0.0.2", cuda=cuda)]
    fake.models = [
        row("qwen3-8b", "running", engine="vllm", nodes=["10.0.0.2"], memory_bytes=19 * GB, aliases=["gpt-4o-mini"]),
        row("qwen3-8b-sql", "running", engine="vllm", nodes=["10.0.0.2"], parent="qwen3-8b", memory_bytes=0),
        row("gemma-3-4b", "running", idle_seconds=130.0, last_used_at=now - 130, unloads_at=now + 770, pinned=True),
        row("phi-4", "starting", reason="a request waits", pending_requests=2, memory_needed_bytes=8 * GB),
        row("minilm", "stopped", mode="embedding", reason="idle for 900 s"),
        row("org/broken-7b", "failed", failure_reason="ValueError: No safetensors found in /models/broken-7b"),
    ]
    fake.models[0] |= {"running_requests": 3, "pending_requests": 1, "reason": "asked for"}
    fake.models[3]["loading"] = {"phase": "loading weights", "seconds": 4.0, "last_seconds": 14.0}
    fake.rates = {"qwen3-8b": 148.3}
    fake.running = [request("1", "running"), request("2", "waiting", model="phi-4", ttft_ms=None, completion_tokens=0)]
    failed = request("4", "failed", model="org/broken-7b", status=503, ttft_ms=None, completion_tokens=0)
    fake.recent = [
        request("3"),
        failed,
        request("5", from_cache=True, total_ms=4),
        request("6", "cancelled", status=499),
    ]
    fake.log = [line(f"INFO step {i}: loss 0.{i:03}", at=now - 60 + i / 10) for i in range(300)]
    fake.log += [line("WARNING cache is nearly full", "warning"), line("\x1b[32mready\x1b[0m to serve")]
    fake.history = past(now)
    return fake


def past(until: float) -> dict[str, Any]:
    """A quarter of an hour in which three models took turns."""
    since, step = until - 900, 10
    times = [since + i * step for i in range(91)]

    def wave(i: int, size: float, phase: float) -> float:
        return max(0.0, round(size * math.sin(i / 9 + phase), 1))

    models = {
        name: {
            "tokens_per_s": [wave(i, size, phase) for i in range(91)],
            "waiting": [round(wave(i, 3, phase + 1)) for i in range(91)],
            "running": [round(wave(i, 6, phase)) for i in range(91)],
            "memory_mb": [None] * 91,
        }
        for name, size, phase in (("qwen3-8b", 150, 0.0), ("gemma-3-4b", 60, 2.0), ("phi-4", 40, 4.0))
    }
    spans = [
        ("qwen3-8b", "starting", 0, 22, "a request waits"),
        ("qwen3-8b", "running", 22, None, "asked for"),
        ("gemma-3-4b", "running", 0, 310, "idle for 900 s"),
        ("gemma-3-4b", "stopping", 310, 325, "made room for phi-4"),
        ("phi-4", "starting", 325, 350, "a request waits"),
        ("phi-4", "running", 350, 640, "made room for gemma-3-4b"),
        ("phi-4", "stopping", 640, 655, "made room for gemma-3-4b"),
        ("gemma-3-4b", "starting", 655, 672, "a request waits"),
        ("gemma-3-4b", "running", 672, None, "pinned"),
        ("phi-4", "starting", 880, None, "a request waits"),
    ]
    residency = [
        {"model": m, "state": s, "from": since + a, "until": None if b is None else since + b, "reason": why}
        for m, s, a, b, why in spans
    ]
    memory = [24000 + wave(i, 9000, 1) for i in range(91)]
    nodes = {"10.0.0.1": {"memory_used_mb": memory, "memory_total_mb": 65536}}
    return {
        "since": since,
        "until": until,
        "step_s": step,
        "residency": residency,
        "times": times,
        "models": models,
        "nodes": nodes,
    }
