from __future__ import annotations

from typing import Any

import pytest

from deployments.config import Placement
from deployments.placement import DEFAULT_CPUS, actor_options, fits, hosts, lacking, needs

CPU_NODE = {"CPU": 4.0, "memory": 16e9}
GPU_NODE = {"CPU": 8.0, "GPU": 1.0, "memory": 64e9, "accelerator_type:A100": 1.0}
MAC_NODE = {"CPU": 4.0, "memory": 16e9, "metal": 1.0}
GPU = {"GPU": 1.0}
MAC = {"metal": 1.0}
H100 = {"GPU": 1.0, "accelerator_type:H100": 0.001}
GROUP = ({"GPU": 1.0, "CPU": 2.0}, {"GPU": 1.0})

# What Ray is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "options"),
    [
        pytest.param({}, {"num_cpus": DEFAULT_CPUS}, id="next to no CPU, and memory is left to the policy"),
        pytest.param({"num_cpus": 0}, {"num_cpus": 0}, id="no CPU at all"),
        pytest.param(
            {"num_cpus": 2, "num_gpus": 1, "accelerator_type": "H100", "resources": {"fast": 1}},
            {"num_cpus": 2, "num_gpus": 1, "accelerator_type": "H100", "resources": {"fast": 1}},
            id="what the placement says",
        ),
        pytest.param(
            {"num_cpus": 2, "resources": {"a": 1, "b": 1}, "ray_actor_options": {"num_cpus": 3, "resources": {"b": 2}}},
            {"num_cpus": 3, "resources": {"a": 1, "b": 2}},
            id="ray_actor_options come last",
        ),
        pytest.param(
            {"ray_actor_options": {"memory": 7, "runtime_env": {"env_vars": {"A": "1"}}}},
            {"num_cpus": DEFAULT_CPUS, "memory": 7, "runtime_env": {"env_vars": {"A": "1"}}},
            id="whatever else Ray knows",
        ),
        pytest.param(
            {"placement_group_bundles": GROUP, "num_gpus": 2, "accelerator_type": "H100", "resources": {"a": 1}},
            {"num_cpus": DEFAULT_CPUS},
            id="in a placement group the workers claim the rest",
        ),
        pytest.param(
            {"placement_group_bundles": GROUP, "ray_actor_options": {"num_gpus": 1, "memory": 7}},
            {"num_cpus": DEFAULT_CPUS, "memory": 7},
            id="no GPUs in a placement group, whatever is said",
        ),
        pytest.param({"placement_group_bundles": GROUP, "num_cpus": 2}, {"num_cpus": 2}, id="CPUs of the first bundle"),
        pytest.param(
            {"placement_group_bundles": ({"GPU": 1.0},)}, {"num_cpus": 0}, id="no CPU where the first bundle has none"
        ),
    ],
)
def test_replica_is_started_with(said: dict[str, Any], options: dict[str, Any]) -> None:
    assert actor_options(Placement(**said)) == options


@pytest.mark.parametrize(
    ("said", "bundles"),
    [
        pytest.param({}, [{"CPU": DEFAULT_CPUS}], id="little"),
        pytest.param(
            {"num_gpus": 1, "accelerator_type": "H100"},
            [{"CPU": DEFAULT_CPUS, "GPU": 1, "accelerator_type:H100": 0.001}],
            id="a share of the accelerator",
        ),
        pytest.param(
            {"num_cpus": 0, "resources": {"a": 1}, "ray_actor_options": {"memory": 7, "resources": {"b": 2}}},
            [{"memory": 7, "a": 1, "b": 2}],
            id="resources and memory",
        ),
        pytest.param({"num_cpus": 0, "ray_actor_options": {"num_gpus": 2}}, [{"GPU": 2}], id="ray_actor_options"),
        pytest.param({"placement_group_bundles": GROUP}, [*GROUP], id="the bundles of its group"),
        pytest.param(
            {"placement_group_bundles": ({"CPU": 1.0}, {"GPU": 1.0}), "accelerator_type": "H100"},
            [{"CPU": 1}, {"GPU": 1, "accelerator_type:H100": 0.001}],
            id="the accelerator in bundles with GPUs",
        ),
    ],
)
def test_replica_needs(said: dict[str, Any], bundles: list[dict[str, float]]) -> None:
    assert needs(Placement(**said)) == bundles


@pytest.mark.parametrize("accelerator_type", [None, "H100"])
@pytest.mark.parametrize("bundles", [GROUP, ({"GPU": 1.0},), ({"CPU": 0.5}, {"GPU": 1.0})])
def test_serve_takes_the_options_with_the_bundles(
    bundles: tuple[dict[str, float], ...], accelerator_type: str | None
) -> None:
    from ray import serve

    placement = Placement(placement_group_bundles=bundles, accelerator_type=accelerator_type)
    serve.deployment(type("Replica", (), {})).options(
        ray_actor_options=actor_options(placement), placement_group_bundles=needs(placement)
    )


# Whether a cluster can hold it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "nodes", "why"),
    [
        pytest.param([], [], "", id="nothing fits nowhere"),
        pytest.param([GPU], [CPU_NODE, GPU_NODE], "", id="any node will do"),
        pytest.param([GPU], [], "no node has GPU: 1", id="no nodes"),
        pytest.param([GPU], [CPU_NODE], "no node has GPU: 1", id="a node without it"),
        pytest.param([{"GPU": 2.0}], [GPU_NODE, GPU_NODE], "no node has GPU: 2", id="nodes are not added up"),
        pytest.param([{**MAC, **GPU}], [GPU_NODE, MAC_NODE], "no node has metal: 1, GPU: 1 together", id="one for all"),
        pytest.param([{"CPU": 8.0, **MAC}], [MAC_NODE], "no node has CPU: 8", id="CPUs count"),
        pytest.param([{"memory": 17e9}], [MAC_NODE], "no node has memory: 16,212 MB", id="memory counts"),
        pytest.param([{"CPU": 8.0, "memory": 64e9}], [GPU_NODE], "", id="a node may be filled to the brim"),
        pytest.param([H100], [GPU_NODE], "no node has accelerator_type:H100", id="another accelerator does not do"),
        pytest.param([H100], [{**GPU_NODE, "accelerator_type:H100": 1.0}], "", id="the one that is asked for does"),
        pytest.param([GPU, GPU], [GPU_NODE, GPU_NODE], "", id="each bundle on a node of its own"),
        pytest.param([GPU, GPU], [{"GPU": 2.0}], "", id="both bundles on one node"),
        pytest.param([GPU, GPU], [GPU_NODE], "the nodes cannot hold its 2 bundles together", id="one GPU for two"),
        pytest.param([GPU, H100], [GPU_NODE] * 2, "no node has accelerator_type:H100", id="the bundle that lacks"),
        pytest.param(
            [{"CPU": 2.0}, GPU], [GPU_NODE | {"CPU": 2.0}], "", id="a bundle takes nothing that it does not say"
        ),
        pytest.param(
            [{"GPU": 1.0}, {"GPU": 2.0}], [{"GPU": 2.0}, {"GPU": 1.0}], "", id="the largest bundle comes first"
        ),
        pytest.param([{"CPU": 0.1}] * 3, [{"CPU": 0.3}], "", id="as exactly as Ray counts"),
    ],
)
def test_cluster_lacks(wanted: list[dict[str, float]], nodes: list[dict[str, float]], why: str) -> None:
    assert lacking(wanted, iter(nodes)) == why
    assert fits(wanted, iter(nodes)) == (not why)


def test_hosts_are_the_nodes_that_hold_all_of_it() -> None:
    nodes = {"g": GPU_NODE, "c": CPU_NODE, "m": MAC_NODE}
    assert hosts([GPU], nodes) == ("g",)
    assert hosts([{"CPU": 1.0}], nodes) == ("g", "c", "m")
    assert hosts([GPU, GPU], nodes) == ()
