"""The ingress deployment: OpenAI's routes, each request sent to the replica of the model it names.

`build` is what serve_config.yaml imports, and the one place that knows Ray's options.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from typing import Any

import ray
from fastapi import FastAPI, Request
from ray import serve
from ray.serve import Application
from starlette.responses import JSONResponse, Response, StreamingResponse

from deployments import config, residency, sizes, warm
from deployments.config import ModelConfig, Settings
from deployments.errors import InvalidRequest, ModelNotRunning
from deployments.model import ModelReplica
from deployments.placement import actor_options
from deployments.residency.board import Board, Kind
from deployments.residency.decision import METRICS_INTERVAL_S
from ingress import body as bodies
from ingress import errors, keep_alive, states, system
from ingress.catalog import Catalog, card
from ingress.forward import BEHIND_HAPROXY, BEHIND_SERVES_PROXY, Forwarder, upstream_of
from ingress.leases import RETRY_AFTER_S, Route, load_failed
from ingress.management import Management
from ingress.request_id import request_id
from ingress.states import State, States

VERSION = version("llm-manager")
SLOTS = 4096  # on a replica, each shared by the requests of a moment; engines queue by themselves
MAX_REQUESTS = 100_000  # in an ingress replica: the models are the bound, not the pipe
# The ingress never blocks, so it needs no loops apart for Serve's code and its own: each chunk and each reservation
# would cross threads. Read by Serve when the replica's process starts; 10 to 20 % more throughput.
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
DRAIN_MARGIN_S = 10.0
DRAIN_LOOK_S = 0.05
SSE_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

api = FastAPI(title="LLM-Manager", version=VERSION)
errors.install(api)


@serve.ingress(api)
class Ingress:
    async def __init__(self, settings: dict[str, Any], handles: Mapping[str, Any]) -> None:  # type: ignore[misc]
        """settings: Settings as plain data. handles: Serve's handle of each model, by deployment name."""
        self._settings = Settings.model_validate(settings)
        self._catalog = Catalog(self._settings.models)
        app_name = serve.get_replica_context().app_name
        board = Board(app_name)
        self._states = States(lambda: states.read(app_name, board))
        self._management = Management(
            self._catalog,
            self._states,
            board,
            start_s=self._settings.load_wait_s,
            stop_s=self._settings.request_timeout_s + 2 * DRAIN_MARGIN_S,
        )
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
        try:
            reading = await self._states.all()
        except Exception as error:  # requests for models that are up are answered all the same
            return system.health(self._catalog, None, [f"The models' states cannot be read: {error!r}"])
        return system.health(self._catalog, reading, [])

    @api.get("/v1/system/status")
    async def system_status(self) -> dict[str, Any]:
        return system.status(self._catalog, await self._states.all())

    @api.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        reading = await self._states.all()
        cards = [card(m, m.name, reading.of(m.deployment_name).state) for m in self._catalog]
        return {"object": "list", "data": cards}

    @api.get("/v1/models/{id:path}")
    async def model(self, id: str) -> dict[str, Any]:
        model = self._catalog.find(id)
        return card(model, id, (await self._states.of(model.deployment_name)).state)

    @api.get("/api/models")
    async def managed_models(self) -> dict[str, Any]:
        models = await self._management.models()
        return {"success": True, "message": f"{len(models)} models.", "models": models}

    @api.get("/api/models/stream")
    async def managed_models_stream(self) -> Response:
        await self._states.all()  # raises, if at all, before the answer begins
        return StreamingResponse(self._management.changes(), media_type="text/event-stream", headers=SSE_HEADERS)

    @api.post("/api/models/stop-all")
    async def stop_all(self, wait: bool = True) -> Response:
        if not wait:
            return await self._wish(list(self._catalog), "stop", "All models are being stopped.")
        stopped = await self._management.stop_all()
        return JSONResponse({"success": True, "message": "All models are stopped.", "stopped_models": stopped})

    @api.post("/api/models/restart-autostart")
    async def restart_autostart(self, wait: bool = True) -> Response:
        if not wait:
            models = [model for model in self._catalog if model.auto_start]
            return await self._wish(models, "restart", f"{len(models)} auto_start models are being restarted.")
        return system.restarted(await self._management.restart_autostart())

    @api.post("/api/models/{alias:path}/start")
    async def start(self, alias: str, wait: bool = True) -> Response:
        model = self._catalog.find(alias)
        if not wait:
            return await self._wish([model], "start", f"The model {alias!r} is being started.")
        await self._management.start(model)
        return JSONResponse({"success": True, "message": f"The model {alias!r} is running."})

    @api.post("/api/models/{alias:path}/stop")
    async def stop(self, alias: str, wait: bool = True) -> Response:
        model = self._catalog.find(alias)
        if not wait:
            return await self._wish([model], "stop", f"The model {alias!r} is being stopped.")
        await self._management.stop(model)
        return JSONResponse({"success": True, "message": f"The model {alias!r} is stopped."})

    @api.get("/api/models/{alias:path}")
    async def managed_model(self, alias: str) -> dict[str, Any]:
        return {"success": True, "message": f"The model {alias!r}.", "model": await self._management.model(alias)}

    async def _wish(self, models: list[ModelConfig], kind: Kind, message: str) -> Response:
        for model in models:
            await self._management.wish(model, kind)
        return JSONResponse({"success": True, "message": message}, 202)

    @api.post("/v1/chat/completions")
    async def chat_completions(self, request: Request) -> Response:
        return await self._infer(request, modes=("chat",))

    @api.post("/v1/completions")
    async def completions(self, request: Request) -> Response:
        return await self._infer(request, modes=("chat", "completion"))

    async def _infer(self, request: Request, modes: tuple[str, ...]) -> Response:
        body = await bodies.read(request, int(self._settings.max_body_mb * 2**20))
        data = bodies.parse(body)
        model = self._catalog.find(bodies.model_named(data))
        if model.mode not in modes:
            raise InvalidRequest(
                f"{request.url.path} does not fit the model {model.name!r}, which is a {model.mode} model.",
                param="model",
                code="wrong_mode",
            )
        in_body = keep_alive.FIELD in data
        keep_alive_s = keep_alive.take(data, request.headers, self._settings.max_keep_alive_s)
        if in_body:  # no engine knows the field
            body = json.dumps(data).encode()
        await self._refuse_if_not_loaded(model)
        upstream = upstream_of(request, body, request_id(request.scope), keep_alive_s)
        return self._forwarder.answer(self._routes[model.name], upstream)

    async def _refuse_if_not_loaded(self, model: ModelConfig) -> None:
        if model.auto_load:
            return
        now = await self._states.of(model.deployment_name)
        if now.state is State.FAILED:
            raise load_failed(model.name, now)
        if now.state in (State.STOPPED, State.STOPPING):
            raise ModelNotRunning(
                f"The model {model.name!r} is not running.", param="model", retry_after_s=RETRY_AFTER_S
            )


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
    options = actor_options(model)
    if settings.warm_start:
        env = options.get("runtime_env", {})
        env_vars = {**warm.environment(model.engine_name), **env.get("env_vars", {})}
        options["runtime_env"] = {**env, "env_vars": env_vars}
    # CUDA memory is bounded by the GPUs that Ray lends; a process beside it takes little.
    memory_mb = 0 if options.get("num_gpus") else model.memory_mb
    autoscaling = {
        # The application's policy alone decides, from the first replica on.
        "initial_replicas": 0,
        "min_replicas": 0,
        "max_replicas": model.max_replicas,
        "target_ongoing_requests": model.target_ongoing_requests,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "metrics_interval_s": METRICS_INTERVAL_S,
        "look_back_period_s": 2 * METRICS_INTERVAL_S,
        "policy": {
            "policy_kwargs": {
                "model": {field.name: getattr(model, field.name) for field in fields(residency.Model)},
                "sizes": {
                    "kind": sizes.kind(model),
                    "memory_mb": memory_mb,
                    **sizes.known(model, settings.cache_dir.expanduser()),
                },
            }
        },
    }
    return (
        serve.deployment(ModelReplica)
        .options(
            name=model.deployment_name,
            autoscaling_config=autoscaling,
            ray_actor_options=options,
            max_ongoing_requests=SLOTS,
            graceful_shutdown_timeout_s=settings.request_timeout_s + DRAIN_MARGIN_S,
            graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
            health_check_period_s=2,
            health_check_timeout_s=30,
            max_constructor_retry_count=1,
        )
        .bind(model.model_dump(mode="json"), str(settings.cache_dir))
    )
