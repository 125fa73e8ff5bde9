"""The path of a request as this application knows it."""

from __future__ import annotations

from starlette.requests import Request


def path_in(request: Request) -> str:
    """Without the application's `route_prefix`."""
    prefix: str = request.scope.get("root_path", "")
    return request.url.path.removeprefix(prefix)
