"""Every error of the ingress in OpenAI's shape, the framework's own included."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from deployments.config import path_of
from deployments.errors import ApiError, InternalError, InvalidRequest, MethodNotAllowed, RouteNotFound
from ingress.paths import path_in
from ingress.request_id import request_id

GONE = 499
"""The status of a request whose client did not wait for the answer; nobody reads it."""

logger = logging.getLogger("ray.serve.llm_manager")


def install(api: FastAPI) -> None:
    api.add_exception_handler(ApiError, _api_error)
    api.add_exception_handler(HTTPException, _http_exception)
    api.add_exception_handler(RequestValidationError, _validation_error)
    api.add_exception_handler(ClientDisconnect, _gone)
    api.add_exception_handler(Exception, _unexpected)


def render(request: Request, error: ApiError) -> Response:
    return JSONResponse(shaped(error.body(), path_in(request)), error.status, error.headers())


def shaped(body: dict[str, Any], path: str) -> dict[str, Any]:
    """An error's `{"error": …}` as those who ask for the path read it: under `/v1/messages` that is Anthropic's SDK."""
    if path.startswith("/api/"):
        return {"success": False, "message": body["error"]["message"], **body}
    if is_anthropics(path):
        return {"type": "error", **body}
    return body


def as_event(body: dict[str, Any], path: str) -> dict[str, Any]:
    """As `shaped`, for the middle of a stream: those of `/api/` name the type of each event."""
    return {"type": "error", **shaped(body, path)} if path.startswith("/api/") else shaped(body, path)


def error_event(error: ApiError, path: str, tail: bytes) -> bytes:
    """What ends a stream that has begun. tail: its last two bytes: its last event may be torn."""
    gap = b"" if tail == b"\n\n" else b"\n\n"
    name = b"event: error\n" if is_anthropics(path) else b""
    return gap + name + b"data: " + json.dumps(as_event(error.body(), path)).encode() + b"\n\n"


def is_anthropics(path: str) -> bool:
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def status_of(error: BaseException) -> int:
    """What a request ends with that ended so."""
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, Exception) and not isinstance(error, ClientDisconnect):
        return InternalError.status
    return GONE


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return render(request, error)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return render(request, RouteNotFound(f"{what} is not a route of this server."))
    if error.status_code == 405:
        response = render(request, MethodNotAllowed(f"{what}: this route does not take that method."))
        response.headers.update(error.headers or {})
        return response
    return render(request, InvalidRequest(str(error.detail)))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return render(request, InvalidRequest(first["msg"], param=path_of(first["loc"][1:]) or None))


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=GONE)


async def _unexpected(request: Request, error: Exception) -> Response:
    id_ = request_id(request.scope)
    logger.error(f"Request {id_} failed.", exc_info=error)
    return render(request, InternalError(f"The server failed to answer this request. request_id: {id_}"))
