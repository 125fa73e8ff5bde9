"""Serve's deployments of models, pools and the keeper: with `app.build` the one place that knows Ray's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments import residency, sizes, warm
from deployments.config import ModelConfig, Placement, PoolConfig, Settings, Variant
from deployments.keeper.keeper import Keeper
from deployments.model import ModelReplica
from deployments.placement import HEAD, actor_options, needs
from deployments.pool import PoolReplica
from deployments.residency.decision import METRICS_INTERVAL_S
from ingress.described import described

SLOTS = 4096  # on a replica, each shared by the requests of a moment; engines queue by themselves
DRAIN_MARGIN_S = 10.0
DRAIN_LOOK_S = 0.05
SPREAD = 8  # leases that make up a replica's share of requests, so that several replicas get even shares
KEEPER_STOP_S = 5.0
# Serve ends a process that has not answered three times: one that hangs, after half a minute.
HEALTH = {"health_check_period_s": 1, "health_check_timeout_s": 10}
# Ray's workers yield the CPU to all others (niceness 15), as is right for batches; engines that serve do not.
SERVERS_PRIORITY = {"RAY_worker_niceness": "0"}
# What Serve measures of a replica says nothing, since requests come past it, and Ray's agents keep it for ever: sixty
# series of each process that there ever was. The ingress and the keeper measure what matters.
UNMEASURED = {"RAY_enable_metrics_collection": "false"}
SESSION_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
NOT_THE_REPLICAS = {field.name for field in fields(residency.Model)} | {
    "affinity",
    "auto_load",
    "cache",
    "max_queued_requests",
    "placements",
}
"""Settings of a model that its replicas do not read: they stay when these change."""


def replicas(settings: Settings) -> dict[str, Application]:
    """Every deployment that holds models, by its name."""
    found = {}
    for model in settings.models:
        for rank, variant in enumerate(model.variants if model.pool is None else ()):
            found[variant.deployment_name] = _of_model(model, rank, variant, settings)
    for pool in settings.all_pools:
        found[pool.deployment_name] = _of_pool(pool, settings)
    return found


def keeper(settings: Settings) -> Application:
    """One replica, beside Ray's control service: where that is, its files are found again."""
    deployment = serve.deployment(Keeper).options(
        ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}},
        max_ongoing_requests=SLOTS,
        graceful_shutdown_timeout_s=KEEPER_STOP_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
        **HEALTH,
    )
    told = settings.model_dump(mode="json")
    return described(deployment, told).bind(told)


def deployments_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The deployments of each model and pool, by the name of the first."""
    own = {m.deployment_name: tuple(v.deployment_name for v in m.variants) for m in settings.models if m.pool is None}
    return {**own, **{pool.deployment_name: (pool.deployment_name,) for pool in settings.all_pools}}


def share(model: ModelConfig) -> int:
    """Requests that one slot on a replica may stand for."""
    return max(1, model.target_ongoing_requests // (SPREAD if model.max_replicas > 1 else 1))


def _of_model(model: ModelConfig, rank: int, variant: Variant, settings: Settings) -> Application:
    placement = variant.placement
    cache_dir = settings.cache_dir.expanduser()
    options = _options(
        settings,
        placement,
        engine=variant.engine,
        policy={
            "model": {
                field.name: getattr(model, field.name)
                for field in fields(residency.Model)
                if hasattr(model, field.name)
            },
            "sizes": {
                "kind": sizes.Key.of_model(model, variant).kind,
                "memory_mb": _memory_mb(placement, model.memory_mb),
                **sizes.known(model, variant, cache_dir),
            },
            "placement": {"model": model.deployment_name, "rank": rank, "needs": needs(placement)},
        },
    )
    if model.affinity == "session":
        options["request_router_config"] = RequestRouterConfig(request_router_class=SESSION_ROUTER)
    made_of = model.model_dump(mode="json", exclude=NOT_THE_REPLICAS), variant.model_dump(mode="json")
    rest = str(settings.cache_dir), settings.load_wait_s
    deployment = serve.deployment(ModelReplica).options(name=variant.deployment_name, **options)
    return described(deployment, *made_of, *rest).bind(model.model_dump(mode="json"), rank, *rest)


def _of_pool(pool: PoolConfig, settings: Settings) -> Application:
    models = [model for model in settings.models if model.pool == pool.name]
    placement = pool.placement
    options = _options(
        settings,
        placement,
        engine=models[0].engine_name,
        policy={
            "model": {
                "idle_timeout_s": pool.idle_timeout_s,
                "max_replicas": pool.max_replicas,
                "target_ongoing_requests": max(model.target_ongoing_requests for model in models),
                "auto_start": any(model.auto_start for model in models),
                "places": pool.max_models_per_replica,
            },
            "sizes": {
                "kind": sizes.Key.of_pool(pool, models).kind,
                "memory_mb": _memory_mb(placement, pool.memory_mb),
                **sizes.known_of_pool(pool, models, settings.cache_dir.expanduser()),
            },
            "placement": {"model": pool.deployment_name, "rank": 0, "needs": needs(placement)},
        },
    )
    made_of = (
        pool.model_dump(mode="json"),
        [model.model_dump(mode="json") for model in models],
        str(settings.cache_dir),
        settings.load_wait_s,
    )
    deployment = serve.deployment(PoolReplica).options(name=pool.deployment_name, **options)
    return described(deployment, *made_of).bind(*made_of)


def _memory_mb(placement: Placement, configured: float | None) -> float | None:
    """CUDA memory is bounded by the GPUs that Ray lends; a process beside it takes little."""
    on_gpus = placement.placement_group_bundles or needs(placement)[0].get("GPU")
    return 0 if on_gpus else configured


def _options(
    settings: Settings, placement: Placement, *, engine: str, policy: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """policy: the kwargs of the deployment's own policy."""
    actor = actor_options(placement)
    env = actor.get("runtime_env", {})
    warmed = warm.environment(engine) if settings.warm_start else {}
    actor["runtime_env"] = {**env, "env_vars": {**SERVERS_PRIORITY, **UNMEASURED, **warmed, **env.get("env_vars", {})}}
    options: dict[str, Any] = {
        "autoscaling_config": {
            # The application's policy alone decides, from the first replica on. (With `initial_replicas` Serve would
            # begin anew with each change of the settings.)
            "min_replicas": 0,
            "max_replicas": policy["model"]["max_replicas"],
            "target_ongoing_requests": policy["model"]["target_ongoing_requests"],
            "upscale_delay_s": 0,
            "downscale_delay_s": 0,
            "metrics_interval_s": METRICS_INTERVAL_S,
            "look_back_period_s": 2 * METRICS_INTERVAL_S,
            "policy": {"policy_kwargs": dict(policy)},
        },
        "ray_actor_options": actor,
        "max_ongoing_requests": SLOTS,
        "graceful_shutdown_timeout_s": settings.request_timeout_s + DRAIN_MARGIN_S,
        "graceful_shutdown_wait_loop_s": DRAIN_LOOK_S,
        **HEALTH,
        "max_constructor_retry_count": 1,
    }
    if placement.placement_group_bundles:
        options["placement_group_bundles"] = needs(placement)
        options["placement_group_strategy"] = placement.placement_group_strategy
    return options
