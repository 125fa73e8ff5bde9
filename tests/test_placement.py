from __future__ import annotations

from typing import Any

import pytest

from deployments.config import ModelConfig, Placement
from deployments.placement import DEFAULT_CPUS, actor_options, choose

GPU: dict[str, Any] = {"num_gpus": 1}
BIG: dict[str, Any] = {"num_cpus": 8, "memory": 64e9}
MAC: dict[str, Any] = {"resources": {"metal": 1}}
H100: dict[str, Any] = {"num_gpus": 1, "accelerator_type": "H100"}
CPU_NODE = {"CPU": 4.0, "memory": 16e9}
GPU_NODE = {"CPU": 8.0, "GPU": 1.0, "memory": 64e9, "accelerator_type:A100": 1.0}
MAC_NODE = {"CPU": 4.0, "memory": 16e9, "metal": 1.0}


@pytest.mark.parametrize(
    ("placements", "nodes", "chosen"),
    [
        pytest.param([GPU, {}], [CPU_NODE, GPU_NODE], GPU, id="the first, on any node that holds it"),
        pytest.param([GPU, {}], [CPU_NODE], {}, id="the next where no node holds the first"),
        pytest.param([{"num_gpus": 2}, GPU], [GPU_NODE, GPU_NODE], GPU, id="nodes are not added up"),
        pytest.param([{**MAC, **GPU}, MAC], [GPU_NODE, MAC_NODE], MAC, id="one node must hold all of it"),
        pytest.param([BIG, MAC], [MAC_NODE], MAC, id="CPUs count"),
        pytest.param([{"memory": 17e9}, MAC], [MAC_NODE], MAC, id="memory counts"),
        pytest.param([BIG, MAC], [GPU_NODE], BIG, id="a node may be filled to the brim"),
        pytest.param([H100, GPU], [GPU_NODE], GPU, id="another accelerator does not do"),
        pytest.param(
            [H100, GPU], [{**GPU_NODE, "accelerator_type:H100": 1.0}], H100, id="the accelerator that is asked for does"
        ),
        pytest.param([MAC, GPU], [CPU_NODE], MAC, id="the first where none fits: a node may come"),
        pytest.param([MAC, GPU], [], MAC, id="the first where nothing is known of the cluster"),
    ],
)
def test_first_placement_that_a_node_can_hold_is_chosen(
    placements: list[dict[str, Any]], nodes: list[dict[str, float]], chosen: dict[str, Any]
) -> None:
    assert choose(iter(placements), iter(nodes)) == chosen


# Ray is not running here: nothing is known of the cluster.


def test_replica_claims_next_to_no_cpu_and_leaves_memory_to_the_policy() -> None:
    assert actor_options(ModelConfig(name="a", memory_mb=3)) == {"num_cpus": DEFAULT_CPUS}


def test_placement_comes_before_the_defaults() -> None:
    placement = Placement(ray_actor_options={"num_cpus": 2, "memory": 7, "num_gpus": 1})
    model = ModelConfig(name="a", placements=(placement,))
    assert actor_options(model) == {"num_cpus": 2, "memory": 7, "num_gpus": 1}
