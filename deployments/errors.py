"""One error family and its OpenAI shape.

ApiError                     status  type                    code
├── InvalidRequest           400     invalid_request_error   (given)
├── InvalidKey               401     authentication_error    invalid_api_key
├── PermissionDenied         403     permission_error        permission_denied
├── ModelNotFound            404     not_found_error         model_not_found
├── RouteNotFound            404     not_found_error         route_not_found
├── ResponseNotFound         404     not_found_error         response_not_found
├── RequestNotFound          404     not_found_error         request_not_found
├── MethodNotAllowed         405     invalid_request_error   method_not_allowed
├── TooSlow                  408     invalid_request_error   request_timeout
├── TooLarge                 413     invalid_request_error   request_too_large
├── RateLimited              429     rate_limit_error        rate_limit_exceeded
├── QueueFull                429     rate_limit_error        queue_full
├── RequestCancelled         499     server_error            request_cancelled
├── InternalError            500     server_error            internal_error
├── ModelNotRunning          503     server_error            model_not_running
├── ModelLoadFailed          503     server_error            model_load_failed
├── ModelLoading             503     server_error            model_loading
├── Capacity                 503     server_error            capacity
├── EngineFailed             503     server_error            engine_failed
├── KeeperGone               503     server_error            keeper_gone
├── StopTimeout              504     server_error            timeout
└── UpstreamTimeout          504     server_error            timeout

Code raises these; the ingress and the engines' apps render them with `body()`. Nothing else builds an error answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

RETRY_HEADER = "x-replica-retry"
"""On a replica's answer that says nothing about the request: another replica may take it."""


class ApiError(Exception):
    """An error that the client may see: its text is the answer's `message`."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """details: fields that the answer's `error` has beside OpenAI's."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s
        self.details = details or {}

    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`, as OpenAI's API answers."""
        body = error_body(self.message, self.type, self.param, self.code)
        body["error"].update(self.details)
        return body

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


def error_body(message: str, type_: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class InvalidKey(ApiError):
    """No key came with the request, or one that is not known."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "www-authenticate": "Bearer"}


class PermissionDenied(ApiError):
    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class ModelNotFound(ApiError):
    status = 404
    type = "not_found_error"
    default_code = "model_not_found"


class RouteNotFound(ApiError):
    status = 404
    type = "not_found_error"
    default_code = "route_not_found"


class ResponseNotFound(ApiError):
    """Of `/v1/responses`: unknown, or held by a replica that is gone."""

    status = 404
    type = "not_found_error"
    default_code = "response_not_found"


class RequestNotFound(ApiError):
    """No request of that id runs."""

    status = 404
    type = "not_found_error"
    default_code = "request_not_found"


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class TooSlow(ApiError):
    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class TooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class RateLimited(ApiError):
    """A key has used what it may in a minute."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class QueueFull(ApiError):
    """Too many requests wait for a model."""

    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"


class RequestCancelled(ApiError):
    """An operator has ended the request. SDKs do not try it again, as they would after a 409 or a 5xx."""

    status = 499
    default_code = "request_cancelled"


class InternalError(ApiError):
    default_code = "internal_error"


class ModelNotRunning(ApiError):
    status = 503
    default_code = "model_not_running"


class ModelLoadFailed(ApiError):
    status = 503
    default_code = "model_load_failed"


class ModelLoading(ApiError):
    status = 503
    default_code = "model_loading"


class Capacity(ApiError):
    status = 503
    default_code = "capacity"


class EngineFailed(ApiError):
    """The engine behind a replica is broken: the request may be tried on another replica."""

    status = 503
    default_code = "engine_failed"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), RETRY_HEADER: "1"}


class KeeperGone(ApiError):
    """The process that holds logs and figures is away for a moment."""

    status = 503
    default_code = "keeper_gone"


class StopTimeout(ApiError):
    status = 504
    default_code = "timeout"


class UpstreamTimeout(ApiError):
    status = 504
    default_code = "timeout"


def family() -> tuple[type[ApiError], ...]:
    """The tree's members, each of which an answer may be."""
    return tuple(error for error in ApiError.__subclasses__() if error.__module__ == __name__)
