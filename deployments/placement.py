"""Where replicas run: what a placement asks of Ray, and whether a cluster can ever give it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Serve's controller reads the rest of this module: it imports little
    from deployments.config import Placement

DEFAULT_CPUS = 0.01
"""CPUs that a replica claims unless it says otherwise: models share a node's cores, and the cap bounds them."""
HEAD = "node:__internal_head__"
"""A resource that Ray gives the head node."""

_ACCELERATOR = "accelerator_type:"  # Ray's resource of a node with such an accelerator
_ACCELERATOR_SHARE = 0.001
_EXACT = 1e-6  # Ray counts in steps of 0.0001

Bundle = Mapping[str, float]
"""Amounts of Ray's resources, all on one node."""


def actor_options(placement: Placement) -> dict[str, Any]:
    """`ray_actor_options` of a replica. In a placement group its engine's workers claim the accelerators."""
    own = placement.ray_actor_options
    if placement.placement_group_bundles:
        shared = min(DEFAULT_CPUS, placement.placement_group_bundles[0].get("CPU", 0))
        cpus = shared if placement.num_cpus is None else placement.num_cpus
        return {"num_cpus": cpus, **{k: v for k, v in own.items() if k not in ("num_gpus", "accelerator_type")}}
    said = {
        "num_cpus": DEFAULT_CPUS if placement.num_cpus is None else placement.num_cpus,
        "num_gpus": placement.num_gpus,
        "accelerator_type": placement.accelerator_type,
        "resources": {**placement.resources, **own.get("resources", {})} or None,
    }
    return {**{key: value for key, value in said.items() if value is not None}, **_without_resources(own)}


def needs(placement: Placement) -> list[dict[str, float]]:
    """What a replica takes, by Ray's names: one bundle, or those of its placement group as Ray is to be given them."""
    accelerator = placement.ray_actor_options.get("accelerator_type", placement.accelerator_type)
    share = {} if accelerator is None else {f"{_ACCELERATOR}{accelerator}": _ACCELERATOR_SHARE}
    if placement.placement_group_bundles:
        return [{**b, **share} if b.get("GPU") else dict(b) for b in placement.placement_group_bundles]
    options = actor_options(placement)
    named = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    claimed = {name: float(amount) for name, amount in named.items() if amount}
    return [{**claimed, **options.get("resources", {}), **share}]


def fits(needs: Sequence[Bundle], nodes: Iterable[Bundle]) -> bool:
    """Whether empty nodes with these resources could hold it: each bundle on some node, the largest first."""
    left = [dict(node) for node in nodes]
    for bundle in sorted(needs, key=_size, reverse=True):
        node = next((node for node in left if _holds(node, bundle)), None)
        if node is None:
            return False
        for name, amount in bundle.items():
            node[name] = node.get(name, 0) - amount
    return True


def hosts(needs: Sequence[Bundle], nodes: Mapping[str, Bundle]) -> tuple[str, ...]:
    """The nodes that can hold it alone, by their ids."""
    return tuple(node for node, has in nodes.items() if fits(needs, [has]))


def lacking(needs: Sequence[Bundle], nodes: Iterable[Bundle]) -> str:
    """Why it does not fit, in plain words; empty if it does."""
    totals = list(nodes)
    if fits(needs, totals):
        return ""
    for bundle in needs:
        if any(_holds(node, bundle) for node in totals):
            continue
        nowhere = {name: n for name, n in bundle.items() if not any(_holds(node, {name: n}) for node in totals)}
        return f"no node has {_words(nowhere)}" if nowhere else f"no node has {_words(bundle)} together"
    return f"the nodes cannot hold its {len(needs)} bundles together"


def _without_resources(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "resources"}


def _holds(node: Bundle, bundle: Bundle) -> bool:
    return all(node.get(name, 0) >= amount - _EXACT for name, amount in bundle.items())


def _size(bundle: Bundle) -> tuple[float, float]:
    return bundle.get("GPU", 0), bundle.get("CPU", 0)


def _words(bundle: Bundle) -> str:
    """{'GPU': 1, 'accelerator_type:H100': 0.001} → `GPU: 1, accelerator_type:H100`."""
    return ", ".join(_word(name, amount) for name, amount in bundle.items())


def _word(name: str, amount: float) -> str:
    if name.startswith(_ACCELERATOR):
        return name
    return f"memory: {amount / 2**20:,.0f} MB" if name == "memory" else f"{name}: {amount:g}"
