"""The routes, over parts that answer at once: which one a path leads to, and what the client gets."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from deployments.cache import wire
from deployments.cache.client import CacheClient
from deployments.config import ConfigError, ModelConfig, Settings
from deployments.devices.cluster import Node
from deployments.devices.reading import Failed
from deployments.errors import ApiError, KeeperGone, ModelLoadFailed, StopTimeout
from deployments.keeper.address import Address, AddressBook
from deployments.keeper.client import KeeperClient
from deployments.keys import KeyConfig, hash_of
from deployments.residency.board import Board, Kind
from deployments.usage.record import Record
from ingress import states
from ingress.activity import Activity
from ingress.auth import Access
from ingress.cache import Cache
from ingress.catalog import Catalog, Entry
from ingress.devices import Devices
from ingress.figures import Figures
from ingress.forward import Forwarder, Upstream
from ingress.history import History
from ingress.leases import Route
from ingress.limits import Limits
from ingress.logs import Logs
from ingress.management import Management
from ingress.onlooker import Onlooker, Replica
from ingress.queues import Queue
from ingress.records import Records
from ingress.responses import Held, Responses
from ingress.running import Running
from ingress.shown import Shown
from ingress.states import ModelState, Reading, State, States
from tests.test_outbox import record

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from ray import serve

    from ingress.app import Ingress, api, build
    from ingress.observing import Observing
    from ingress.operators import Operators

PlainIngress: Any = Ingress.__bases__[0]  # before Serve made a replica of it
QWEN = ModelConfig(name="Qwen/Qwen3-8B", aliases=("qwen/start",), engine="echo", auto_start=True)
LAZY = ModelConfig(name="lazy", engine="echo", auto_load=False)
BASE = ModelConfig(name="base", engine="echo", mode="completion")
SETTINGS = Settings(models=(QWEN, LAZY, BASE), max_body_mb=0.01, max_keep_alive_s=600)
CHAT = "/v1/chat/completions"


class Wishes(Board):
    """Keeps what is wished; nobody fulfils it."""

    def __init__(self) -> None:
        super().__init__("app", SimpleNamespace(put=lambda *_: None))
        self.wished: list[tuple[str, Kind]] = []

    def wish(self, model: str, kind: Kind) -> Any:
        self.wished.append((model, kind))
        return super().wish(model, kind)


class Memory:
    """A store of this process alone."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.put = self.values.__setitem__
        self.get = self.values.get
        self.delete = self.values.__delitem__

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.values if key.startswith(prefix)]


class Done(Management):
    """What is asked for is done at once, or fails at once."""

    failure: ApiError | None = None

    def __init__(self, known: States, board: Board) -> None:
        super().__init__(Catalog(SETTINGS.models), known, board, {}, start_s=0, stop_s=0)
        self.done: list[tuple[str, str]] = []

    async def start(self, model: Entry) -> None:
        await self._do("start", model)

    async def stop(self, model: Entry) -> None:
        await self._do("stop", model)

    async def pin(self, model: Entry, *, pinned: bool) -> None:
        await self._do(f"pinned={pinned}", model)

    async def restart_autostart(self) -> dict[str, str]:
        return {QWEN.name: self.failure.message if self.failure else ""}

    async def _do(self, what: str, model: Entry) -> None:
        self.done.append((what, model.name))
        if self.failure:
            raise self.failure


class NoKeeper:
    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any:
        raise AssertionError("nobody is asked on the way of a request")


class Echo(Forwarder):
    """Answers with what a replica would be sent."""

    def __init__(self) -> None:
        pass

    def answer(self, route: Route, upstream: Upstream, onlookers: Sequence[Onlooker] = ()) -> Response:
        return self._told(str(route), upstream)

    def answer_of(
        self,
        replica: Replica,
        upstream: Upstream,
        gone: ApiError,
        onlookers: Sequence[Onlooker] = (),
        *,
        timeout_s: float | None = -1,
        lost: ApiError | None = None,
    ) -> Response:
        return self._told(replica.url, upstream)

    def _told(self, to: str, upstream: Upstream) -> Response:
        return JSONResponse(
            {
                "to": to,
                "method": upstream.method,
                "target": upstream.target,
                "headers": dict(upstream.headers),
                "body": upstream.body.decode("latin-1"),
            }
        )


class Keeper(KeeperClient):
    """Answers with what it was told to say, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(AddressBook("app", Memory()))
        self.says: Any = {}
        self.gone = False
        self.asked: list[tuple[str, Any]] = []

    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any:
        self.asked.append((path, data))
        if self.gone:
            raise KeeperGone("away")
        return self.says

    async def fetch(self, path: str, data: Any = None, *, within_s: float = 5.0) -> bytes:
        return json.dumps(await self.ask(path, data)).encode()

    async def address(self) -> Address:
        return Address("http://keeper", "s3cret")


class Server(PlainIngress):  # type: ignore[misc]
    def __init__(self, settings: Settings = SETTINGS, keeper: Keeper | None = None) -> None:
        self.models: dict[str, ModelState] = {}
        self.failure: Exception | None = None
        self.board = Wishes()
        self.root = ""
        self._settings = settings
        self._shown = Shown(settings.models, settings.keys)
        self._queues = self.queues = {m.name: Queue(m.name, m.max_queued_requests) for m in settings.models}
        self.access = Access(settings.keys, Limits(NoKeeper(), "one"))
        self._states = States(self._read)
        self.management = Done(self._states, self.board)
        self._routes = {model.name: model.name for model in self._shown.all}
        self._forwarder = Echo()
        self.records: list[Record] = []
        self._keeper = self.keeper = keeper or Keeper()
        records, running = Records("r1"), Running()
        records.on_begun.append(running.begun)
        records.on_finished += [self.records.append, running.ended]
        self._observing = Observing(records, Activity(running, self.keeper, "r1"))
        self._cache = Cache(CacheClient(self._keeper), settings.cache, wait_s=1, sse={})
        self.operators = Operators(
            self._shown,
            self._states,
            self.management,
            self._observing.activity,
            History(self.keeper),
            Figures(self.keeper, self._shown.all),
            Logs(self.keeper, self._forwarder),
            Devices(lambda: [Node("n", "10.0.0.1", "host", True, Failed("no answer"))]),
            self.keeper,
        )
        self._responses = self.responses = Responses("app", "10.0.0.1", Memory())

    def _read(self) -> Reading:
        if self.failure:
            raise self.failure
        return Reading(self.models, cap=3)

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(api, raise_app_exceptions=False, root_path=self.root)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, self.root + path, **more)

    async def raw(self, method: str, path: str, **more: Any) -> httpx.Response:
        """`path` as it is written: clients tidy theirs."""

        async def spelled(scope: Scope, receive: Receive, send: Send) -> None:
            await api({**scope, "path": unquote(path), "raw_path": path.encode()}, receive, send)

        transport = httpx.ASGITransport(spelled, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, "/", **more)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return served(monkeypatch, SETTINGS)


def served(monkeypatch: pytest.MonkeyPatch, settings: Settings, keeper: Keeper | None = None) -> Server:
    monkeypatch.setattr(states, "TTL_S", -1.0)
    server = Server(settings, keeper)
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=server))
    return server


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


ALL = KeyConfig(name="all", key_hash=hash_of("all-key"), rights=("use", "manage"))
LAZY_ONLY = KeyConfig(name="lazy", key_hash=hash_of("lazy-key"), rights=("use", "manage"), models=("lazy",))
KEYED = SETTINGS.model_copy(update={"keys": (ALL, LAZY_ONLY)})


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> Server:
    return served(monkeypatch, KEYED)


def error_of(answer: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    return error


def failed(answer: httpx.Response, status: int, code: str, param: str | None = None) -> None:
    """As under /api/."""
    error = error_of(answer, status, code, param)
    assert answer.json()["success"] is False
    assert answer.json()["message"] == error["message"]


# Management ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "done"),
    [
        ("Qwen/Qwen3-8B/start", ("start", "Qwen/Qwen3-8B")),
        ("Qwen%2FQwen3-8B/start", ("start", "Qwen/Qwen3-8B")),
        ("qwen/start/start", ("start", "Qwen/Qwen3-8B")),
        ("qwen/start/stop", ("stop", "Qwen/Qwen3-8B")),
        ("lazy/start?wait=true", ("start", "lazy")),
        ("lazy/stop", ("stop", "lazy")),
    ],
)
async def test_every_name_of_a_model_leads_to_it(server: Server, path: str, done: tuple[str, str]) -> None:
    answer = await server.ask("POST", f"/api/models/{path}")
    assert answer.status_code == 200
    assert answer.json()["success"] is True
    assert answer.json()["message"]
    assert server.management.done == [done]


@pytest.mark.parametrize("path", ["Qwen/nope/start", "nope/stop", "Qwen--Qwen3-8B/start", "stop-all/start", "/stop"])
async def test_unknown_model_is_a_404_and_nothing_is_done(server: Server, path: str) -> None:
    failed(await server.ask("POST", f"/api/models/{path}"), 404, "model_not_found", "model")
    assert server.management.done == []


@pytest.mark.parametrize("path", ["lazy/start", "lazy/stop", "stop-all", "restart-autostart"])
async def test_wait_that_is_neither_true_nor_false_is_a_400_that_names_it(server: Server, path: str) -> None:
    failed(await server.ask("POST", f"/api/models/{path}?wait=maybe"), 400, "invalid_value", "wait")
    assert server.management.done == []
    assert server.board.wished == []


@pytest.mark.parametrize(
    ("path", "wished"),
    [
        ("Qwen/Qwen3-8B/start", [("Qwen--Qwen3-8B", "start")]),
        ("lazy/stop", [("lazy", "stop")]),
        ("stop-all", [("Qwen--Qwen3-8B", "stop"), ("lazy", "stop"), ("base", "stop")]),
        ("restart-autostart", [("Qwen--Qwen3-8B", "restart")]),
    ],
)
async def test_without_waiting_it_is_a_202_and_a_wish(server: Server, path: str, wished: list[tuple[str, str]]) -> None:
    answer = await server.ask("POST", f"/api/models/{path}?wait=false")
    assert answer.status_code == 202
    assert answer.json()["success"] is True
    assert server.board.wished == wished
    assert server.management.done == []


async def test_failure_is_never_a_200(server: Server) -> None:
    server.management.failure = ModelLoadFailed("no weights", retry_after_s=7)
    answer = await server.ask("POST", "/api/models/lazy/start")
    failed(answer, 503, "model_load_failed")
    assert answer.headers["retry-after"] == "7"
    answer = await server.ask("POST", "/api/models/restart-autostart")
    failed(answer, 503, "model_load_failed")
    assert answer.json()["failed_models"] == {"Qwen/Qwen3-8B": "no weights"}
    server.management.failure = StopTimeout("still busy")
    failed(await server.ask("POST", "/api/models/lazy/stop"), 504, "timeout")
    failed(await server.ask("POST", "/api/models/stop-all"), 504, "timeout")


@pytest.mark.parametrize(("path", "pinned"), [("Qwen/Qwen3-8B/pin", True), ("lazy/unpin", False)])
async def test_model_is_pinned_and_unpinned(server: Server, path: str, pinned: bool) -> None:
    answer = await server.ask("POST", f"/api/models/{path}")
    assert (answer.status_code, answer.json()["success"]) == (200, True)
    assert server.management.done == [(f"pinned={pinned}", path.rpartition("/")[0])]


async def test_all_are_stopped(server: Server) -> None:
    server.models = {"lazy": ModelState(State.RUNNING)}
    answer = await server.ask("POST", "/api/models/stop-all")
    assert answer.json()["success"] is True
    assert answer.json()["stopped_models"] == ["lazy"]
    assert {name for _, name in server.management.done} == {"Qwen/Qwen3-8B", "lazy", "base"}


async def test_models_are_shown_all_and_one_by_one(server: Server) -> None:
    server.models = {"Qwen--Qwen3-8B": ModelState(State.RUNNING)}
    told = (await server.ask("GET", "/api/models")).json()
    assert told["success"] is True
    assert [m["status"] for m in told["models"]] == ["running", "stopped", "stopped"]
    for name in QWEN.names:
        told = (await server.ask("GET", f"/api/models/{name}")).json()
        assert (told["success"], told["model"]) == (True, told["model"] | {"name": QWEN.name, "status": "running"})
    failed(await server.ask("GET", "/api/models/Qwen/nope"), 404, "model_not_found", "model")


async def test_stream_that_cannot_begin_is_an_error_and_no_empty_stream(server: Server) -> None:
    server.failure = RuntimeError("no controller")
    failed(await server.ask("GET", "/api/models/stream"), 500, "internal_error")


async def test_errors_under_a_prefix_have_their_shape_too(server: Server) -> None:
    server.root = "/ops"
    failed(await server.ask("POST", "/api/models/nope/start"), 404, "model_not_found", "model")


# System --------------------------------------------------------------------------------------------------------------


async def test_health_is_a_200_even_if_no_state_can_be_read(server: Server) -> None:
    server.failure = TimeoutError()
    answer = await server.ask("GET", "/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert answer.json()["issues"] == ["The models' states cannot be read: TimeoutError()"]
    server.failure = None
    assert (await server.ask("GET", "/health")).json()["status"] == "healthy"


async def test_status_tells_the_cap(server: Server) -> None:
    assert (await server.ask("GET", "/v1/system/status")).json()["max_concurrent_models"] == 3


async def test_card_carries_the_name_that_was_asked_for(server: Server) -> None:
    card = (await server.ask("GET", "/v1/models/qwen/start")).json()
    assert (card["id"], card["root"], card["status"]) == ("qwen/start", "Qwen/Qwen3-8B", "stopped")
    error_of(await server.ask("GET", "/v1/models/Qwen/nope"), 404, "model_not_found", "model")


# Devices and the cache -----------------------------------------------------------------------------------------------


async def test_devices_of_all_nodes_are_told(server: Server) -> None:
    told = (await server.ask("GET", "/api/devices/info")).json()
    assert told["success"] is True
    assert [node["error"] for node in told["nodes"]] == ["no answer"]


async def test_cache_is_told_of_and_cleared_by_the_models_own_name(server: Server) -> None:
    server.keeper.says = {"entries": 2}
    told = (await server.ask("GET", "/api/cache/stats")).json()
    assert (told["success"], told["stats"]) == (True, {"entries": 2})
    server.keeper.says = 2
    for query in ("", "?model=qwen/start"):
        told = (await server.ask("POST", f"/api/cache/clear{query}")).json()
        assert (told["success"], told["cleared"]) == (True, 2)
    assert server.keeper.asked[1:] == [(wire.CLEAR, None), (wire.CLEAR, "Qwen/Qwen3-8B")]
    failed(await server.ask("POST", "/api/cache/clear?model=nope"), 404, "model_not_found", "model")


# Inference -----------------------------------------------------------------------------------------------------------


async def test_request_goes_to_its_models_route_as_it_is(server: Server) -> None:
    sent = {"model": "qwen/start", "messages": []}
    told = (await server.ask("POST", CHAT, json=sent)).json()
    assert (told["to"], json.loads(told["body"].encode("latin-1"))) == ("Qwen/Qwen3-8B", sent)
    assert "x-keep-alive" not in told["headers"]


@pytest.mark.parametrize("name", ["x-request-id", "x-session-id", "accept", "traceparent", "content-type"])
async def test_header_that_is_no_text_fails_no_request(server: Server, name: str) -> None:
    answer = await server.ask(
        "POST", CHAT, content=b'{"model": "lazy", "user": "u"}', headers={name.encode(): b"\xff\xfe"}
    )
    assert answer.status_code in (200, 503), answer.text


@pytest.mark.parametrize(
    ("said", "headers", "seconds"),
    [
        ({"keep_alive": "5m"}, {}, 300),
        ({"keep_alive": None}, {"x-keep-alive": "5m"}, 300),
        ({}, {"x-keep-alive": "500ms"}, 0.5),
        ({"keep_alive": 0}, {"x-keep-alive": "5m"}, 0),
        ({"keep_alive": -1}, {}, 600),
    ],
)
async def test_word_on_how_long_the_model_stays_is_taken_out_of_the_request(
    server: Server, said: dict[str, object], headers: dict[str, str], seconds: float
) -> None:
    sent = {"model": "Qwen/Qwen3-8B", "messages": [{"role": "user", "content": "ß"}]}
    told = (await server.ask("POST", CHAT, json={**sent, **said}, headers=headers)).json()
    assert json.loads(told["body"].encode("latin-1")) == sent
    assert float(told["headers"]["x-keep-alive"]) == seconds


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"model": "Qwen/Qwen3-8B", "keep_alive": "soon"}, 400, "invalid_value", "keep_alive"),
        ({"model": "base"}, 400, "wrong_mode", "model"),
        ({"model": "nope"}, 404, "model_not_found", "model"),
        ({"model": "Qwen--Qwen3-8B"}, 404, "model_not_found", "model"),
        ({}, 400, "missing_required_parameter", "model"),
        ({"model": "x" * 20_000}, 413, "request_too_large", None),
        ({"model": "lazy"}, 503, "model_not_running", "model"),
    ],
)
async def test_request_that_cannot_be_sent_on_says_why(
    server: Server, body: dict[str, object], status: int, code: str, param: str | None
) -> None:
    answer = await server.ask("POST", CHAT, json=body)
    error_of(answer, status, code, param)
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_chat_model_answers_both_routes(server: Server, path: str) -> None:
    assert (await server.ask("POST", path, json={"model": "Qwen/Qwen3-8B"})).status_code == 200


@pytest.mark.parametrize(
    ("now", "status", "code"),
    [
        (ModelState(State.RUNNING), 200, None),
        (ModelState(State.STARTING), 200, None),
        (ModelState(State.STOPPED), 503, "model_not_running"),
        (ModelState(State.STOPPING), 503, "model_not_running"),
        (ModelState(State.FAILED, "no weights"), 503, "model_load_failed"),
    ],
)
async def test_model_that_may_not_load_by_itself_answers_only_when_it_is_started(
    server: Server, now: ModelState, status: int, code: str | None
) -> None:
    server.models = {"lazy": now}
    answer = await server.ask("POST", CHAT, json={"model": "lazy"})
    assert answer.status_code == status
    if code:
        error_of(answer, status, code, "model" if code == "model_not_running" else None)
        assert int(answer.headers["retry-after"]) > 0


# Usage ---------------------------------------------------------------------------------------------------------------


async def test_usage_is_what_the_keeper_says_of_the_models_own_name(server: Server) -> None:
    server.keeper.says = {"totals": {"requests": 2}, "usage": [{"key": "ci", "requests": 2}]}
    answer = await server.ask("GET", "/api/usage?range=7d&model=qwen/start&group_by=key")
    assert server.keeper.asked == [
        ("/usage/sums", {"range": "7d", "model": "Qwen/Qwen3-8B", "key": None, "group_by": "key"})
    ]
    assert answer.json() == {
        "success": True,
        "message": "2 requests in the last 7d.",
        "range": "7d",
        "group_by": "key",
        **server.keeper.says,
    }


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/api/usage?range=soon", "range"),
        ("/api/usage?range=0h", "range"),
        ("/api/usage?group_by=colour", "group_by"),
        ("/api/metrics/throughput?range=1y", "range"),
    ],
)
async def test_question_about_usage_that_is_none_is_a_400_that_names_it(server: Server, path: str, param: str) -> None:
    failed(await server.ask("GET", path), 400, "invalid_value", param)
    assert server.keeper.asked == []


async def test_throughput_has_a_point_for_each_bucket(server: Server) -> None:
    rows = [
        {"model": "lazy", "time": 60, "requests": 3, "total_tokens": 90, "prompt_tokens": 30, "completion_tokens": 60}
    ]
    server.keeper.says = {"bucket_s": 30, "since": 30.0, "until": 100.0, "rows": rows}
    told = (await server.ask("GET", "/api/metrics/throughput?range=1h")).json()
    (points,) = told["models"].values()
    assert [(p["time"], p["requests_per_s"], p["tokens_per_s"]) for p in points] == [
        (30, 0, 0),
        (60, 0.1, 3),
        (90, 0, 0),
    ]


@pytest.mark.parametrize(
    ("body", "model", "status"),
    [({}, "", 400), ({"model": "nope"}, "", 404), ({"model": "base"}, "base", 400), ({"model": "lazy"}, "lazy", 503)],
)
async def test_request_that_reaches_no_engine_is_recorded_under_a_known_name_or_none(
    server: Server, body: dict[str, str], model: str, status: int
) -> None:
    await server.ask("POST", CHAT, json=body)
    (record,) = server.records
    assert (record.model, record.path, record.status) == (model, CHAT, status)


async def test_stream_is_asked_for_its_usage(server: Server) -> None:
    sent = {"model": "Qwen/Qwen3-8B", "stream": True, "keep_alive": "5m"}
    told = (await server.ask("POST", CHAT, json=sent)).json()
    asked = {"model": "Qwen/Qwen3-8B", "stream": True, "stream_options": {"include_usage": True}}
    assert json.loads(told["body"]) == asked


# Keys ----------------------------------------------------------------------------------------------------------------


async def test_key_sees_its_models_and_no_other(keyed: Server) -> None:
    mine = bearer("lazy-key")
    for path, names in (("/v1/models", "data"), ("/api/models", "models"), ("/v1/system/status", "models")):
        assert len((await keyed.ask("GET", path, headers=bearer("all-key"))).json()[names]) == 3
        (only,) = (await keyed.ask("GET", path, headers=mine)).json()[names]
        assert "lazy" in (only.get("id"), only.get("name"))
    for path in ("/v1/models/base", "/api/models/base"):
        error_of(await keyed.ask("GET", path, headers=mine), 404, "model_not_found", "model")
        assert (await keyed.ask("GET", path, headers=bearer("all-key"))).status_code == 200


async def test_model_of_others_does_not_exist_for_a_key(keyed: Server) -> None:
    mine = bearer("lazy-key")
    refused, unknown = [
        await keyed.ask("POST", CHAT, json={"model": name}, headers=mine) for name in ("qwen/start", "gwen/start")
    ]
    error_of(refused, 404, "model_not_found", "model")
    assert refused.text == unknown.text.replace("gwen", "qwen")
    for what in ("start", "stop"):
        failed(await keyed.ask("POST", f"/api/models/base/{what}", headers=mine), 404, "model_not_found", "model")
    assert keyed.management.done == []


async def test_what_concerns_all_models_needs_a_key_for_all(keyed: Server) -> None:
    for path in ("stop-all", "restart-autostart"):
        answer = await keyed.ask("POST", f"/api/models/{path}", headers=bearer("lazy-key"))
        failed(answer, 403, "permission_denied")
        assert (await keyed.ask("POST", f"/api/models/{path}", headers=bearer("all-key"))).status_code == 200
    assert {name for _, name in keyed.management.done} == {"Qwen/Qwen3-8B", "lazy", "base"}


async def test_response_of_a_model_of_others_does_not_exist_for_a_key(keyed: Server) -> None:
    await keyed.responses.keep("resp_1", "base", Held("base", "http://replica", "s"))
    path = "/v1/responses/resp_1"
    assert (await keyed.ask("GET", path, headers=bearer("all-key"))).status_code == 200
    error_of(await keyed.ask("GET", path, headers=bearer("lazy-key")), 404, "response_not_found", "id")


async def test_health_tells_strangers_no_name_and_no_reason(keyed: Server) -> None:
    keyed.models = {"base": ModelState(State.FAILED, "no weights in /secret")}
    told = (await keyed.ask("GET", "/health")).json()
    assert (told["status"], len(told["issues"])) == ("degraded", 1)
    assert "secret" not in str(told)
    assert "secret" in str((await keyed.ask("GET", "/health", headers=bearer("all-key"))).json())
    assert (await keyed.ask("GET", "/health", headers=bearer("lazy-key"))).json()["issues"] == []


async def test_health_tells_other_machines_no_more_than_strangers(server: Server) -> None:
    server.models = {"base": ModelState(State.FAILED, "no weights in /secret")}
    assert "secret" in str((await server.ask("GET", "/health")).json())
    assert "secret" not in str((await server.ask("GET", "/health", headers={"host": "evil.example"})).json())


async def test_full_queue_of_a_model_is_a_429_for_it_alone(server: Server) -> None:
    queue = server.queues["Qwen/Qwen3-8B"]
    queue.waiting = 1024
    answer = await server.ask("POST", CHAT, json={"model": "qwen/start"})
    error_of(answer, 429, "queue_full", "model")
    assert int(answer.headers["retry-after"]) > 0
    assert (await server.ask("POST", "/v1/completions", json={"model": "base"})).status_code == 200
    queue.waiting = 0
    assert (await server.ask("POST", CHAT, json={"model": "qwen/start"})).status_code == 200
    assert queue.waiting == 0


async def test_private_address_in_a_request_is_a_400_unless_it_is_allowed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": "qwen/start", "messages": [{"content": [{"image_url": {"url": "http://127.0.0.1:8265/"}}]}]}
    error_of(await server.ask("POST", CHAT, json=body), 400, "invalid_url", "messages[0].content[0].image_url.url")
    served(monkeypatch, SETTINGS.model_copy(update={"allow_private_urls": True}))
    assert (await server.ask("POST", CHAT, json=body)).status_code == 200


# build ---------------------------------------------------------------------------------------------------------------

SECRET = "sk-0123456789abcdef"


def settings_of(**args: Any) -> dict[str, Any]:
    """What the ingress is given."""
    bound: Any = build({"models": [{"name": "a", "engine": "echo"}], **args})
    given: dict[str, Any] = bound._bound_deployment.init_args[0]
    return given


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from within Serve, at its own fields
def test_ingress_is_given_hashes_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MANAGER_KEYS", SECRET)
    monkeypatch.setenv("KEY_OF_BOB", SECRET + "bob")
    given = settings_of(keys=[{"name": "bob", "key_env": "KEY_OF_BOB"}])
    assert [key["key_hash"] for key in given["keys"]] == [hash_of(SECRET + "bob"), hash_of(SECRET)]
    assert SECRET not in json.dumps(given)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from within Serve, at its own fields
def test_nothing_is_deployed_behind_haproxy_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(ConfigError, match="HAProxy listens beyond this machine"):
        settings_of()
    assert settings_of(allow_without_keys=True)["keys"] == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from within Serve, at its own fields
@pytest.mark.parametrize(("args", "most"), [({}, None), ({"ingress_replicas_per_node": 1}, 1)])
def test_replicas_of_the_ingress_are_spread_over_nodes_if_they_must(args: dict[str, Any], most: int | None) -> None:
    bound: Any = build({"models": [{"name": "a", "engine": "echo"}], "ingress_replicas": 2, **args})
    deployment = bound._bound_deployment
    assert deployment.num_replicas == 2
    assert deployment._replica_config.max_replicas_per_node == most


# Logs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "Qwen%2FQwen3-8B", "qwen/start"])
async def test_log_is_the_keepers_stream_of_the_models_processes(server: Server, name: str) -> None:
    sent = (await server.ask("GET", f"/api/models/{name}/logs/stream")).json()
    assert (sent["to"], sent["method"]) == ("http://keeper", "GET")
    assert sent["target"] == "/api/logs/stream?model=Qwen--Qwen3-8B"


async def test_log_of_an_unknown_model_is_not_found(server: Server) -> None:
    failed(await server.ask("GET", "/api/models/x/logs/stream"), 404, "model_not_found", "model")
    failed(await server.ask("POST", "/api/logs/x/clear"), 404, "model_not_found", "model")
    assert server.keeper.asked == []


async def test_logs_without_a_keeper_are_an_error(server: Server) -> None:
    server.keeper.gone = True
    failed(await server.ask("GET", "/api/models/lazy/logs/stream"), 503, "keeper_gone")
    failed(await server.ask("GET", "/api/logs/stats"), 503, "keeper_gone")


async def test_logs_are_counted_by_the_names_of_the_models(server: Server) -> None:
    server.keeper.says = {"lazy": {"log_count": 1, "subscriber_count": 2}, "of another configuration": {"log_count": 9}}
    answer = (await server.ask("GET", "/api/logs/stats")).json()
    assert answer["success"] is True
    none = {"log_count": 0, "subscriber_count": 0}
    assert answer["stats"] == {
        "total_models": 3,
        "total_log_entries": 1,
        "models_with_logs": 1,
        "total_subscribers": 2,
        "model_stats": {
            "Qwen/Qwen3-8B": none,
            "lazy": {"log_count": 1, "subscriber_count": 2},
            "base": none,
        },
    }


@pytest.mark.parametrize(("query", "minutes"), [("", 0), ("?keep_minutes=0", 0), ("?keep_minutes=1.5", 1.5)])
async def test_log_is_cleared(server: Server, query: str, minutes: float) -> None:
    server.keeper.says = {"deleted": 7}
    answer = (await server.ask("POST", f"/api/logs/qwen/start/clear{query}")).json()
    assert (answer["success"], answer["deleted"]) == (True, 7)
    assert server.keeper.asked == [("/logs/clear", {"model": "Qwen--Qwen3-8B", "keep_minutes": minutes})]


@pytest.mark.parametrize("minutes", ["-1", "x", "nan", "inf", ""])
async def test_log_is_not_cleared_by_half(server: Server, minutes: str) -> None:
    answer = await server.ask("POST", f"/api/logs/lazy/clear?keep_minutes={minutes}")
    failed(answer, 400, "invalid_value", "keep_minutes")
    assert server.keeper.asked == []


# Requests and history ------------------------------------------------------------------------------------------------


async def test_requests_are_listed_with_their_models(server: Server) -> None:
    server.keeper.says = {"running": [], "tokens_per_second": {}, "rows": [asdict(record(str(n))) for n in (1, 2)]}
    told = (await server.ask("GET", "/api/requests?limit=1")).json()
    assert (told["success"], told["running"], len(told["recent"])) == (True, [], 1)
    assert server.keeper.asked[1] == ("/usage/recent", {"limit": 1, "models": None})
    await server.ask("GET", "/api/requests?model=qwen/start")
    assert server.keeper.asked[-1][1]["models"] == ["Qwen/Qwen3-8B"]


@pytest.mark.parametrize(("query", "code"), [("limit=0", 400), ("limit=1001", 400), ("model=nope", 404)])
async def test_requests_that_cannot_be_listed_are_refused(server: Server, query: str, code: int) -> None:
    assert (await server.ask("GET", f"/api/requests?{query}")).status_code == code


async def test_request_that_does_not_run_is_a_404(server: Server) -> None:
    server.keeper.says = {"found": False}
    failed(await server.ask("POST", "/api/requests/x/y/cancel"), 404, "request_not_found", "id")
    assert server.keeper.asked[0][1]["id"] == "x/y"


async def test_key_for_some_models_sees_and_cancels_their_requests_only(keyed: Server) -> None:
    keyed.keeper.says = {"running": [], "tokens_per_second": {"base": 1.0}, "rows": [], "found": True}
    told = await keyed.ask("GET", "/api/requests", headers=bearer("lazy-key"))
    assert told.json()["tokens_per_second"] == {}
    assert (await keyed.ask("POST", "/api/requests/x/cancel", headers=bearer("lazy-key"))).status_code == 200
    assert [data.get("models") for _, data in keyed.keeper.asked] == [None, ["lazy"], ["lazy"]]
    failed(
        await keyed.ask("GET", "/api/requests?model=base", headers=bearer("lazy-key")), 404, "model_not_found", "model"
    )


@pytest.mark.parametrize(("key", "models"), [("all-key", None), ("lazy-key", ["lazy"])])
async def test_history_is_of_the_models_of_the_key(keyed: Server, key: str, models: list[str] | None) -> None:
    keyed.keeper.says = {"success": True, "times": [1.5]}
    answer = await keyed.ask("GET", "/api/history?range=1h", headers=bearer(key))
    assert (answer.json(), answer.headers["content-type"]) == (keyed.keeper.says, "application/json")
    assert keyed.keeper.asked == [("/history", {"range": "1h", "models": models})]


@pytest.mark.parametrize("range_", ["25h", "2d", "soon"])
async def test_history_is_of_a_day_at_most(server: Server, range_: str) -> None:
    failed(await server.ask("GET", f"/api/history?range={range_}"), 400, "invalid_value", "range")
