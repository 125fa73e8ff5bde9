"""Which errors a route may answer with, and how the document tells of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from deployments.errors import (
    ApiError,
    Capacity,
    EngineFailed,
    InternalError,
    InvalidKey,
    InvalidRequest,
    KeeperGone,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    ModelNotRunning,
    PermissionDenied,
    QueueFull,
    RateLimited,
    RequestCancelled,
    RequestNotFound,
    ResponseNotFound,
    StopTimeout,
    TooLarge,
    TooSlow,
    UpstreamTimeout,
    family,
)
from ingress.endpoints import ENDPOINTS, FOLLOW_UPS
from ingress.errors import is_anthropics
from ingress.keys import USE, rights_for
from ingress.openapi.schemas import TEXT, ref

Errors = tuple[type[ApiError], ...]

_READING: Errors = (InvalidRequest, TooSlow, TooLarge)
_LOADING: Errors = (ModelNotRunning, ModelLoadFailed, ModelLoading, Capacity, EngineFailed)
_INFERENCE: Errors = (*_READING, ModelNotFound, QueueFull, *_LOADING, RequestCancelled, UpstreamTimeout)
_OF_PATH: dict[str, Errors] = {
    **{endpoint.path: _INFERENCE for endpoint in ENDPOINTS},
    **{
        endpoint.path: (*_READING, ResponseNotFound, EngineFailed, RequestCancelled, UpstreamTimeout)
        for endpoint in FOLLOW_UPS
    },
    "/api/models/{alias}/start": (*_LOADING, StopTimeout),
    "/api/models/{alias}/stop": (StopTimeout,),
    "/api/models/{alias}/pin": (UpstreamTimeout,),
    "/api/models/{alias}/unpin": (UpstreamTimeout,),
    "/api/requests": (KeeperGone,),
    "/api/requests/{id}/cancel": (RequestNotFound, KeeperGone),
    "/api/history": (KeeperGone,),
    "/api/models/stop-all": (StopTimeout,),
    "/api/models/restart-autostart": (*_LOADING, StopTimeout),
    "/api/models/{alias}/logs/stream": (KeeperGone,),
    "/api/logs/stats": (KeeperGone,),
    "/api/logs/{alias}/clear": (KeeperGone,),
    "/api/usage": (KeeperGone,),
    "/api/metrics/throughput": (KeeperGone,),
    "/api/cache/stats": (KeeperGone,),
    "/api/cache/clear": (KeeperGone,),
    "/api/devices/info": (UpstreamTimeout,),
}
_RETRIED = frozenset({429, 503})
_MODELS = frozenset({"alias", "model"})
"""Parameters that name a model."""


def of(method: str, path: str, parameters: Collection[str]) -> dict[str, Any]:
    """The document's `responses` that are errors, by status."""
    shape = _shape(path)
    statuses = sorted({error.status for error in raised(method, path, parameters)})
    return {str(status): {"$ref": f"#/components/responses/{shape}{status}"} for status in statuses}


def raised(method: str, path: str, parameters: Collection[str]) -> set[type[ApiError]]:
    errors: set[type[ApiError]] = {InternalError, *_OF_PATH.get(path, ())}
    rights = rights_for(method, path)
    if rights:
        errors |= {InvalidKey, PermissionDenied}
    if rights == USE:
        errors.add(RateLimited)
    if parameters:
        errors.add(InvalidRequest)
    if not _MODELS.isdisjoint(parameters) or path == "/v1/models/{id}":
        errors.add(ModelNotFound)
    return errors


def _shape(path: str) -> str:
    if path.startswith("/api/"):
        return "ManagementError"
    return "AnthropicError" if is_anthropics(path) else "Error"


def _responses(shape: str, errors: Iterable[type[ApiError]]) -> dict[str, Any]:
    """Of each status, told with the codes that stand for it."""
    codes: dict[int, list[str]] = {}
    for error in errors:
        codes.setdefault(error.status, []).append(error.default_code or error.type)
    return {f"{shape}{status}": _response(shape, status, sorted(set(of))) for status, of in codes.items()}


def _response(shape: str, status: int, codes: list[str]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": f"With a code such as {', '.join(f'`{code}`' for code in codes)}.",
        "content": {"application/json": {"schema": ref(shape)}},
    }
    if status in _RETRIED:
        response["headers"] = {"Retry-After": {"description": "Seconds, where they are known.", "schema": TEXT}}
    return response


RESPONSES = {
    name: response
    for shape in ("Error", "ManagementError", "AnthropicError")
    for name, response in _responses(shape, family()).items()
}
