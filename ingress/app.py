"""The ingress deployment: OpenAI's routes, each request sent to the replica of the model it names.

`build` is what serve_config.yaml imports, and the one place that knows Ray's options.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from typing import Any

import ray
from fastapi import FastAPI, Request
from ray import serve
from ray.serve import Application
from starlette.responses import Response

from deployments import config, residency
from deployments.config import ModelConfig, Settings
from deployments.errors import InvalidRequest, ModelNotRunning
from deployments.model import ModelReplica
from deployments.placement import actor_options
from ingress import body as bodies
from ingress import errors
from ingress.catalog import Catalog, card
from ingress.forward import BEHIND_HAPROXY, BEHIND_SERVES_PROXY, Forwarder, upstream_of
from ingress.leases import Route
from ingress.request_id import request_id
from ingress.states import STOPPED, State, States, read_from_serve

VERSION = version("llm-manager")
SLOTS = 4096  # on a replica, each shared by the requests of a moment; engines queue by themselves
MAX_REQUESTS = 100_000  # in an ingress replica: the models are the bound, not the pipe
# The ingress never blocks, so it needs no loops apart for Serve's code and its own: each chunk and each reservation
# would cross threads. Read by Serve when the replica's process starts; 10 to 20 % more throughput.
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
DRAIN_MARGIN_S = 10.0
DRAIN_LOOK_S = 0.25

api = FastAPI(title="LLM-Manager", version=VERSION)
errors.install(api)


@serve.ingress(api)
class Ingress:
    async def __init__(self, settings: dict[str, Any], handles: Mapping[str, Any]) -> None:  # type: ignore[misc]
        """settings: Settings as plain data. handles: Serve's handle of each model, by deployment name."""
        self._settings = Settings.model_validate(settings)
        self._catalog = Catalog(self._settings.models)
        app_name = serve.get_replica_context().app_name
        self._states = States(lambda: read_from_serve(app_name))
        here = ray.get_runtime_context().get_node_id()
        self._routes = {
            model.name: Route(
                handles[model.deployment_name],
                name=model.name,
                deployment_name=model.deployment_name,
                share=model.target_ongoing_requests,
                here=here,
                states=self._states,
            )
            for model in self._catalog
        }
        self._forwarder = Forwarder(
            load_wait_s=self._settings.load_wait_s,
            request_timeout_s=self._settings.request_timeout_s,
            join=BEHIND_HAPROXY if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else BEHIND_SERVES_PROXY,
        )

    @api.get("/")
    async def root(self) -> dict[str, Any]:
        return {
            "message": "LLM-Manager API Server",
            "version": VERSION,
            "models_url": "/v1/models",
            "docs_url": "/docs",
            "console_url": None,
        }

    @api.get("/health")
    async def health(self) -> dict[str, Any]:
        states = await self._states.all()
        running: dict[str, int] = {}
        issues = []
        for model in self._catalog:
            now = states.get(model.deployment_name, STOPPED)
            running.setdefault(model.engine_name, 0)
            running[model.engine_name] += now.state is State.RUNNING
            if now.state is State.FAILED:
                issues.append(f"{model.name}: {now.failure_reason}")
        return {
            "status": "degraded" if issues else "healthy",
            "timestamp": int(time.time()),
            "manager_initialized": True,
            "engines": {name: {"status": "healthy", "loaded_models": n} for name, n in running.items()},
            "models": sum(running.values()),
            "models_count": len(self._catalog),
            "running_models": sum(running.values()),
            "issues": issues,
        }

    @api.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        states = await self._states.all()
        cards = [card(m, m.name, states.get(m.deployment_name, STOPPED).state) for m in self._catalog]
        return {"object": "list", "data": cards}

    @api.get("/v1/models/{id:path}")
    async def model(self, id: str) -> dict[str, Any]:
        model = self._catalog.find(id)
        return card(model, id, (await self._states.of(model.deployment_name)).state)

    @api.post("/v1/chat/completions")
    async def chat_completions(self, request: Request) -> Response:
        return await self._infer(request, modes=("chat",))

    @api.post("/v1/completions")
    async def completions(self, request: Request) -> Response:
        return await self._infer(request, modes=("chat", "completion"))

    async def _infer(self, request: Request, modes: tuple[str, ...]) -> Response:
        body = await bodies.read(request, int(self._settings.max_body_mb * 2**20))
        model = self._catalog.find(bodies.model_named(body))
        if model.mode not in modes:
            raise InvalidRequest(
                f"{request.url.path} does not fit the model {model.name!r}, which is a {model.mode} model.",
                param="model",
                code="wrong_mode",
            )
        await self._refuse_if_not_loaded(model)
        return self._forwarder.answer(self._routes[model.name], upstream_of(request, body, request_id(request.scope)))

    async def _refuse_if_not_loaded(self, model: ModelConfig) -> None:
        if model.auto_load:
            return
        now = await self._states.of(model.deployment_name)
        if now.state in (State.STOPPED, State.STOPPING):
            raise ModelNotRunning(f"The model {model.name!r} is not running.", param="model", retry_after_s=10)


def build(args: dict[str, Any]) -> Application:
    """The application of serve_config.yaml: the ingress over one deployment a model, named after it.

    Raises: ConfigError.
    """
    settings = config.parse(args)
    models = {model.deployment_name: _deployment(model, settings) for model in settings.models}
    ingress = serve.deployment(Ingress).options(
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=MAX_REQUESTS,
        ray_actor_options={"num_cpus": 0.1, "runtime_env": {"env_vars": ONE_LOOP}},
        graceful_shutdown_timeout_s=settings.request_timeout_s + DRAIN_MARGIN_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
    )
    return ingress.bind(settings.model_dump(mode="json"), models)


def _deployment(model: ModelConfig, settings: Settings) -> Application:
    policy_kwargs = {field.name: getattr(model, field.name) for field in fields(residency.Model)}
    autoscaling = {
        # Serve starts what auto_start names; from then on the application's policy alone decides.
        "initial_replicas": max(int(model.auto_start), model.min_replicas),
        "min_replicas": model.min_replicas,
        "max_replicas": model.max_replicas,
        "target_ongoing_requests": model.target_ongoing_requests,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "metrics_interval_s": residency.METRICS_INTERVAL_S,
        "look_back_period_s": 2 * residency.METRICS_INTERVAL_S,
        "policy": {"policy_kwargs": policy_kwargs},
    }
    return (
        serve.deployment(ModelReplica)
        .options(
            name=model.deployment_name,
            autoscaling_config=autoscaling,
            ray_actor_options=actor_options(model),
            max_ongoing_requests=SLOTS,
            graceful_shutdown_timeout_s=settings.request_timeout_s + DRAIN_MARGIN_S,
            graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
            health_check_period_s=2,
            health_check_timeout_s=30,
            max_constructor_retry_count=1,
        )
        .bind(model.model_dump(mode="json"), str(settings.cache_dir))
    )
