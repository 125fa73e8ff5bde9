"""A server that has the console, and behind it the routes that it asks for, with what a test puts there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from deployments import sse
from deployments.errors import ApiError, InvalidKey, InvalidRequest, PermissionDenied
from ingress import errors
from ingress.console import console
from tests.e2e.serving import free_port, wait_for

GB = 2**30
LOOK_S = 0.05


def row(name: str, status: str = "stopped", **more: Any) -> dict[str, Any]:
    """A model as `/api/models` shows it."""
    up = status == "running"
    return {
        "name": name,
        "aliases": [],
        "parent": None,
        "pool": None,
        "mode": "chat",
        "engine": "mlx",
        "placement": name,
        "not_placed": {},
        "status": status,
        "failure_reason": None,
        "reason": "",
        "loading": None,
        "replicas": int(up),
        "nodes": ["10.0.0.1"] if up else [],
        "pending_requests": 0,
        "running_requests": 0,
        "loaded_at": time.time() - 300 if up else None,
        "last_used_at": None,
        "idle_seconds": None,
        "unloads_at": None,
        "memory_bytes": 2 * GB if up else 0,
        "memory_needed_bytes": None,
        "context_length": 8192 if up else None,
        "auto_start": False,
        "auto_load": True,
        "pinned": False,
        "priority": 0,
        **more,
    }


def request(id_: str, state: str = "done", **more: Any) -> dict[str, Any]:
    """As `/api/requests` shows one."""
    ended = state not in ("waiting", "running")
    return {
        "id": id_,
        "request_id": f"req-{id_}",
        "key": "alice",
        "model": "qwen3-8b",
        "path": "/v1/chat/completions",
        "state": state,
        "status": (200 if state == "done" else 500) if ended else None,
        "began_at": time.time() - 5,
        "queue_ms": 12,
        "ttft_ms": 180,
        "total_ms": 4200,
        "prompt_tokens": 812,
        "completion_tokens": 96,
        "cached_tokens": 0,
        "streamed": True,
        "from_cache": False,
        "replica": "r1",
        **more,
    }


def node(name: str, address: str, **devices: Any) -> dict[str, Any]:
    cpu = {"cpu_count": 16, "memory_total": 65536, "memory_used": 30000, "memory_free": 35536, "utilization": 34.0}
    shown = {"cpu": {"online": True, "info": {**cpu, "load_average": 3.1}}, **devices}
    here = {"node_id": name, "address": address, "host_name": name, "head": address.endswith(".1")}
    return {**here, "online": True, "devices": shown}


class Fake:
    """models, requests and history are what the routes tell, and may be changed at any time."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = []
        self.nodes = [node("studio", "10.0.0.1")]
        self.running: list[dict[str, Any]] = []
        self.recent: list[dict[str, Any]] = []
        self.rates: dict[str, float] = {}
        self.history: dict[str, Any] | None = None
        self.log: list[dict[str, Any]] = []
        self.lines_per_minute = 0
        self.key = ""
        self.rights = ("use", "manage")
        self.refusal: ApiError | None = None  # of starts and stops
        self.delta_s = 0.0
        self.bodies: list[dict[str, Any]] = []
        self.posted: list[str] = []
        self.streams_away = False
        self.api = FastAPI()
        errors.install(self.api)
        console.install(self.api)
        self._routes()

    def model(self, name: str) -> dict[str, Any]:
        return next(one for one in self.models if one["name"] == name)

    def _routes(self) -> None:
        manage: dict[str, Callable[..., Any]] = {
            "/api/requests": self._requests,
            "/api/history": self._history,
            "/api/models/{name:path}/logs/stream": self._log,
        }
        look: dict[str, Callable[..., Any]] = {
            "/api/models/stream": self._stream,
            "/api/models": self._models,
            "/api/devices/info": self._devices,
        }
        for path, handler in {**look, **manage}.items():
            right = "manage" if path in manage else "use"
            self.api.add_api_route(path, self._guarded(handler, right), methods=["GET"])
        self.api.add_api_route("/api/models/{name:path}/{what}", self._guarded(self._act, "manage"), methods=["POST"])
        self.api.add_api_route("/api/requests/{id}/cancel", self._guarded(self._cancel, "manage"), methods=["POST"])
        self.api.add_api_route("/api/logs/{name:path}/clear", self._guarded(self._clear, "manage"), methods=["POST"])
        self.api.add_api_route("/v1/chat/completions", self._guarded(self._chat, "use"), methods=["POST"])

    def _guarded(self, handler: Callable[[Request], Any], right: str) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                raise InvalidKey("A key is needed: Authorization: Bearer …")
            if right not in self.rights and "manage" not in self.rights:
                raise PermissionDenied(f"The key 'x' has not the right to {right}.")
            answer: Response = await handler(request)
            return answer

        return guarded

    async def _models(self, _: Request) -> Response:
        return _told(models=self.models)

    async def _stream(self, _: Request) -> Response:
        return StreamingResponse(self._changes(), media_type="text/event-stream", headers=sse.HEADERS)

    async def _changes(self) -> AsyncIterator[bytes]:
        told: dict[str, str] = {one["name"]: json.dumps(one) for one in self.models}
        yield sse.event({"type": "models", "models": self.models})
        while not self.streams_away:
            for one in self.models:
                if told.get(one["name"]) != json.dumps(one):
                    told[one["name"]] = json.dumps(one)
                    yield sse.event({"type": "model", "model": one})
            await asyncio.sleep(LOOK_S)

    async def _devices(self, _: Request) -> Response:
        return _told(devices={}, nodes=self.nodes)

    async def _requests(self, _: Request) -> Response:
        return _told(running=self.running, recent=self.recent, tokens_per_second=self.rates)

    async def _history(self, _: Request) -> Response:
        return _told(**self.history) if self.history else JSONResponse({}, 404)

    async def _act(self, request: Request) -> Response:
        name, what = request.path_params["name"], request.path_params["what"]
        self.posted.append(f"{name} {what}")
        if self.refusal is not None:
            raise self.refusal
        changed: dict[str, dict[str, Any]] = {
            "start": {"status": "running"},
            "stop": {"status": "stopped"},
            "pin": {"pinned": True},
        }
        self.model(name).update(changed.get(what, {"pinned": False}))
        return _told()

    async def _cancel(self, request: Request) -> Response:
        self.running = [one for one in self.running if one["id"] != request.path_params["id"]]
        return _told()

    async def _clear(self, _: Request) -> Response:
        deleted, self.log = len(self.log), []
        return _told(deleted=deleted)

    async def _log(self, _: Request) -> Response:
        return StreamingResponse(self._lines(), media_type="text/event-stream", headers=sse.HEADERS)

    async def _lines(self) -> AsyncIterator[bytes]:
        history = [sse.event({"type": "historical", "log": one}) for one in self.log]
        for start in range(0, len(history), 500):
            yield b"".join(history[start : start + 500])
        yield sse.event({"type": "historical_complete"})
        began, sent = time.monotonic(), 0
        while True:
            await asyncio.sleep(LOOK_S)
            due = int((time.monotonic() - began) * self.lines_per_minute / 60)
            lines = [line(f"INFO line {i} of many, with some words behind it") for i in range(sent, due)]
            sent = due
            yield b"".join(sse.event({"type": "realtime", "log": one}) for one in lines) or b": ping\n\n"

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if isinstance(body["messages"][-1]["content"], list):
            raise InvalidRequest("This model takes no pictures.", param="messages[0].content")
        return StreamingResponse(self._words(body), media_type="text/event-stream", headers=sse.HEADERS)

    async def _words(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            return sse.event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        yield chunk({"role": "assistant", "content": ""})
        if body.get("tools"):
            call = {"index": 0, "id": "1", "function": {"name": "weather", "arguments": '{"city": '}}
            yield chunk({"tool_calls": [call]})
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]})
        else:
            yield chunk({"reasoning_content": "Let me think."})
            for word in body["messages"][-1]["content"].split(" "):
                yield chunk({"content": f"{word} "})
                await asyncio.sleep(self.delta_s)
        yield chunk({}, "tool_calls" if body.get("tools") else "stop")
        yield sse.event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 12}})
        yield b"data: [DONE]\n\n"


def line(message: str, level: str = "info", at: float | None = None) -> dict[str, Any]:
    """A line of a log."""
    return {"timestamp": at or time.time(), "level": level, "message": message, "replica": "r1"}


def _told(**fields: Any) -> Response:
    return JSONResponse({"success": True, "message": "", **fields})


@contextlib.contextmanager
def running(fake: Fake) -> Iterator[str]:
    """Where it answers."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(fake.api, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for("the server is up", lambda: server.started, 10)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)
