"""The id of a request: Serve takes the client's `x-request-id`, or makes one, and puts it on every answer."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope


def request_id(scope: Scope) -> str:
    return Headers(scope=scope).get("x-request-id", "")
