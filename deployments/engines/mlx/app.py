"""The OpenAI routes of one loaded model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.engines.mlx import chat, completions
from deployments.engines.mlx.model import Model
from deployments.engines.mlx.protocol import ChatRequest, CompletionRequest
from deployments.engines.mlx.responses import EventStream
from deployments.engines.mlx.serving import Plan, events, whole
from deployments.engines.mlx.validation import parse
from deployments.errors import ApiError, InternalError, InvalidRequest, MethodNotAllowed, RouteNotFound
from deployments.hangup import ClientGone, unless_gone

log = logging.getLogger("ray.serve.llm_manager")

Endpoint = Callable[[Request], Awaitable[Response]]


def build_app(model: Model) -> Starlette:
    @_guarded
    async def chat_completions(request: Request) -> Response:
        return await _answer(request, await chat.plan(parse(ChatRequest, await request.body()), model))

    @_guarded
    async def text_completions(request: Request) -> Response:
        body = parse(CompletionRequest, await request.body())
        return await _answer(request, await completions.plan(body, model))

    async def _answer(request: Request, plan: Plan) -> Response:
        if not plan.stream:
            return JSONResponse(await unless_gone(request.receive, whole(plan, model.generator)))
        stream = events(plan, model.generator)
        return EventStream(await unless_gone(request.receive, anext(stream)), stream)  # type: ignore[arg-type]

    async def health(_: Request) -> Response:
        model.generator.check()
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", text_completions, methods=["POST"]),
        Route("/health", health, methods=["GET"]),
    ]
    handlers: Any = {
        ApiError: _api_error,
        HTTPException: _http_exception,
        ClientGone: _client_gone,
        ClientDisconnect: _client_gone,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Starlette's own last resort raises again once it has answered, and the server then drops the connection."""

    @functools.wraps(endpoint)
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (ApiError, HTTPException, ClientGone, ClientDisconnect):
            raise
        except Exception as error:
            raise InternalError("The request failed.") from error

    return guarded


async def _api_error(request: Request, error: ApiError) -> Response:
    if isinstance(error, InternalError):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse(error.body(), error.status, error.headers())


async def _http_exception(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        refusal: ApiError = MethodNotAllowed(f"{request.url.path} does not answer {request.method}.")
    elif error.status_code == 404:
        refusal = RouteNotFound(f"{request.method} {request.url.path} is not a route of this model.")
    else:
        refusal = InvalidRequest(error.detail)
    return JSONResponse(refusal.body(), refusal.status, error.headers)


async def _client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
