"""The ingress deployment: OpenAI's routes, each request sent to the replica of the model it names.

`build` is what serve_config.yaml imports, and the one place that knows Ray's options.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, Any

import ray
from fastapi import Query, Request
from ray import serve
from ray.serve import Application
from starlette.responses import JSONResponse, Response, StreamingResponse

from deployments import config, sse
from deployments.cache import wire
from deployments.cache.client import CacheClient
from deployments.config import Settings
from deployments.errors import ModelNotFound, ModelNotRunning, PermissionDenied, ResponseNotFound
from deployments.keeper.address import AddressBook
from deployments.keeper.client import KeeperClient
from deployments.residency.board import Board, Kind
from deployments.usage.ranges import RANGE, GroupBy
from ingress import body as bodies
from ingress import deploying, endpoints, errors, inference, media, metrics, observing, states, system
from ingress.auth import Access, Door, key_of
from ingress.cache import Cache
from ingress.catalog import Catalog, Entry, card
from ingress.deploying import DRAIN_LOOK_S, DRAIN_MARGIN_S, SERVERS_PRIORITY
from ingress.devices import Devices, Nodes, RayCluster
from ingress.endpoints import Endpoint
from ingress.figures import Figures
from ingress.forward import BEHIND_HAPROXY, BEHIND_SERVES_PROXY, Forwarder, upstream_of
from ingress.inference import Asked
from ingress.keys import may_use
from ingress.leases import RETRY_AFTER_S, Route, load_failed
from ingress.limits import Limits
from ingress.local import behind_haproxy, check_exposure
from ingress.logs import Logs
from ingress.management import Management
from ingress.observing import Observed
from ingress.onlooker import until_asked
from ingress.openapi.document import Documented
from ingress.queues import Place, Queue
from ingress.request_id import request_id
from ingress.responses import Responses, Watch
from ingress.states import State, States

VERSION = version("llm-manager")
MAX_REQUESTS = 100_000  # in an ingress replica: the models are the bound, not the pipe
# The ingress never blocks, so it needs no loops apart for Serve's code and its own: each chunk and each reservation
# would cross threads. Read by Serve when the replica's process starts; 10 to 20 % more throughput.
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
Range = Annotated[str, Query(pattern=RANGE)]


def _cors_origins() -> tuple[str, ...]:
    origins: tuple[str, ...] = serve.get_replica_context().servable_object.cors_origins
    return origins


def _access() -> Access:
    access: Access = serve.get_replica_context().servable_object.access
    return access


api = Documented(_cors_origins, title="LLM-Manager", version=VERSION)
api.add_middleware(Door, access=_access)
errors.install(api)


@serve.ingress(api)
class Ingress:
    async def __init__(  # type: ignore[misc]
        self, settings: dict[str, Any], handles: Mapping[str, Any], keeper: Any
    ) -> None:
        """settings: Settings as plain data. handles: Serve's handle of each deployment of models, by its name. keeper:
        that of the keeper, which is asked by HTTP: named here so that Serve runs it."""
        self._settings = Settings.model_validate(settings)
        self._catalog = Catalog(self._settings.models)
        self._catalogs = {
            key.name: Catalog(self._settings.models, may_use(key)) for key in self._settings.keys if key.models
        }
        self._queues = {m.name: Queue(m.name, m.max_queued_requests) for m in self._settings.models}
        context = serve.get_replica_context()
        app_name = context.app_name
        board = Board(app_name)
        deployments = deploying.deployments_of(self._settings)
        self._states = States(lambda: states.read(app_name, board, deployments))
        self._keeper = KeeperClient(AddressBook(app_name))
        limits = Limits(self._keeper, context.replica_id.unique_id)
        self.access = Access(
            self._settings.keys,
            limits,
            without_keys=self._settings.allow_without_keys,
            behind_haproxy=behind_haproxy(os.environ),
            origins=self._settings.cors_origins,
        )
        if any(key.is_limited for key in self._settings.keys):
            self._syncing = asyncio.create_task(limits.run())
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
        self._figures = Figures(self._keeper, self._catalog)
        self._page = metrics.Page(lambda: metrics.agents_of(ray.nodes()))
        self._observing = observing.start(self._settings, self._keeper)
        keys = {key.name: key for key in self._settings.keys}
        self._observing.records.on_finished.append(
            lambda record: limits.spent(keys.get(record.key), record.prompt_tokens + record.completion_tokens)
        )
        self._cache = Cache(
            CacheClient(self._keeper),
            self._settings.cache,
            wait_s=self._settings.load_wait_s + self._settings.request_timeout_s,
            sse=sse.HEADERS,
        )
        self._devices = Devices(Nodes(RayCluster()).read)
        self._responses = Responses(app_name, ray.util.get_node_ip_address())
        self._forwarder = Forwarder(
            load_wait_s=self._settings.load_wait_s,
            request_timeout_s=self._settings.request_timeout_s,
            join=BEHIND_HAPROXY if behind_haproxy(os.environ) else BEHIND_SERVES_PROXY,
        )
        self._logs = Logs(self._keeper, self._forwarder)

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
    async def health(self, request: Request) -> dict[str, Any]:
        shown, reading, issues = self._shown(request), None, []
        try:
            reading = await self._states.all()
        except Exception as error:  # requests for models that are up are answered all the same
            issues = [f"The models' states cannot be read: {error!r}"]
        health = system.health(shown, reading, issues)
        return system.health_for_strangers(health) if self.access.is_stranger(request) else health

    @api.get("/v1/system/status")
    async def system_status(self, request: Request) -> dict[str, Any]:
        return system.status(self._shown(request), await self._states.all())

    @api.get("/v1/models")
    async def models(self, request: Request) -> dict[str, Any]:
        reading = await self._states.all()
        cards = [card(entry, entry.name, reading.of_entry(entry).state) for entry in self._shown(request)]
        return {"object": "list", "data": cards}

    @api.get("/v1/models/{id:path}")
    async def model(self, request: Request, id: str) -> dict[str, Any]:
        model = self._shown(request).find(id)
        return card(model, id, (await self._states.of_entry(model)).state)

    @api.get("/api/models")
    async def managed_models(self, request: Request) -> dict[str, Any]:
        models = await self._management.models(self._shown(request))
        return {"success": True, "message": f"{len(models)} models.", "models": models}

    @api.get("/api/models/stream")
    async def managed_models_stream(self, request: Request) -> Response:
        await self._states.all()  # raises, if at all, before the answer begins
        changes = self._management.changes(self._shown(request))
        return StreamingResponse(changes, media_type="text/event-stream", headers=sse.HEADERS)

    @api.post("/api/models/stop-all")
    async def stop_all(self, request: Request, wait: bool = True) -> Response:
        self._check_shown(request)
        if not wait:
            return await self._wish(self._catalog.hosts, "stop", "All models are being stopped.")
        stopped = await self._management.stop_all()
        return JSONResponse({"success": True, "message": "All models are stopped.", "stopped_models": stopped})

    @api.post("/api/models/restart-autostart")
    async def restart_autostart(self, request: Request, wait: bool = True) -> Response:
        self._check_shown(request)
        if not wait:
            models = [model for model in self._catalog if model.auto_start]
            return await self._wish(models, "restart", f"{len(models)} auto_start models are being restarted.")
        return system.restarted(await self._management.restart_autostart())

    @api.post("/api/models/{alias:path}/start")
    async def start(self, request: Request, alias: str, wait: bool = True) -> Response:
        model = self._shown(request).find(alias)
        if not wait:
            return await self._wish([model], "start", f"The model {alias!r} is being started.")
        await self._management.start(model)
        return JSONResponse({"success": True, "message": f"The model {alias!r} is running."})

    @api.post("/api/models/{alias:path}/stop")
    async def stop(self, request: Request, alias: str, wait: bool = True) -> Response:
        model = self._shown(request).find(alias)
        if not wait:
            return await self._wish([model], "stop", f"The model {alias!r} is being stopped.")
        await self._management.stop(model)
        return JSONResponse({"success": True, "message": f"The model {alias!r} is stopped."})

    @api.get("/api/models/{alias:path}/logs/stream")
    async def log(self, request: Request, alias: str) -> Response:
        return await self._logs.stream(self._shown(request).find(alias))

    @api.get("/api/logs/stats")
    async def log_stats(self, request: Request) -> dict[str, Any]:
        stats = await self._logs.stats(self._shown(request))
        message = f"{stats['total_log_entries']} lines of {stats['models_with_logs']} models."
        return {"success": True, "message": message, "stats": stats}

    @api.post("/api/logs/{alias:path}/clear")
    async def clear_log(
        self, request: Request, alias: str, keep_minutes: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0
    ) -> dict[str, Any]:
        deleted = await self._logs.clear(self._shown(request).find(alias), keep_minutes)
        message = f"{deleted} lines of the log of {alias!r} were deleted."
        return {"success": True, "message": message, "deleted": deleted}

    @api.get("/api/models/{alias:path}")
    async def managed_model(self, request: Request, alias: str) -> dict[str, Any]:
        self._shown(request).find(alias)
        return {"success": True, "message": f"The model {alias!r}.", "model": await self._management.model(alias)}

    @api.get("/api/usage")
    async def usage(
        self,
        request: Request,
        range: Range = "24h",
        model: str | None = None,
        key: str | None = None,
        group_by: GroupBy = "model",
    ) -> dict[str, Any]:
        self._check_shown(request, model)
        return await self._figures.usage(range, model, key, group_by)

    @api.get("/api/metrics/throughput")
    async def throughput(
        self, request: Request, range: Range = "1h", model: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        self._check_shown(request, model)
        return await self._figures.throughput(range, model, key)

    @api.get("/metrics")
    async def metrics_page(self, request: Request) -> Response:
        self._check_shown(request)
        return Response(await self._page.text(), media_type=metrics.CONTENT_TYPE)

    @api.get("/api/devices/info")
    async def devices(self) -> dict[str, Any]:
        return await self._devices.info()

    @api.get("/api/cache/stats")
    async def cache_stats(self) -> dict[str, Any]:
        stats = await self._keeper.ask(wire.STATS)
        return {"success": True, "message": f"{stats['entries']} answers are kept.", "stats": stats}

    @api.post("/api/cache/clear")
    async def clear_cache(self, request: Request, model: str | None = None) -> dict[str, Any]:
        self._check_shown(request, model)
        name = None if model is None else self._catalog.find(model).name
        cleared = await self._keeper.ask(wire.CLEAR, name)
        return {"success": True, "message": f"{cleared} answers were forgotten.", "cleared": cleared}

    async def _wish(self, models: list[Entry], kind: Kind, message: str) -> Response:
        for model in models:
            await self._management.wish(model, kind)
        return JSONResponse({"success": True, "message": message}, 202)

    def _shown(self, request: Request) -> Catalog:
        """The models that there are for the request's key."""
        key = key_of(request)
        return self._catalog if key is None else self._catalogs.get(key.name, self._catalog)

    def _check_shown(self, request: Request, model: str | None = None) -> None:
        """model: what is asked about; None is all that there are. Raises: PermissionDenied, ModelNotFound."""
        shown = self._shown(request)
        if shown is self._catalog:
            return
        if model is not None:
            shown.find(model)
        else:
            raise PermissionDenied("This key is for some of the models only, and this is about all of them.")

    @property
    def cors_origins(self) -> tuple[str, ...]:
        return self._settings.cors_origins

    @endpoints.routes(api, endpoints.ENDPOINTS)
    async def infer(self, request: Request) -> Response:
        endpoint = endpoints.endpoint_of(request)
        observed = self._observing.begin(request, endpoint.path)
        with until_asked(observed.onlookers):
            asked = await inference.read(request, self._max_body, self._settings.max_keep_alive_s)
            model = self._shown(request).find(asked.model)
            observed.of(model.name)
            endpoint.check(model)
            if not self._settings.allow_private_urls:
                await media.check(asked.body, asked.data)
            return await self._cache.answer(
                request,
                model,
                endpoint.path,
                asked.data,
                lambda: self._compute(request, endpoint, asked, model, observed),
                observed.cached,
            )

    async def _compute(
        self, request: Request, endpoint: Endpoint, asked: Asked, model: Entry, observed: Observed
    ) -> Response:
        queue = self._queues[model.model.name]
        queue.check()
        await self._refuse_if_not_loaded(model)
        body = observed.reads(asked.body, asked.data)
        upstream = upstream_of(request, endpoint.path, body, request_id(request.scope), asked.keep_alive_s)
        if model.model.affinity == "session":
            upstream = replace(upstream, session=asked.session(request.headers))
        if endpoint is endpoints.RESPONSES:
            stored = asked.data.get("store") is not False
            observed.onlookers.append(Watch(self._responses, model.name, stored=stored))
        observed.onlookers.append(Place(queue))
        return self._forwarder.answer(self._routes[model.name], observed.traced(upstream), observed.onlookers)

    @endpoints.routes(api, endpoints.FOLLOW_UPS)
    async def follow_up(self, request: Request, id: str) -> Response:
        endpoint = endpoints.endpoint_of(request)
        observed = self._observing.begin(request, endpoint.path)
        gone = ResponseNotFound(f"The response {id!r} is no longer held.", param="id")
        with until_asked(observed.onlookers):
            held = await self._responses.find(id)
            try:
                observed.of(self._shown(request).find(held.model).name)
            except ModelNotFound:  # for this key
                raise gone from None
            body = await bodies.read(request, self._max_body)
            upstream = upstream_of(request, endpoint.path.format(id=id), body, request_id(request.scope))
        return self._forwarder.answer_of(held, observed.traced(upstream), gone, observed.onlookers)

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

    async def __del__(self) -> None:
        """Serve calls it before the process ends. The constructor may have failed half way."""
        if observing := getattr(self, "_observing", None):
            await observing.stop()


def build(args: dict[str, Any]) -> Application:
    """The application of serve_config.yaml: the ingress over one deployment for each model at each of its placements,
    and for each pool.

    Raises: ConfigError.
    """
    settings = config.with_keys(config.parse(args), os.environ)
    check_exposure(settings, os.environ)
    ingress = serve.deployment(Ingress).options(
        num_replicas=settings.ingress_replicas,
        max_replicas_per_node=settings.ingress_replicas_per_node,
        max_ongoing_requests=MAX_REQUESTS,
        ray_actor_options={"num_cpus": 0.1, "runtime_env": {"env_vars": {**ONE_LOOP, **SERVERS_PRIORITY}}},
        graceful_shutdown_timeout_s=settings.request_timeout_s + DRAIN_MARGIN_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
    )
    return ingress.bind(settings.model_dump(mode="json"), deploying.replicas(settings), deploying.keeper(settings))
