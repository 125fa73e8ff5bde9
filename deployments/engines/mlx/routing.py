"""What the apps of all kinds of models share: errors in OpenAI's shape, and clients that hang up."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import ApiError, InternalError, InvalidRequest, MethodNotAllowed, RouteNotFound
from deployments.hangup import ClientGone

log = logging.getLogger("ray.serve.llm_manager")

Endpoint = Callable[[Request], Awaitable[Response]]


def application(routes: Sequence[Route]) -> Starlette:
    handlers: Any = {
        ApiError: _api_error,
        HTTPException: _http_exception,
        ClientGone: _client_gone,
        ClientDisconnect: _client_gone,
    }
    return Starlette(routes=list(routes), exception_handlers=handlers)


def guarded(endpoint: Endpoint) -> Endpoint:
    """Starlette's own last resort raises again once it has answered, and the server then drops the connection."""

    @functools.wraps(endpoint)
    async def safe(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (ApiError, HTTPException, ClientGone, ClientDisconnect):
            raise
        except Exception as error:
            raise InternalError("The request failed.") from error

    return safe


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
