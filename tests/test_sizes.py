"""What is known of a model's size before it is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from deployments import sizes
from deployments.config import ModelConfig, Placement, PoolConfig
from deployments.engines.vllm.device import cpu_defaults
from deployments.memory import MB
from deployments.sizes import CONTEXT, Key, known_of_pool

LAYERS: dict[str, Any] = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 256}
NOTHING = {"estimate_mb": None, "load_s": None}
RUNTIME_MB = sizes.RUNTIME_MB["mlx"]


def estimate_mb(folder: Path, engine_args: dict[str, Any]) -> float:
    model = ModelConfig(name="a", source=str(folder), engine="mlx", engine_args=engine_args)
    return sizes.estimate_mb(folder, model.variants[0])


def known(model: ModelConfig, cache_dir: Path) -> dict[str, float | None]:
    return sizes.known(model, model.variants[0], cache_dir)


def keep(model: ModelConfig, cache_dir: Path, memory_mb: float, load_s: float) -> None:
    sizes.keep(Key.of_model(model, model.variants[0]), cache_dir, memory_mb, load_s)


def weights(folder: Path, *mb: float, config: Any = None) -> Path:
    """A folder with weights of these sizes, and a config.json of that if it is not None."""
    folder.mkdir(exist_ok=True)
    for i, size in enumerate(mb):
        with (folder / f"model-{i}.safetensors").open("wb") as file:
            file.truncate(int(size * MB))  # a sparse file
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


# estimate_mb


def test_weights_are_added_up_beside_the_runtime(tmp_path: Path) -> None:
    folder = weights(tmp_path, 3, 4.5)
    (folder / "tokenizer.json").write_bytes(b"x" * MB)
    assert estimate_mb(folder, {}) == RUNTIME_MB + 7.5


@pytest.mark.parametrize(
    ("config", "token_bytes"),
    [
        pytest.param(LAYERS, 2 * 4 * 8 * 32 * 2, id="all heads"),
        pytest.param({**LAYERS, "num_key_value_heads": 2}, 2 * 4 * 2 * 32 * 2, id="fewer heads for keys"),
        pytest.param({**LAYERS, "num_key_value_heads": None}, 2 * 4 * 8 * 32 * 2, id="null is not said"),
        pytest.param({**LAYERS, "head_dim": 128}, 2 * 4 * 8 * 128 * 2, id="heads of a size of their own"),
        pytest.param({"hidden_size": 1, "text_config": LAYERS}, 2 * 4 * 8 * 32 * 2, id="a part of a larger model"),
        pytest.param({**LAYERS, "text_config": None}, 2 * 4 * 8 * 32 * 2, id="no part"),
        pytest.param({"hidden_size": 256}, 0, id="an architecture that says it otherwise"),
        pytest.param({**LAYERS, "num_attention_heads": [8, 4]}, 0, id="another number of heads in each layer"),
    ],
)
def test_cache_of_one_context_counts(tmp_path: Path, config: dict[str, Any], token_bytes: int) -> None:
    folder = weights(tmp_path, 1, config=config)
    assert estimate_mb(folder, {}) == RUNTIME_MB + 1 + CONTEXT * token_bytes / MB


@pytest.mark.parametrize(
    ("longest", "asked", "tokens"),
    [(2048, None, 2048), (131072, None, CONTEXT), (2048, 1024, 1024), (131072, 65536, 65536)],
)
def test_context_is_the_bound_that_is_set_else_the_models_but_no_more_than_is_used(
    tmp_path: Path, longest: int, asked: int | None, tokens: int
) -> None:
    folder = weights(tmp_path, config={**LAYERS, "max_position_embeddings": longest})
    assert estimate_mb(folder, {"context_length": asked}) == RUNTIME_MB + tokens * (2 * 4 * 8 * 32 * 2) / MB


@pytest.mark.parametrize(
    "config",
    [None, "", "{", "[]", "7", "null", '{"text_config": 7}', '{"num_hidden_layers": 1, "num_attention_heads": 0}'],
)
def test_configuration_that_says_nothing_leaves_the_weights(tmp_path: Path, config: str | None) -> None:
    assert estimate_mb(weights(tmp_path, 2, config=config), {}) == RUNTIME_MB + 2


# known and keep


def local(folder: Path, **more: Any) -> ModelConfig:
    return ModelConfig(**{"name": "org/a", "engine": "mlx", "source": str(folder), **more})


def test_model_in_a_folder_is_estimated(tmp_path: Path) -> None:
    model = local(weights(tmp_path / "weights", 2, config=LAYERS), engine_args={"context_length": 1024})
    token_mb = 2 * 4 * 8 * 32 * 2 / MB
    assert known(model, tmp_path / "cache") == {"estimate_mb": RUNTIME_MB + 2 + 1024 * token_mb, "load_s": None}


@pytest.mark.parametrize("model", [{"source": "owner/name"}, {"source": "package:name"}, {"engine": "echo"}])
def test_nothing_is_known_of_what_does_not_lie_here(tmp_path: Path, model: dict[str, Any]) -> None:
    assert known(ModelConfig(name="a", **model), tmp_path) == NOTHING


def test_what_was_measured_comes_before_an_estimate(tmp_path: Path) -> None:
    model, cache = local(weights(tmp_path / "weights", 2)), tmp_path / "cache"
    keep(model, cache, 1234.4, 5.67)
    assert known(model, cache) == {"estimate_mb": 1234, "load_s": 5.7}
    keep(model, cache, 99, 1)
    assert known(model, cache) == {"estimate_mb": 99, "load_s": 1}
    assert len(list((cache / "measured").iterdir())) == 1, "no half-written file is left"


@pytest.mark.parametrize(
    "other",
    [{"source": "owner/other"}, {"engine_args": {"context_length": 7}}, {"name": "b"}, {"engine": "echo"}],
)
def test_another_source_or_other_arguments_are_another_model(tmp_path: Path, other: dict[str, Any]) -> None:
    model = ModelConfig(name="a", engine="mlx", source="owner/name")
    keep(model, tmp_path, 7, 1)
    assert known(model.model_copy(update=other), tmp_path) == NOTHING


def test_what_does_not_decide_on_the_size_may_change(tmp_path: Path) -> None:
    model = ModelConfig(name="a", engine="mlx", source="owner/name")
    keep(model, tmp_path, 7, 1)
    changed = model.model_copy(update={"aliases": ("b",), "idle_timeout_s": 3, "engine": "mlx", "pinned": True})
    assert known(changed, tmp_path) == {"estimate_mb": 7, "load_s": 1}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "7", '"x"', "{}", '{"memory_mb": null, "load_s": 1}', '{"memory_mb": "x"}', "\xff"],
)
def test_malformed_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    model = ModelConfig(name="a", engine="mlx", source="owner/name")
    keep(model, tmp_path, 7, 1)
    (file,) = (tmp_path / "measured").iterdir()
    file.write_text(content, encoding="latin-1")
    assert known(model, tmp_path) == NOTHING


@pytest.mark.parametrize("in_the_way", ["", "measured"])
def test_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path, in_the_way: str) -> None:
    """A file is where the folder should be; permissions would not stop root."""
    model, cache = ModelConfig(name="a", engine="mlx", source="owner/name"), tmp_path / "cache"
    if in_the_way:
        cache.mkdir()
    (cache / in_the_way).write_text("")
    keep(model, cache, 7, 1)
    assert known(model, cache) == NOTHING


def test_longest_name_is_kept_too(tmp_path: Path) -> None:
    model = ModelConfig(name="a/" + "b.c" * 66, source="owner/name")
    keep(model, tmp_path, 7, 1)
    assert known(model, tmp_path)["estimate_mb"] == 7


def test_replicas_that_keep_at_the_same_time_do_not_share_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(name="a.b", source="owner/name")
    written: list[str] = []

    def write(path: Path, text: str) -> int:
        written.append(path.name)
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", write)
    for process in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        keep(model, tmp_path, 7, 1)
    assert len(set(written)) == 2


def test_cache_of_vllm_has_a_size_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = ModelConfig(name="a", source=str(tmp_path), engine="vllm").variants[0]
    folder = weights(tmp_path, 3, config=LAYERS)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    chosen_mb = int(cpu_defaults({})["kv_cache_memory_bytes"]) / MB
    assert sizes.estimate_mb(folder, variant) == sizes.RUNTIME_MB["vllm"] + 3 + chosen_mb
    said = variant.model_copy(update={"engine_args": {"kv-cache-memory-bytes": 7 * MB}})
    assert sizes.estimate_mb(folder, said) == sizes.RUNTIME_MB["vllm"] + 3 + 7
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    assert sizes.estimate_mb(folder, variant) == sizes.RUNTIME_MB["vllm"] + 3 + 4096


def test_each_placement_is_measured_for_itself(tmp_path: Path) -> None:
    model = ModelConfig(name="a", source="o/n", placements=(Placement(engine="vllm"), Placement(engine="mlx")))
    vllm, mlx = model.variants
    sizes.keep(Key.of_model(model, mlx), tmp_path, 7, 1)
    assert sizes.known(model, vllm, tmp_path) == NOTHING
    assert sizes.known(model, mlx, tmp_path)["estimate_mb"] == 7


# Pools


def pooled(tmp_path: Path, *mb: float) -> list[ModelConfig]:
    return [local(weights(tmp_path / f"w{i}", size), name=f"m{i}", pool="many") for i, size in enumerate(mb)]


def test_pool_takes_its_largest_models_in_one_process(tmp_path: Path) -> None:
    pool = PoolConfig(name="many", max_models_per_replica=2)
    told = known_of_pool(pool, pooled(tmp_path, 1, 5, 3), tmp_path / "cache")
    assert told == {"estimate_mb": RUNTIME_MB + 8, "load_s": None}


def test_pool_of_which_one_model_is_unknown_is_unknown(tmp_path: Path) -> None:
    models = [*pooled(tmp_path, 1), ModelConfig(name="far", source="o/far", engine="mlx", pool="many")]
    assert known_of_pool(PoolConfig(name="many"), models, tmp_path) == NOTHING


def test_what_a_pool_was_measured_to_take_comes_first(tmp_path: Path) -> None:
    pool, models = PoolConfig(name="many"), pooled(tmp_path, 1, 5)
    sizes.keep(Key.of_pool(pool, models), tmp_path, 99, 2)
    assert known_of_pool(pool, models, tmp_path) == {"estimate_mb": 99, "load_s": 2}
    assert known_of_pool(pool, models[:1], tmp_path)["estimate_mb"] == RUNTIME_MB + 1
