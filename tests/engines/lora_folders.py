"""LoRA adapters made for a test, as PEFT and as mlx-lm write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

WIDTH, RANK = 576, 4
"""SmolLM2's width, in and out of the layers that are adapted."""

LAYERS = tuple(f"model.layers.{layer}.self_attn.{name}" for layer in (28, 29) for name in ("q_proj", "o_proj"))


def matrices(seed: int, size: float = 0.3) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """(in, rank) and (rank, out) of each layer."""
    random = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray[Any, Any]:
        return random.normal(0, size, shape).astype(np.float32)

    return {path: (matrix(WIDTH, RANK), matrix(RANK, WIDTH)) for path in LAYERS}


def peft(folder: Path, seed: int = 1, *, tensors: Mapping[str, Any] | None = None, **fields: Any) -> Path:
    """fields: of the configuration, beside or instead of the usual ones. tensors: likewise; None leaves one out."""
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "o_proj"],
        "use_rslora": False,
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "modules_to_save": None,
        **fields,
    }
    weights: dict[str, Any] = {}
    for path, (a, b) in matrices(seed).items():
        weights[f"base_model.model.{path}.lora_A.weight"] = mx.array(a.T)
        weights[f"base_model.model.{path}.lora_B.weight"] = mx.array(b.T)
    return _write(folder, config, {**weights, **(tensors or {})}, "adapter_model.safetensors")


def mlx_lm(folder: Path, seed: int = 1, *, tensors: Mapping[str, Any] | None = None, **fields: Any) -> Path:
    config = {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {"rank": RANK, "scale": 2.0, "dropout": 0.0},
        **fields,
    }
    weights: dict[str, Any] = {}
    for path, (a, b) in matrices(seed).items():
        weights[f"{path}.lora_a"] = mx.array(a)
        weights[f"{path}.lora_b"] = mx.array(b)
    return _write(folder, config, {**weights, **(tensors or {})}, "adapters.safetensors")


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Any], name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / name), {key: tensor for key, tensor in tensors.items() if tensor is not None})
    return folder
