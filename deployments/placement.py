"""Where a model's replicas run: the first of its placements that some node of the cluster can ever hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deployments.config import ModelConfig

DEFAULT_CPUS = 0.01
"""CPUs that a replica claims unless it says otherwise: models share a node's cores, and the cap bounds them."""


def actor_options(model: ModelConfig) -> dict[str, Any]:
    """`ray_actor_options` of the model's deployment."""
    default: dict[str, Any] = {"num_cpus": DEFAULT_CPUS}
    wanted = [{**default, **placement.ray_actor_options} for placement in model.placements]
    return dict(choose(wanted or [default], _nodes()))


def choose(placements: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, float]]) -> Mapping[str, Any]:
    """The first placement, of one or more, that fits a node's total resources; else the first: an autoscaler may bring
    such a node."""
    wanted = list(placements)
    totals = list(nodes)
    return next((p for p in wanted if any(_fits(p, total) for total in totals)), wanted[0])


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
