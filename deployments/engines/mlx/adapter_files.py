"""A LoRA adapter's folder, as mlx-lm or PEFT writes it, read into matrices."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

CONFIG, MLX_WEIGHTS, PEFT_WEIGHTS = "adapter_config.json", "adapters.safetensors", "adapter_model.safetensors"


@dataclass(frozen=True)
class Matrices:
    """A layer's output gets `scale * (x @ a @ b)` on top. a: (in, rank), b: (rank, out)."""

    a: mx.array
    b: mx.array


@dataclass(frozen=True)
class Adapter:
    """layers: by their path in the model."""

    rank: int
    scale: float
    layers: Mapping[str, Matrices]


def read(folder: Path) -> Adapter:
    """Raises: ValueError, with what cannot be served; OSError."""
    config = _config(folder / CONFIG)
    adapter = _read_peft(folder, config) if "peft_type" in config else _read_mlx(folder, config)
    if not adapter.layers:
        raise ValueError("The adapter's weights hold no LoRA matrices.")
    return adapter


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent} is no adapter: it has no {CONFIG}.")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"The adapter's {CONFIG} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"The adapter's {CONFIG} must be an object.")
    return config


# mlx-lm ---------------------------------------------------------------------------------------------------------------


def _read_mlx(folder: Path, config: dict[str, Any]) -> Adapter:
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise ValueError(f"Adapters of fine_tune_type {kind!r} are not served, only 'lora'.")
    parameters = config.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise ValueError(f"The adapter's {CONFIG} names neither a peft_type (PEFT) nor lora_parameters (mlx-lm).")
    rank = _rank(parameters.get("rank"), "lora_parameters.rank")
    scale = _number(parameters.get("scale"), "lora_parameters.scale")
    return Adapter(rank, scale, _pairs(_tensors(folder / MLX_WEIGHTS), re.compile(r"(.+)\.lora_([ab])"), lambda t: t))


# PEFT -----------------------------------------------------------------------------------------------------------------

_UNSERVED = (
    "use_dora",
    "use_qalora",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "lora_bias",
    "fan_in_fan_out",
    "alora_invocation_tokens",
)
"""Fields of PEFT's configuration that change more than the sum of two matrices; absent, false and empty are fine."""

_PEFT_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_ALTERS_BASE = ("pissa", "olora", "loftq", "corda")


def _read_peft(folder: Path, config: dict[str, Any]) -> Adapter:
    if config["peft_type"] != "LORA":
        raise ValueError(f"Adapters of peft_type {config['peft_type']!r} are not served, only 'LORA'.")
    for field in _UNSERVED:
        if config.get(field):
            raise ValueError(f"Adapters with {field} are not served.")
    if config.get("bias", "none") != "none":
        raise ValueError(f"Adapters with bias {config['bias']!r} are not served.")
    if str(config.get("init_lora_weights")).startswith(_ALTERS_BASE):
        raise ValueError(f"Adapters with init_lora_weights {config['init_lora_weights']!r} need changed base weights.")
    rank = _rank(config.get("r"), "r")
    alpha = _number(config.get("lora_alpha"), "lora_alpha")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Adapter(rank, scale, _pairs(_tensors(folder / PEFT_WEIGHTS), _PEFT_NAME, mx.transpose))


# Both -----------------------------------------------------------------------------------------------------------------


def _rank(value: Any, field: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"The adapter's {field} must be a positive integer, not {value!r}.")
    return value


def _number(value: Any, field: str) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"The adapter's {field} must be a number, not {value!r}.")
    return float(value)


def _tensors(path: Path) -> dict[str, mx.array]:
    if not path.is_file():
        raise ValueError(f"The adapter has no {path.name}.")
    try:
        tensors: Any = mx.load(str(path))
    except RuntimeError as error:
        raise ValueError(f"The adapter's {path.name} cannot be read: {error}") from None
    return dict(tensors)


def _pairs(
    tensors: dict[str, mx.array], names: re.Pattern[str], turn: Callable[[mx.array], mx.array]
) -> dict[str, Matrices]:
    found: dict[str, dict[str, mx.array]] = {}
    for name, tensor in sorted(tensors.items()):
        parts = names.fullmatch(name)
        if parts is None:
            raise ValueError(f"The adapter's tensor {name} is no LoRA matrix of a layer.")
        found.setdefault(parts[1], {})[parts[2].lower()] = turn(tensor)
    for path, pair in found.items():
        if len(pair) < 2:
            raise ValueError(f"The adapter has only one of the two matrices of {path}.")
    return {path: Matrices(**pair) for path, pair in found.items()}
