"""A model with a LoRA adapter on it, beside the model without."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear

from deployments.engines.mlx.adapter_files import Adapter, Matrices


def adapted(model: Any, adapter: Adapter) -> Any:
    """A second tree of modules over the same arrays, with the adapter's layers in it. The model stays as it is.

    Raises: ValueError, when the adapter is not for this model.
    """
    tree = _second_tree(model)
    modules = dict(tree.named_modules())
    layers = []
    for path, matrices in adapter.layers.items():
        name = _find(path, modules)
        layers.append((name, _layer(name, modules[name], adapter, matrices)))
    tree.update_modules(tree_unflatten(layers))
    mx.eval([(layer.lora_a, layer.lora_b) for _, layer in layers])
    tree.eval()
    return tree


def _second_tree(model: Any) -> Any:
    shared = {id(leaf): leaf for _, leaf in tree_flatten(model) if isinstance(leaf, mx.array)}
    return copy.deepcopy(model, shared)


def _find(path: str, modules: dict[str, Any]) -> str:
    """The module of a path as transformers names it; mlx-lm puts the language model of a larger one elsewhere."""
    for name in (path, f"language_model.{path}", path.replace("model.language_model.", "language_model.model.", 1)):
        if name in modules:
            return name
    raise ValueError(f"The adapter changes {path}, which this model does not have.")


def _layer(path: str, module: Any, adapter: Adapter, matrices: Matrices) -> Any:
    options = {"r": adapter.rank, "scale": adapter.scale, "dropout": 0.0}
    if hasattr(module, "to_lora"):
        layer = module.to_lora(**options)
    elif isinstance(module, nn.Linear | nn.QuantizedLinear):
        layer = LoRALinear.from_base(module, **options)
    elif isinstance(module, SwitchLinear | QuantizedSwitchLinear):
        layer = LoRASwitchLinear.from_base(module, **options)
    else:
        raise ValueError(f"The adapter changes {path}, a {type(module).__name__}: only linear layers can be adapted.")
    for name, matrix in (("lora_a", matrices.a), ("lora_b", matrices.b)):
        if matrix.shape != layer[name].shape:
            raise ValueError(
                f"The adapter does not fit this model: {name} of {path} is {matrix.shape} and should be "
                f"{layer[name].shape}."
            )
        layer[name] = matrix.astype(_dtype(module))
    return layer


def _dtype(module: Any) -> mx.Dtype:
    """Of the layer's arithmetic: that of the scales where the weights are quantised."""
    dtype = module["scales"].dtype if "scales" in module else module["weight"].dtype if "weight" in module else None
    return dtype if dtype in (mx.float16, mx.bfloat16, mx.float32) else mx.float32
