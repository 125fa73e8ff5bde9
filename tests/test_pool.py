"""The engines of one process, without Serve around them."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments import engines
from deployments.config import ModelConfig, PoolConfig
from deployments.engines import EngineSpec
from deployments.engines.echo import EchoEngine
from deployments.errors import EngineFailed, ModelLoadFailed
from deployments.shelf import Shelf

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from deployments import pool
    from deployments.pool import PoolReplica, _Engines

MODELS = [
    ModelConfig(name="p1", aliases=("one",), engine="echo", pool="many"),
    ModelConfig(name="org/p2", engine="echo", pool="many", engine_args={"tokens": 2}),
    ModelConfig(name="vectors", engine="echo", pool="many", mode="embedding"),
    ModelConfig(name="gone", engine="mlx", source="/no/such/folder", pool="many"),
]


class Engine(EchoEngine):
    """Takes memory of a device, and fails as it is told."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self.fails: BaseException | None = None
        self.mb = 0.0
        self.stopped = 0

    def device_mb(self) -> float:
        return self.mb

    async def start(self) -> None:
        if self.fails:
            raise self.fails

    async def check_health(self) -> None:
        if self.fails:
            raise self.fails

    async def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Engine]:
    """Engines by their models' names, the same one each time."""
    known = {model.name: Engine(EngineSpec(model.names)) for model in MODELS}
    monkeypatch.setattr(engines, "create", lambda _, spec: known[spec.names[0]])
    return known


async def ask(app: Any, path: str = "/v1/completions", **body: Any) -> Any:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return (await client.post(path, json=body)).json()


async def test_each_model_answers_as_it_is_configured(tmp_path: Path) -> None:
    up = _Engines(MODELS, tmp_path)
    p1, p2, vectors = [await up.load(name) for name in ("p1", "org/p2", "vectors")]
    for name in MODELS[0].names:
        answer = await ask(p1, model=name, prompt="a b c", max_tokens=3)
        assert (answer["model"], answer["choices"][0]["text"]) == (name, "a b c ")
    assert (await ask(p2, model="org/p2", prompt="a b c"))["usage"]["completion_tokens"] == 2
    assert (await ask(p2, model="p1", prompt="a"))["error"]["code"] == "model_not_found"
    assert (await ask(vectors, "/v1/embeddings", model="vectors", input="a"))["object"] == "list"


async def test_model_without_its_source_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="there is no folder /no/such/folder"):
        await _Engines(MODELS, tmp_path).load("gone")


@pytest.mark.parametrize("failure", [ValueError("no weights"), KeyboardInterrupt()])
async def test_engine_that_does_not_start_is_stopped_and_not_kept(
    tmp_path: Path, made: dict[str, Engine], failure: BaseException
) -> None:
    up = _Engines(MODELS, tmp_path)
    made["p1"].fails, made["p1"].mb = failure, 7
    with pytest.raises(type(failure)):
        await up.load("p1")
    assert (made["p1"].stopped, up.device_mb) == (1, 0)
    made["p1"].fails = None
    await up.load("p1")
    assert up.device_mb == 7


async def test_unloaded_engine_is_stopped_and_the_others_are_not(tmp_path: Path, made: dict[str, Engine]) -> None:
    up = _Engines(MODELS, tmp_path)
    for name in ("p1", "org/p2"):
        await up.load(name)
    await up.unload("p1")
    assert (made["p1"].stopped, made["org/p2"].stopped) == (1, 0)


async def test_device_memory_is_the_whole_processes_and_counted_once(tmp_path: Path, made: dict[str, Engine]) -> None:
    up = _Engines(MODELS, tmp_path)
    assert up.device_mb == 0
    made["p1"].mb = made["org/p2"].mb = 700
    for name in ("p1", "org/p2"):
        await up.load(name)
    assert up.device_mb == 700


async def test_only_the_engine_that_is_not_well_is_said_to_be(tmp_path: Path, made: dict[str, Engine]) -> None:
    up = _Engines(MODELS, tmp_path)
    for name in ("p1", "org/p2"):
        await up.load(name)
    made["p1"].fails = EngineFailed("its thread has ended")
    await up.check("org/p2")
    with pytest.raises(EngineFailed, match="its thread has ended"):
        await up.check("p1")


async def test_swap_on_a_shelf_stops_the_engine_that_makes_room(tmp_path: Path, made: dict[str, Engine]) -> None:
    told: list[str] = []

    async def announce(name: str) -> None:
        told.append(name)

    idle = dict.fromkeys(("p1", "org/p2"), math.inf)
    members = Shelf(_Engines(MODELS, tmp_path), idle, 1, announce, wait_s=30, turn_s=30)
    for name in ("p1", "org/p2"):
        async with members.use(name) as app:
            assert (await ask(app, model=name, prompt="a", max_tokens=1))["choices"][0]["text"] == "a "
    assert (made["p1"].stopped, made["org/p2"].stopped) == (1, 0)
    assert json.loads(json.dumps(members.shown()))["org/p2"]["phase"] == "up"
    assert told == ["p1", "org/p2"]


# What the replica makes of its configuration -------------------------------------------------------------------------


class Pool(PoolReplica):
    """Not started: it has no board and no port."""

    def __init__(self, cache_dir: Path, *models: ModelConfig, **said: Any) -> None:
        self._pool = PoolConfig(name="many", **said)
        self._models = list(models)
        self._cache_dir = cache_dir
        self._load_wait_s = 30.0

    def __del__(self) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's multiplexing is told nothing."""

    async def announce(name: str) -> None: ...

    monkeypatch.setattr(pool, "announcer", lambda capacity: announce)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("idle_timeout_s", "said", "meant"),
    [
        pytest.param(60, 5.0, 60.0, id="the pool stays for its own time"),
        pytest.param(60, 300.0, 300.0, id="and for longer where a request says so"),
        pytest.param(60, -1.0, -1.0, id="and for ever"),
        pytest.param(0, 5.0, math.inf, id="a pool that never ends is not ended by a request"),
    ],
)
async def test_requests_keep_alive_shortens_no_pools_time(
    tmp_path: Path, idle_timeout_s: float, said: float, meant: float
) -> None:
    replica = Pool(tmp_path, MODELS[0], idle_timeout_s=idle_timeout_s)
    await replica._load()
    replica._guard._keep_alive("p1", said)
    assert replica._guard.keep_alive_s == meant


@pytest.mark.usefixtures("alone")
async def test_auto_start_models_are_up_with_the_pool_as_many_as_fit_and_a_failure_leaves_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = [model.model_copy(update={"auto_start": model.name != "vectors"}) for model in reversed(MODELS)]
    replica = Pool(tmp_path, *models, max_models_per_replica=2)
    await replica._load()
    assert replica._members is not None
    phases = {name: shown["phase"] for name, shown in replica._members.shown().items()}
    assert phases == {"gone": "failed", "org/p2": "up"}
    assert "there is no folder /no/such/folder" in caplog.text


@pytest.mark.usefixtures("alone")
async def test_model_that_is_never_idle_for_too_long_stays(tmp_path: Path) -> None:
    for_ever, hardly = (MODELS[i].model_copy(update={"idle_timeout_s": s}) for i, s in enumerate((0, 1e-9)))
    replica = Pool(tmp_path, for_ever, hardly)
    await replica._load()
    assert replica._members is not None
    for name in ("p1", "org/p2"):
        await replica._members.load(name)
    await replica._members.unload_idle()
    assert {name: shown["phase"] for name, shown in replica._members.shown().items()} == {"p1": "up", "org/p2": ""}
