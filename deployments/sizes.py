"""How much memory a model takes, as far as that is known before it is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments import sources
from deployments.config import ModelConfig
from deployments.memory import MB
from deployments.sources import Folder

RUNTIME_MB = 400.0  # of the process beside its weights: the interpreter, the engine, buffers
CONTEXT = 8192  # tokens that are counted of a context that nobody has bounded: few prompts use all of it
BYTES = 2  # of a cached number


def estimate_mb(folder: Path, engine_args: Mapping[str, Any]) -> float:
    """From the size of the weights, and the cache of one full context."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    config: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_text())
    config = _object(config)
    config = {**config, **_object(config.get("text_config"))}
    context = engine_args.get("context_length") or min(config.get("max_position_embeddings") or CONTEXT, CONTEXT)
    return RUNTIME_MB + (weights + context * _cache_bytes(config)) / MB


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _cache_bytes(config: Mapping[str, Any]) -> int:
    """A token's keys and values in all layers; 0 for an architecture that says it otherwise."""
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    if not isinstance(layers, int) or not isinstance(heads, int) or heads == 0:
        return 0
    size = config.get("head_dim") or (config.get("hidden_size") or 0) // heads
    return 2 * layers * (config.get("num_key_value_heads") or heads) * size * BYTES


def known(model: ModelConfig, cache_dir: Path) -> dict[str, float | None]:
    """`estimate_mb` and `load_s`: as the last server measured them, else computed where the weights lie in a folder."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(_file(model, cache_dir).read_text())
        return {"estimate_mb": float(kept["memory_mb"]), "load_s": float(kept["load_s"])}
    estimate = None
    if model.source is not None and isinstance(source := sources.parse(model.source), Folder):
        estimate = estimate_mb(source.path, model.engine_args)
    return {"estimate_mb": estimate, "load_s": None}


def keep(model: ModelConfig, cache_dir: Path, memory_mb: float, load_s: float) -> None:
    """Writes down what a replica took, for the next server."""
    file = _file(model, cache_dir)
    part = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # a full disk costs only the memory of it
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"memory_mb": round(memory_mb), "load_s": round(load_s, 1)}))
        part.replace(file)


def kind(model: ModelConfig) -> str:
    """Names what decides on the size: another source or other arguments are another model."""
    decisive = json.dumps([model.engine_name, model.source, model.engine_args], sort_keys=True, default=str)
    return hashlib.sha256(decisive.encode()).hexdigest()[:12]


def _file(model: ModelConfig, cache_dir: Path) -> Path:
    return cache_dir / "measured" / f"{model.deployment_name}-{kind(model)}.json"
