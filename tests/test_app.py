"""The routes, over parts that answer at once: which one a path leads to, and what the client gets."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from deployments.config import ModelConfig, Settings
from deployments.errors import ApiError, ModelLoadFailed, StopTimeout
from deployments.residency.board import Board, Kind
from ingress import states
from ingress.catalog import Catalog, Entry
from ingress.forward import Forwarder, Onlooker, Upstream
from ingress.leases import Route
from ingress.management import Management
from ingress.responses import Replica, Responses
from ingress.states import ModelState, Reading, State, States

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from ray import serve

    from ingress.app import Ingress, api

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

    async def restart_autostart(self) -> dict[str, str]:
        return {QWEN.name: self.failure.message if self.failure else ""}

    async def _do(self, what: str, model: Entry) -> None:
        self.done.append((what, model.name))
        if self.failure:
            raise self.failure


class Echo(Forwarder):
    """Answers with what a replica would be sent."""

    def __init__(self) -> None:
        pass

    def answer(self, route: Route, upstream: Upstream, onlooker: Onlooker | None = None) -> Response:
        return self._told(str(route), upstream)

    def answer_of(self, replica: Replica, upstream: Upstream, gone: ApiError) -> Response:
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


class Server(PlainIngress):  # type: ignore[misc]
    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.models: dict[str, ModelState] = {}
        self.failure: Exception | None = None
        self.board = Wishes()
        self.root = ""
        self._settings = settings
        self._catalog = Catalog(settings.models)
        self._states = States(self._read)
        self._management = self.management = Done(self._states, self.board)
        self._routes = {model.name: model.name for model in self._catalog}
        self._forwarder = Echo()
        self._responses = self.responses = Responses("app", "10.0.0.1", Memory())

    def _read(self) -> Reading:
        if self.failure:
            raise self.failure
        return Reading(self.models, cap=3)

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(api, raise_app_exceptions=False, root_path=self.root)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, self.root + path, **more)

    async def raw(self, method: str, path: str, **more: Any) -> httpx.Response:
        """`path` as it is written: clients tidy theirs."""

        async def spelled(scope: Scope, receive: Receive, send: Send) -> None:
            await api({**scope, "path": unquote(path), "raw_path": path.encode()}, receive, send)

        transport = httpx.ASGITransport(spelled, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, "/", **more)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(states, "TTL_S", -1.0)
    server = Server()
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=server))
    return server


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


# Inference -----------------------------------------------------------------------------------------------------------


async def test_request_goes_to_its_models_route_as_it_is(server: Server) -> None:
    sent = {"model": "qwen/start", "messages": []}
    told = (await server.ask("POST", CHAT, json=sent)).json()
    assert (told["to"], json.loads(told["body"].encode("latin-1"))) == ("Qwen/Qwen3-8B", sent)
    assert "x-keep-alive" not in told["headers"]


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
