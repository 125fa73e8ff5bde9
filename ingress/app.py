"""The ingress deployment: OpenAI's routes, each request sent to the replica of the model it names.

`build` is what serve_config.yaml imports, and the one place that knows Ray's options.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import ray
from fastapi import Request
from ray import serve
from ray.serve import Application
from starlette.responses import JSONResponse, Response, StreamingResponse

from deployments import config
from deployments.config import Settings
from deployments.errors import ModelNotRunning, ResponseNotFound
from deployments.residency.board import Board, Kind
from ingress import body as bodies
from ingress import deploying, endpoints, errors, inference, states, system
from ingress.catalog import Catalog, Entry, card
from ingress.cors import Api
from ingress.deploying import DRAIN_LOOK_S, DRAIN_MARGIN_S, SERVERS_PRIORITY
from ingress.forward import BEHIND_HAPROXY, BEHIND_SERVES_PROXY, Forwarder, upstream_of
from ingress.leases import RETRY_AFTER_S, Route, load_failed
from ingress.management import Management
from ingress.request_id import request_id
from ingress.responses import Responses, Watch
from ingress.states import State, States

VERSION = version("llm-manager")
MAX_REQUESTS = 100_000  # in an ingress replica: the models are the bound, not the pipe
# The ingress never blocks, so it needs no loops apart for Serve's code and its own: each chunk and each reservation
# would cross threads. Read by Serve when the replica's process starts; 10 to 20 % more throughput.
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
SSE_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def _cors_origins() -> tuple[str, ...]:
    origins: tuple[str, ...] = serve.get_replica_context().servable_object.cors_origins
    return origins


api = Api(_cors_origins, title="LLM-Manager", version=VERSION)
errors.install(api)


@serve.ingress(api)
class Ingress:
    async def __init__(self, settings: dict[str, Any], handles: Mapping[str, Any]) -> None:  # type: ignore[misc]
        """settings: Settings as plain data. handles: Serve's handle of each deployment, by its name."""
        self._settings = Settings.model_validate(settings)
        self._catalog = Catalog(self._settings.models)
        app_name = serve.get_replica_context().app_name
        board = Board(app_name)
        deployments = deploying.deployments_of(self._settings)
        self._states = States(lambda: states.read(app_name, board, deployments))
        here = ray.get_runtime_context().get_node_id()
        self._routes = {
            entry.name: Route(
                {name: handles[name] for name in deployments[entry.deployment_name]},
                name=entry.name,
                deployment_name=entry.deployment_name,
                share=deploying.share(entry.model),
                here=here,
                states=self._states,
                member=entry.member,
            )
            for entry in self._catalog
        }
        self._management = Management(
            self._catalog,
            self._states,
            board,
            self._routes,
            start_s=self._settings.load_wait_s,
            stop_s=self._settings.request_timeout_s + 2 * DRAIN_MARGIN_S,
        )
        self._responses = Responses(app_name, ray.util.get_node_ip_address())
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
        cards = [card(entry, entry.name, reading.of_entry(entry).state) for entry in self._catalog]
        return {"object": "list", "data": cards}

    @api.get("/v1/models/{id:path}")
    async def model(self, id: str) -> dict[str, Any]:
        model = self._catalog.find(id)
        return card(model, id, (await self._states.of_entry(model)).state)

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
            return await self._wish(self._catalog.hosts, "stop", "All models are being stopped.")
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

    async def _wish(self, models: list[Entry], kind: Kind, message: str) -> Response:
        for model in models:
            await self._management.wish(model, kind)
        return JSONResponse({"success": True, "message": message}, 202)

    @property
    def cors_origins(self) -> tuple[str, ...]:
        return self._settings.cors_origins

    @endpoints.routes(api, endpoints.ENDPOINTS)
    async def infer(self, request: Request) -> Response:
        endpoint = endpoints.endpoint_of(request)
        asked = await inference.read(request, self._max_body, self._settings.max_keep_alive_s)
        model = self._catalog.find(asked.model)
        endpoint.check(model)
        await self._refuse_if_not_loaded(model)
        upstream = upstream_of(request, endpoint.path, asked.body, request_id(request.scope), asked.keep_alive_s)
        if model.model.affinity == "session":
            upstream = replace(upstream, session=asked.session(request.headers))
        watch = None
        if endpoint is endpoints.RESPONSES:
            watch = Watch(self._responses, model.name, stored=asked.data.get("store") is not False)
        return self._forwarder.answer(self._routes[model.name], upstream, watch)

    @endpoints.routes(api, endpoints.FOLLOW_UPS)
    async def follow_up(self, request: Request, id: str) -> Response:
        held = await self._responses.find(id)
        path = endpoints.endpoint_of(request).path.format(id=id)
        body = await bodies.read(request, self._max_body)
        upstream = upstream_of(request, path, body, request_id(request.scope))
        return self._forwarder.answer_of(
            held, upstream, gone=ResponseNotFound(f"The response {id!r} is no longer held.", param="id")
        )

    @property
    def _max_body(self) -> int:
        """Bytes."""
        return int(self._settings.max_body_mb * 2**20)

    async def _refuse_if_not_loaded(self, model: Entry) -> None:
        if model.auto_load:
            return
        now = await self._states.of_entry(model)
        if now.state is State.FAILED:
            raise load_failed(model.name, now)
        if now.state in (State.STOPPED, State.STOPPING):
            raise ModelNotRunning(
                f"The model {model.name!r} is not running.", param="model", retry_after_s=RETRY_AFTER_S
            )


def build(args: dict[str, Any]) -> Application:
    """The application of serve_config.yaml: the ingress over one deployment for each model at each of its placements,
    and for each pool.

    Raises: ConfigError.
    """
    settings = config.parse(args)
    ingress = serve.deployment(Ingress).options(
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=MAX_REQUESTS,
        ray_actor_options={"num_cpus": 0.1, "runtime_env": {"env_vars": {**ONE_LOOP, **SERVERS_PRIORITY}}},
        graceful_shutdown_timeout_s=settings.request_timeout_s + DRAIN_MARGIN_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
    )
    return ingress.bind(settings.model_dump(mode="json"), deploying.replicas(settings))
