"""The options that Serve is given, as Serve and the policy read them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments import config, sizes, warm
from deployments.config import ModelConfig, PoolConfig, Settings
from deployments.placement import DEFAULT_CPUS, needs
from deployments.residency.demand import Model
from deployments.residency.variants import Group
from tests.residency.groups import grouped

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from deployments.model import ModelReplica
    from deployments.pool import PoolReplica
    from ingress import deploying
    from ingress.deploying import SERVERS_PRIORITY, UNMEASURED

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from within Serve, at its own fields
GPU_OR_CPU = [{"num_gpus": 1}, {"device": "cpu", "num_cpus": 2}]
GROUP = [{"GPU": 1.0, "CPU": 2.0}, {"GPU": 1.0}]


def settings(*models: dict[str, Any], **more: Any) -> Settings:
    return config.parse({"models": [{"engine": "echo", **model} for model in models], **more})


def deployments(known: Settings) -> dict[str, Any]:
    """Serve's deployments, by name."""
    return {name: bound._bound_deployment for name, bound in deploying.replicas(known).items()}


def kwargs_of(deployment: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = deployment._deployment_config.autoscaling_config.policy.policy_kwargs
    return kwargs


def groups(known: Settings) -> dict[str, Group]:
    """What the policy makes of them."""
    contexts: dict[Hashable, Any] = {
        name: SimpleNamespace(
            deployment_name=name,
            config=SimpleNamespace(policy=SimpleNamespace(policy_kwargs=json.loads(json.dumps(kwargs_of(deployment))))),
        )
        for name, deployment in deployments(known).items()
    }
    return grouped(contexts)


# Which deployments there are -----------------------------------------------------------------------------------------


def test_each_placement_and_each_pool_is_a_deployment() -> None:
    known = settings(
        {"name": "org/a", "placements": GPU_OR_CPU},
        {"name": "b"},
        {"name": "p1", "pool": "many"},
        {"name": "p2", "pool": "many"},
        {"name": "q1", "pool": "few"},
        pools=[{"name": "few"}],
    )
    made = deployments(known)
    assert {name: deployment.func_or_class for name, deployment in made.items()} == {
        "org--a": ModelReplica,
        "org--a~1": ModelReplica,
        "b": ModelReplica,
        "pool--few": PoolReplica,
        "pool--many": PoolReplica,
    }
    assert all(deployment.name == name for name, deployment in made.items())
    assert deploying.deployments_of(known) == {
        "org--a": ("org--a", "org--a~1"),
        "b": ("b",),
        "pool--few": ("pool--few",),
        "pool--many": ("pool--many",),
    }


def test_replica_is_told_its_model_and_placement_as_plain_data() -> None:
    known = settings({"name": "org/a", "placements": GPU_OR_CPU}, cache_dir="/cache", load_wait_s=7)
    for rank, name in enumerate(("org--a", "org--a~1")):
        model, *rest = json.loads(json.dumps(deployments(known)[name].init_args))
        assert ModelConfig.model_validate(model) == known.models[0]
        assert rest == [rank, "/cache", 7]


def test_pools_replica_is_told_its_own_models_and_no_others() -> None:
    known = settings({"name": "p1", "pool": "many"}, {"name": "b"}, {"name": "p2", "pool": "many"}, load_wait_s=7)
    pool, models, cache_dir, wait_s = json.loads(json.dumps(deployments(known)["pool--many"].init_args))
    assert PoolConfig.model_validate(pool) == PoolConfig(name="many")
    assert [ModelConfig.model_validate(model) for model in models] == [known.models[0], known.models[2]]
    assert (Path(cache_dir), wait_s) == (known.cache_dir, 7)


# What the policy reads -----------------------------------------------------------------------------------------------


def test_policy_knows_a_model_as_it_is_configured() -> None:
    said: dict[str, Any] = {
        "idle_timeout_s": 9,
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 5,
        "pinned": True,
        "priority": 3,
        "min_resident_s": 4,
        "auto_start": True,
        "downscale_delay_s": 6,
    }
    assert groups(settings({"name": "a", **said}))["a"].model == Model(**said)


def test_every_figure_of_the_policy_is_one_that_is_configured_or_the_pools_own() -> None:
    kwargs = kwargs_of(deployments(settings({"name": "a"}))["a"])
    assert {*vars(Model())} - kwargs["model"].keys() == {"places"}


def test_policy_knows_the_placements_of_a_model_in_order_and_what_each_needs() -> None:
    known = settings({"name": "org/a", "placements": GPU_OR_CPU})
    (group,) = groups(known).values()
    assert (group.name, [(v.name, v.rank) for v in group.variants]) == ("org--a", [("org--a", 0), ("org--a~1", 1)])
    assert [v.needs for v in group.variants] == [[{"CPU": DEFAULT_CPUS, "GPU": 1}], [{"CPU": 2}]]
    kinds = [sizes.Key.of_model(known.models[0], variant).kind for variant in known.models[0].variants]
    assert [v.sizes.kind for v in group.variants] == kinds


def test_policy_knows_a_pool_by_all_its_models() -> None:
    known = settings(
        {"name": "p1", "pool": "many", "target_ongoing_requests": 4, "idle_timeout_s": 1},
        {"name": "p2", "pool": "many", "target_ongoing_requests": 9, "auto_start": True},
        {"name": "q1", "pool": "few"},
        pools=[
            {"name": "many", "max_models_per_replica": 5, "max_replicas": 2, "idle_timeout_s": 60, "memory_mb": 700}
        ],
    )
    many, few = (groups(known)[name] for name in ("pool--many", "pool--few"))
    assert many.model == Model(idle_timeout_s=60, max_replicas=2, target_ongoing_requests=9, auto_start=True, places=5)
    assert (many.variants[0].sizes.memory_mb, few.variants[0].sizes.memory_mb) == (700, None)
    assert (few.model.places, few.model.auto_start) == (3, False)


@pytest.mark.parametrize(
    ("placement", "memory_mb"),
    [
        pytest.param({}, 700, id="on the CPU"),
        pytest.param({"num_gpus": 0}, 700, id="no GPU"),
        pytest.param({"num_gpus": 1}, 0, id="a GPU"),
        pytest.param({"num_gpus": 0.5}, 0, id="half a GPU"),
        pytest.param({"ray_actor_options": {"num_gpus": 1}}, 0, id="a GPU by Ray's own option"),
        pytest.param({"placement_group_bundles": GROUP}, 0, id="the GPUs of a group"),
    ],
)
def test_memory_is_counted_where_no_gpu_is_lent(placement: dict[str, Any], memory_mb: float) -> None:
    known = settings(
        {"name": "a", "placements": [placement], "memory_mb": 700},
        {"name": "p", "pool": "many"},
        pools=[{"name": "many", "placement": placement, "memory_mb": 700}],
    )
    assert [group.variants[0].sizes.memory_mb for group in groups(known).values()] == [memory_mb] * 2


def test_what_an_earlier_server_measured_is_passed_on(tmp_path: Path) -> None:
    known = settings({"name": "a"}, {"name": "p", "pool": "many"}, cache_dir=str(tmp_path))
    sizes.keep(sizes.Key.of_model(known.models[0], known.models[0].variants[0]), tmp_path, 321, 4.5)
    sizes.keep(sizes.Key.of_pool(known.all_pools[0], known.models[1:]), tmp_path, 654, 7.5)
    read = {name: group.variants[0].sizes for name, group in groups(known).items()}
    assert (read["a"].estimate_mb, read["a"].load_s) == (321, 4.5)
    assert (read["pool--many"].estimate_mb, read["pool--many"].load_s) == (654, 7.5)


# What Serve and Ray are asked for ------------------------------------------------------------------------------------


def test_policy_alone_decides_from_the_first_replica_on() -> None:
    scaling = deployments(settings({"name": "a", "min_replicas": 1, "max_replicas": 3}))["a"]
    scaling = scaling._deployment_config.autoscaling_config
    assert (scaling.initial_replicas, scaling.min_replicas, scaling.max_replicas) == (None, 0, 3)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (0, 0)


def test_drain_outlasts_the_longest_request() -> None:
    made = deployments(settings({"name": "a"}, {"name": "p", "pool": "many"}, request_timeout_s=70))
    assert {d._deployment_config.graceful_shutdown_timeout_s for d in made.values()} == {70 + deploying.DRAIN_MARGIN_S}


def test_only_sessions_need_a_router_that_knows_them() -> None:
    made = deployments(settings({"name": "a", "affinity": "session", "placements": [{}, {}]}, {"name": "b"}))
    routers = {name: d._deployment_config.request_router_config.request_router_class for name, d in made.items()}
    assert [routers["a"], routers["a~1"]] == [deploying.SESSION_ROUTER] * 2
    assert routers["b"] != deploying.SESSION_ROUTER


def test_session_router_is_serves_own() -> None:
    from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

    assert f"{ConsistentHashRouter.__module__}.{ConsistentHashRouter.__name__}" == deploying.SESSION_ROUTER


def test_group_gives_a_replica_its_bundles_and_no_other_has_one() -> None:
    known = settings(
        {
            "name": "a",
            "placements": [{"placement_group_bundles": GROUP, "placement_group_strategy": "STRICT_PACK"}, {}],
        }
    )
    group, plain = (deployments(known)[name]._replica_config for name in ("a", "a~1"))
    assert group.placement_group_bundles == needs(known.models[0].placements[0])
    assert (group.placement_group_strategy, plain.placement_group_bundles) == ("STRICT_PACK", None)


def test_replica_claims_what_its_placement_says() -> None:
    known = settings({"name": "a", "placements": GPU_OR_CPU}, warm_start=False)
    options = {name: d.ray_actor_options for name, d in deployments(known).items()}
    env = {"runtime_env": {"env_vars": {**SERVERS_PRIORITY, **UNMEASURED}}}
    assert options["a"] == {"num_cpus": DEFAULT_CPUS, "num_gpus": 1, **env}
    assert options["a~1"] == {"num_cpus": 2, **env}


def test_warm_process_is_of_the_replicas_engine_and_the_placements_own_environment_comes_before_it() -> None:
    placement = {"ray_actor_options": {"runtime_env": {"env_vars": {"A": "1"}, "working_dir": "/w"}}}
    overriding = {"ray_actor_options": {"runtime_env": {"env_vars": {warm.HOOK: "mine"}}}}
    known = settings({"name": "a", "placements": [placement, overriding]}, {"name": "p", "pool": "many"})
    env = {name: d.ray_actor_options["runtime_env"] for name, d in deployments(known).items()}
    ours = {**SERVERS_PRIORITY, **UNMEASURED, **warm.environment("echo")}
    assert env["a"] == {"env_vars": {**ours, "A": "1"}, "working_dir": "/w"}
    assert env["a~1"]["env_vars"] == {**ours, warm.HOOK: "mine"}
    assert env["pool--many"]["env_vars"] == ours
    assert known.models[0].placements[0].ray_actor_options == placement["ray_actor_options"]


@pytest.mark.parametrize(
    ("target", "max_replicas", "share"),
    [(32, 1, 32), (32, 2, 4), (4, 2, 1), (1, 1, 1)],
)
def test_slot_stands_for_a_replicas_requests_and_for_fewer_where_there_are_several(
    target: int, max_replicas: int, share: int
) -> None:
    model = ModelConfig(name="a", engine="echo", target_ongoing_requests=target, max_replicas=max_replicas)
    assert deploying.share(model) == share
