"""What a model's replica hands to its engine, and its adapters, without a replica around them."""

from __future__ import annotations

import asyncio
import math
import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.config import Adapter, ModelConfig, Placement
from deployments.engines import EngineSpec
from deployments.engines.echo import EchoEngine
from deployments.errors import Capacity, ModelLoadFailed
from deployments.residency.board import Board, Report, Row, Table, encode
from deployments.shelf import Shelf
from tests.residency.store import Memory

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from deployments import model as module
    from deployments.model import ModelReplica, _Adapters, spec

PLACEMENTS = (
    Placement(engine="vllm", engine_args={"max_model_len": 64}, device="gpu"),
    Placement(device="cpu"),
)


@pytest.mark.parametrize(
    ("said", "rank", "expected"),
    [
        pytest.param({}, 0, EngineSpec(("org/a",)), id="as little as can be said"),
        pytest.param(
            {"aliases": ("b",), "mode": "embedding", "engine_args": {"dimensions": 3}},
            0,
            EngineSpec(("org/a", "b"), args={"dimensions": 3}, mode="embedding"),
            id="names, mode and arguments",
        ),
        pytest.param(
            {"placements": PLACEMENTS}, 0, EngineSpec(("org/a",), args={"max_model_len": 64}, device="gpu"), id="first"
        ),
        pytest.param(
            {"placements": PLACEMENTS, "engine_args": {"tokens": 2}},
            1,
            EngineSpec(("org/a",), args={"tokens": 2}, device="cpu"),
            id="second placement, with the model's arguments",
        ),
        pytest.param(
            {"adapters": (Adapter(name="style", path="/style"),), "max_adapters": 2},
            0,
            EngineSpec(("org/a",), max_adapters=2),
            id="room for adapters",
        ),
        pytest.param(
            {"max_adapters": 2}, 0, EngineSpec(("org/a",), max_adapters=0), id="and none where there are none"
        ),
    ],
)
def test_engine_is_told(said: dict[str, Any], rank: int, expected: EngineSpec) -> None:
    model = ModelConfig(name="org/a", engine="echo", **said)
    assert spec(model, model.variants[rank], None) == expected


def test_engine_is_told_the_folder_of_its_weights() -> None:
    model = ModelConfig(name="a", engine="mlx", source="/a")
    assert spec(model, model.variants[0], Path("/a")).folder == Path("/a")


# Adapters ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> ModelConfig:
    for name in ("style", "tone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    names = ("style", "tone", "gone")
    adapters = tuple(Adapter(name=name, path=str(tmp_path / name)) for name in names)
    return ModelConfig(name="base", engine="echo", adapters=adapters, max_adapters=1)


@pytest.fixture
def engine(model: ModelConfig) -> EchoEngine:
    return EchoEngine(spec(model, model.variants[0], None))


async def ask(app: Any, name: str) -> Any:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        body = {"model": name, "prompt": "hello", "max_tokens": 1}
        answer = (await client.post("/v1/completions", json=body)).json()
        return answer["error"]["code"] if "error" in answer else answer["choices"][0]["text"]


async def test_adapter_answers_from_the_engine_of_its_base_while_it_is_loaded(
    model: ModelConfig, engine: EchoEngine, tmp_path: Path
) -> None:
    adapters = _Adapters(engine, model, tmp_path)
    app = await adapters.load("style")
    assert app is engine.app
    assert [await ask(app, name) for name in ("base", "style", "tone")] == ["hello ", "style:hello ", "model_not_found"]
    await adapters.check("style")
    await adapters.unload("style")
    assert [await ask(app, name) for name in ("base", "style")] == ["hello ", "model_not_found"]


async def test_adapter_without_its_folder_says_so_and_takes_no_place(
    model: ModelConfig, engine: EchoEngine, tmp_path: Path
) -> None:
    adapters = _Adapters(engine, model, tmp_path)
    with pytest.raises(ModelLoadFailed, match="there is no folder"):
        await adapters.load("gone")
    assert await ask(await adapters.load("tone"), "tone") == "tone:hello "


async def test_adapters_swap_on_a_shelf_within_the_places_of_their_engine(
    model: ModelConfig, engine: EchoEngine, tmp_path: Path
) -> None:
    async def announce(name: str) -> None: ...

    idle = {adapter.name: math.inf for adapter in model.adapters}
    members = Shelf(_Adapters(engine, model, tmp_path), idle, model.max_adapters, announce, wait_s=30, turn_s=30)
    for name in ("style", "tone", "style"):
        async with members.use(name) as app:
            assert await ask(app, name) == f"{name}:hello "


# Memory that nobody knew of ------------------------------------------------------------------------------------------


class Waiting(ModelReplica):
    """Has a board and nothing else."""

    def __init__(self, board: Board, **said: Any) -> None:
        self._config = ModelConfig(name="org/a", engine="mlx", source="/a", **said)
        self._variant = self._config.variants[0]
        self._board = board
        self._report = Report("org--a", "r1", "n1")

    def __del__(self) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    """Of a replica without GPUs, which looks at it without pause."""
    monkeypatch.setattr(module, "LEAVE_LOOK_S", 0.0)
    monkeypatch.setattr("ray.get_gpu_ids", list)
    return Board("app", Memory())


def publish(board: Board, **rows: Row) -> None:
    board.publish(encode(Table("life", 3, rows)))


async def test_replica_tells_what_it_needs_and_loads_once_that_is_granted(board: Board, tmp_path: Path) -> None:
    publish(board, **{"org--a": Row(replicas=1)})
    wait = asyncio.create_task(Waiting(board)._wait_for_memory(tmp_path))
    while not board.reports():  # noqa: ASYNC110  # what is waited for has no event
        await asyncio.sleep(0.001)
    assert not wait.done()
    (report,) = board.reports()
    assert (report.phase, (report.need_mb or 0) > 0) == ("waiting for memory", True)
    publish(board, **{"org--a": Row(replicas=1, granted=True)})
    await asyncio.wait_for(wait, 10)


async def test_replica_that_will_never_have_its_memory_says_why(board: Board, tmp_path: Path) -> None:
    publish(board, **{"org--a": Row(replicas=1, refused=True, reason="it needs 9 MB")})
    with pytest.raises(Capacity, match="it needs 9 MB"):
        await asyncio.wait_for(Waiting(board)._wait_for_memory(tmp_path), 10)


async def test_replica_without_a_policy_loads_after_a_while(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NO_POLICY_S", 0.0)
    await asyncio.wait_for(Waiting(board)._wait_for_memory(tmp_path), 10)


async def test_replica_whose_memory_is_configured_or_a_gpus_asks_for_none(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Waiting(board, memory_mb=700)._wait_for_memory(tmp_path)
    monkeypatch.setattr("ray.get_gpu_ids", lambda: ["0"])
    await Waiting(board)._wait_for_memory(tmp_path)
    assert board.reports() == ()
