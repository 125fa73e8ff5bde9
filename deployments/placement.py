"""Where a model's replicas run: the first of its placements that some node of the cluster can ever hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deployments.config import ModelConfig

DEFAULT_CPUS = 0.1
"""CPUs that a replica claims unless it says otherwise: models share a node's cores, and the cap bounds them."""


def actor_options(model: ModelConfig) -> dict[str, Any]:
    """`ray_actor_options` of the model's deployment."""
    options = {"num_cpus": DEFAULT_CPUS, **choose([p.ray_actor_options for p in model.placements], _nodes())}
    if model.memory_mb is not None:
        options.setdefault("memory", model.memory_mb * 2**20)
    return options


def choose(placements: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, float]]) -> Mapping[str, Any]:
    """The first placement that fits a node's total resources, else the first: an autoscaler may bring such a node."""
    wanted = list(placements)
    totals = list(nodes)
    fitting = (p for p in wanted if any(_fits(p, total) for total in totals))
    return next(fitting, wanted[0] if wanted else {})


def _fits(options: Mapping[str, Any], total: Mapping[str, float]) -> bool:
    needs = {
        "CPU": options.get("num_cpus", 0),
        "GPU": options.get("num_gpus", 0),
        "memory": options.get("memory", 0),
        **options.get("resources", {}),
    }
    if accelerator := options.get("accelerator_type"):
        needs[f"accelerator_type:{accelerator}"] = 0.001
    return all(total.get(name, 0) >= amount for name, amount in needs.items())


def _nodes() -> list[Mapping[str, float]]:
    import ray

    if not ray.is_initialized():
        return []
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
