"""CORS for the origins that the running application's settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_RATES = tuple(f"x-ratelimit-{w}-{kind}" for kind in ("requests", "tokens") for w in ("limit", "remaining", "reset"))
EXPOSED = ("x-request-id", "retry-after", *_RATES)


class Api(FastAPI):
    """A FastAPI whose every answer may be read by web pages of these origins, 500s too: middleware that is added to a
    FastAPI does not see those."""

    def __init__(self, origins: Callable[[], tuple[str, ...]], **more: Any) -> None:
        """origins: asked at each request; none is no CORS."""
        super().__init__(**more)
        self._origins = origins

    def build_middleware_stack(self) -> ASGIApp:
        return _Cors(super().build_middleware_stack(), self._origins)


class _Cors:
    def __init__(self, app: ASGIApp, origins: Callable[[], tuple[str, ...]]) -> None:
        self._app = app
        self._origins = origins
        self._made: dict[tuple[str, ...], ASGIApp] = {(): app}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins = self._origins() if scope["type"] == "http" else ()
        if origins not in self._made:
            self._made[origins] = CORSMiddleware(
                self._app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED
            )
        await self._made[origins](scope, receive, send)
