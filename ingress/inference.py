"""What an inference request asks for: its model, what the engine gets, and how long the model is to stay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from ingress import body as bodies
from ingress import form, keep_alive

SESSION_HEADER = "x-session-id"


@dataclass(frozen=True)
class Asked:
    """data: of a JSON body; empty of a form."""

    model: str
    body: bytes
    keep_alive_s: float | None
    data: Mapping[str, Any] = field(default_factory=dict)

    def session(self, headers: Mapping[str, str]) -> str:
        """Whose request it is, as far as it says; else empty."""
        said = (headers.get(SESSION_HEADER), self.data.get("prompt_cache_key"), self.data.get("user"))
        return next((session for session in said if isinstance(session, str) and session), "")


async def read(request: Request, max_bytes: int, max_keep_alive_s: float | None) -> Asked:
    """The model is named in the JSON body, in the form, or, where that names none, as `?model=`.

    Raises: InvalidRequest; what `bodies.read` raises.
    """
    body = await bodies.read(request, max_bytes)
    content_type = request.headers.get("content-type", "")
    if form.is_form(content_type):
        return _of_form(request, body, content_type, max_keep_alive_s)
    return _of_json(request, body, max_keep_alive_s)


def _of_form(request: Request, body: bytes, content_type: str, max_keep_alive_s: float | None) -> Asked:
    model = form.model_named(body, content_type) or request.query_params.get("model")
    seconds = keep_alive.take({}, request.headers, max_keep_alive_s)
    return Asked(bodies.model_named({"model": model}), body, seconds)


def _of_json(request: Request, body: bytes, max_keep_alive_s: float | None) -> Asked:
    data = bodies.parse(body)
    changed = keep_alive.FIELD in data  # no engine knows the field
    if data.get("model") is None and "model" in request.query_params:
        data["model"] = request.query_params["model"]  # engines read the body alone
        changed = True
    seconds = keep_alive.take(data, request.headers, max_keep_alive_s)
    return Asked(bodies.model_named(data), json.dumps(data).encode() if changed else body, seconds, data)
