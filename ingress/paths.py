"""The path of a request as this application knows it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import Scope


def path_in(request: Request) -> str:
    """Without the application's `route_prefix`."""
    return path_of(request.scope)


def path_of(scope: Scope) -> str:
    """The path that routes are matched with: what rights are asked for it must go by no other. (A URL is made with the
    client's Host header, and may have another one.)"""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path
