"""The ingress deployment: OpenAI's routes, each request sent to the replica of the model it names.

`build` is what serve_config.yaml imports, and the one place that knows Ray's options.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import ray
from fastapi import Request
from ray import serve
from ray.serve import Application
from starlette.responses import Response

from deployments import config, sse
from deployments.cache.client import CacheClient
from deployments.config import Settings
from deployments.errors import ModelNotFound, ModelNotRunning, ResponseNotFound
from deployments.keeper.address import AddressBook
from deployments.keeper.client import KeeperClient
from deployments.residency.board import Board
from ingress import body as bodies
from ingress import deploying, endpoints, errors, inference, media, metrics, observing, operators, states, system
from ingress.auth import Access, Door
from ingress.cache import Cache
from ingress.catalog import Entry, card
from ingress.console import console
from ingress.deploying import DRAIN_LOOK_S, DRAIN_MARGIN_S, HEALTH, SERVERS_PRIORITY
from ingress.described import described
from ingress.devices import Devices, Nodes, RayCluster
from ingress.endpoints import Endpoint
from ingress.figures import Figures
from ingress.forward import BEHIND_HAPROXY, BEHIND_SERVES_PROXY, Forwarder, upstream_of
from ingress.history import History
from ingress.inference import Asked
from ingress.leases import RETRY_AFTER_S, Route, load_failed
from ingress.limits import Limits
from ingress.local import behind_haproxy, check_exposure
from ingress.logs import Logs
from ingress.management import Management
from ingress.observing import Observed
from ingress.onlooker import until_asked
from ingress.openapi.document import Documented
from ingress.operators import Operators
from ingress.queues import Place, Queue
from ingress.request_id import request_id
from ingress.responses import Responses, Watch
from ingress.shown import Shown
from ingress.states import State, States

VERSION = version("llm-manager")
MAX_REQUESTS = 100_000  # in an ingress replica: the models are the bound, not the pipe
# The ingress never blocks, so it needs no loops apart for Serve's code and its own: each chunk and each reservation
# would cross threads. Read by Serve when the replica's process starts; 10 to 20 % more throughput.
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
# Else glibc keeps, of what was returned, up to twice the largest piece that ever was.
GIVES_BACK = {"MALLOC_TRIM_THRESHOLD_": "131072"}


def _cors_origins() -> tuple[str, ...]:
    origins: tuple[str, ...] = serve.get_replica_context().servable_object.cors_origins
    return origins


def _access() -> Access:
    access: Access = serve.get_replica_context().servable_object.access
    return access


api = Documented(_cors_origins, title="LLM-Manager", version=VERSION)
api.add_middleware(Door, access=_access)
errors.install(api)
console.install(api)
api.include_router(operators.router)


@serve.ingress(api)
class Ingress:
    async def __init__(  # type: ignore[misc]
        self, settings: dict[str, Any], handles: Mapping[str, Any], keeper: Any
    ) -> None:
        """settings: Settings as plain data. handles: Serve's handle of each deployment of models, by its name. keeper:
        that of the keeper, which is asked by HTTP: named here so that Serve runs it."""
        self._settings = Settings.model_validate(settings)
        self._shown = Shown(self._settings.models, self._settings.keys)
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
            for entry in self._shown.all
        }
        management = Management(
            self._shown.all,
            self._states,
            board,
            self._routes,
            start_s=self._settings.load_wait_s,
            stop_s=self._settings.request_timeout_s + 2 * DRAIN_MARGIN_S,
        )
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
        self._responses = Responses(app_name, ray.util.get_node_ip_address())
        self._forwarder = Forwarder(
            load_wait_s=self._settings.load_wait_s,
            request_timeout_s=self._settings.request_timeout_s,
            join=BEHIND_HAPROXY if behind_haproxy(os.environ) else BEHIND_SERVES_PROXY,
        )
        self.operators = Operators(
            self._shown,
            self._states,
            management,
            self._observing.activity,
            History(self._keeper),
            Figures(self._keeper, self._shown.all),
            Logs(self._keeper, self._forwarder),
            Devices(Nodes(RayCluster()).read),
            self._keeper,
        )

    @endpoints.routes(api, endpoints.ENDPOINTS)
    async def infer(self, request: Request) -> Response:
        endpoint = endpoints.endpoint_of(request)
        observed = self._observing.begin(request, endpoint.path)
        async with until_asked(observed.onlookers):
            asked = await inference.read(request, self._max_body, self._settings.max_keep_alive_s)
            model = self._shown.to(request).find(asked.model)
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
        async with until_asked(observed.onlookers):
            held = await self._responses.find(id)
            try:
                observed.of(self._shown.to(request).find(held.model).name)
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

    @api.get("/")
    async def root(self) -> dict[str, Any]:
        return {
            "message": "LLM-Manager API Server",
            "version": VERSION,
            "models_url": "/v1/models",
            "docs_url": "/docs",
            "console_url": console.PATH,
        }

    @api.get("/health")
    async def health(self, request: Request) -> dict[str, Any]:
        shown, reading, issues = self._shown.to(request), None, []
        try:
            reading = await self._states.all()
        except Exception as error:  # requests for models that are up are answered all the same
            issues = [f"The models' states cannot be read: {error!r}"]
        health = system.health(shown, reading, issues)
        return system.health_for_strangers(health) if self.access.is_stranger(request) else health

    @api.get("/v1/system/status")
    async def system_status(self, request: Request) -> dict[str, Any]:
        return system.status(self._shown.to(request), await self._states.all())

    @api.get("/v1/models")
    async def models(self, request: Request) -> dict[str, Any]:
        reading = await self._states.all()
        cards = [card(entry, entry.name, reading.of_entry(entry).state) for entry in self._shown.to(request)]
        return {"object": "list", "data": cards}

    @api.get("/v1/models/{id:path}")
    async def model(self, request: Request, id: str) -> dict[str, Any]:
        model = self._shown.to(request).find(id)
        return card(model, id, (await self._states.of_entry(model)).state)

    @api.get("/metrics")
    async def metrics_page(self, request: Request) -> Response:
        self._shown.check(request)
        return Response(await self._page.text(), media_type=metrics.CONTENT_TYPE)

    @property
    def cors_origins(self) -> tuple[str, ...]:
        return self._settings.cors_origins

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
        # The next ones are up before the last ones go, if nodes may hold both.
        max_surge_percent=0 if settings.ingress_replicas_per_node else 100,
        max_ongoing_requests=MAX_REQUESTS,
        ray_actor_options={
            "num_cpus": 0.1,
            "runtime_env": {"env_vars": {**ONE_LOOP, **GIVES_BACK, **SERVERS_PRIORITY}},
        },
        graceful_shutdown_timeout_s=settings.request_timeout_s + DRAIN_MARGIN_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
        **HEALTH,
    )
    told = settings.model_dump(mode="json")
    return described(ingress, told).bind(told, deploying.replicas(settings), deploying.keeper(settings))
