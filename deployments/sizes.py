"""How much memory a model takes, as far as that is known before it is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments import sources
from deployments.config import EngineName, ModelConfig, PoolConfig, Variant
from deployments.engines.vllm.args import canonical
from deployments.engines.vllm.device import cpu_defaults
from deployments.memory import MB
from deployments.sources import Folder

# Of the processes beside the weights: the interpreter, the engine, buffers. vLLM has three.
RUNTIME_MB: dict[EngineName, float] = {"mlx": 400.0, "echo": 150.0, "vllm": 2700.0}
CONTEXT = 8192  # tokens that are counted of a context that nobody has bounded: few prompts use all of it
BYTES = 2  # of a cached number


@dataclass(frozen=True)
class Key:
    """What a size is of. kind: names what decides on it: another source or other arguments are another model."""

    deployment: str
    kind: str

    @classmethod
    def of_model(cls, model: ModelConfig, variant: Variant) -> Key:
        return cls(variant.deployment_name, _kind([variant.engine, variant.source, variant.engine_args]))

    @classmethod
    def of_pool(cls, pool: PoolConfig, models: Sequence[ModelConfig]) -> Key:
        parts = [[model.engine_name, model.source, model.engine_args] for model in models]
        return cls(pool.deployment_name, _kind([pool.max_models_per_replica, *parts]))

    def file(self, cache_dir: Path) -> Path:
        return cache_dir / "measured" / f"{self.deployment}-{self.kind}.json"


def estimate_mb(folder: Path, variant: Variant) -> float:
    """From the size of the weights, and the cache of one full context; vLLM's cache has a size of its own."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    runtime = RUNTIME_MB[variant.engine]
    if variant.engine == "vllm":
        return runtime + weights / MB + _vllm_cache_mb(variant.engine_args)
    config: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_text())
    config = _object(config)
    config = {**config, **_object(config.get("text_config"))}
    context = variant.engine_args.get("context_length") or min(
        config.get("max_position_embeddings") or CONTEXT, CONTEXT
    )
    return runtime + (weights + context * _cache_bytes(config)) / MB


def _vllm_cache_mb(engine_args: Mapping[str, Any]) -> float:
    """On a CPU, as it is said or as the engine chooses it."""
    if gb := os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        return 1024 * float(gb)
    said = {canonical(name): value for name, value in engine_args.items()}
    size = {**cpu_defaults(engine_args), **said}.get("kv_cache_memory_bytes")
    return size / MB if isinstance(size, int) else 0


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _cache_bytes(config: Mapping[str, Any]) -> int:
    """A token's keys and values in all layers; 0 for an architecture that says it otherwise."""
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    if not isinstance(layers, int) or not isinstance(heads, int) or heads == 0:
        return 0
    size = config.get("head_dim") or (config.get("hidden_size") or 0) // heads
    return 2 * layers * (config.get("num_key_value_heads") or heads) * size * BYTES


def known(model: ModelConfig, variant: Variant, cache_dir: Path) -> dict[str, float | None]:
    """`estimate_mb` and `load_s`: as the last server measured them, else computed where the weights lie in a folder."""
    if kept := _kept(Key.of_model(model, variant), cache_dir):
        return kept
    estimate = None
    if variant.source is not None and isinstance(source := sources.parse(variant.source), Folder):
        estimate = estimate_mb(source.path, variant)
    return {"estimate_mb": estimate, "load_s": None}


def known_of_pool(pool: PoolConfig, models: Sequence[ModelConfig], cache_dir: Path) -> dict[str, float | None]:
    """As `known`; computed: what as many of its largest models take together as it may hold."""
    if kept := _kept(Key.of_pool(pool, models), cache_dir):
        return kept
    each = [known(model, model.variants[0], cache_dir)["estimate_mb"] for model in models]
    if None in each:
        return {"estimate_mb": None, "load_s": None}
    largest = sorted((mb or 0 for mb in each), reverse=True)[: pool.max_models_per_replica]
    shared = RUNTIME_MB[models[0].engine_name] * (len(largest) - 1)  # one process for all of them
    return {"estimate_mb": sum(largest) - shared, "load_s": None}


def _kept(key: Key, cache_dir: Path) -> dict[str, float | None]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(key.file(cache_dir).read_text())
        return {"estimate_mb": float(kept["memory_mb"]), "load_s": float(kept["load_s"])}
    return {}


def keep(key: Key, cache_dir: Path, memory_mb: float, load_s: float) -> None:
    """Writes down what a replica took, for the next server."""
    file = key.file(cache_dir)
    part = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # a full disk costs only the memory of it
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"memory_mb": round(memory_mb), "load_s": round(load_s, 1)}))
        part.replace(file)


def _kind(decisive: Any) -> str:
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:12]
