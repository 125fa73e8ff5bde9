"""The document: FastAPI's, with bodies, answers, failures and keys."""

from __future__ import annotations

from typing import Any

from ingress.cors import Api
from ingress.endpoints import ENDPOINTS, FOLLOW_UPS
from ingress.keys import rights_for
from ingress.openapi import failures, requests, successes
from ingress.openapi.schemas import SCHEMAS

_INFERENCE = {endpoint.path for endpoint in (*ENDPOINTS, *FOLLOW_UPS)}
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "One of the server's `keys`, where it has any."},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same, as Anthropic sends it.",
    },
}
_ANY_SCHEME: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]


class Documented(Api):
    """A FastAPI whose document is complete, and which tries the routes that were included last first: Serve includes
    the methods of the class that it serves, among them all that lead to engines."""

    def include_router(self, *args: Any, **options: Any) -> None:
        routes = self.router.routes
        before = list(routes)
        super().include_router(*args, **options)
        routes[:] = [*routes[len(before) :], *before]

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = completed(super().openapi())
        return self.openapi_schema


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """document: FastAPI's."""
    paths = {
        path: {method: _operation(method.upper(), path, operation) for method, operation in item.items()}
        for path, item in document["paths"].items()
    }
    components = {"schemas": SCHEMAS, "responses": failures.RESPONSES, "securitySchemes": _SCHEMES}
    return {**document, "paths": paths, "components": components}


def _operation(method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    parameters = [*map(_without_example, operation.get("parameters", [])), *requests.parameters(path)]
    whole = {
        **operation,
        "tags": [_tag(path)],
        "security": _ANY_SCHEME if rights_for(method, path) else [],
        "responses": {
            **successes.of(path, {parameter["name"] for parameter in parameters}),
            **failures.of(method, path, {parameter["name"] for parameter in parameters}),
        },
    }
    if parameters:
        whole["parameters"] = parameters
    if body := requests.body(path):
        whole["requestBody"] = body
    return whole


def _without_example(parameter: dict[str, Any]) -> dict[str, Any]:
    """Serve pickles the app, and FastAPI's mark for "none" comes out of that as an example."""
    return {key: value for key, value in parameter.items() if key != "example"}


def _tag(path: str) -> str:
    if path in _INFERENCE:
        return "inference"
    return "management" if path.startswith("/api/") else "system"
