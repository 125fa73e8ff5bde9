"""Sends what the document allows, and what it does not, and holds the answers against it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import Case, GenerationMode, Response
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema

from deployments.errors import family

UNAVAILABLE = {error.default_code for error in family() if error.status in (503, 504)}
ENDLESS = frozenset({"/api/models/stream", "/api/models/{alias}/logs/stream"})
CHECKS = (checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance)
MODEL_NAMES = ("model", "alias")


def operations(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Method and path of all that end."""
    return [(m.upper(), path) for path, item in document["paths"].items() for m in item if path not in ENDLESS]


def schema_of(document: dict[str, Any], models: Sequence[str]) -> OpenApiSchema:
    """The document, with these models as the only ones that a good request may name."""
    narrowed = copy.deepcopy(document)
    for item in narrowed["paths"].values():
        for operation in item.values():
            _name_models(operation, {"type": "string", "enum": list(models)})
    return schemathesis.openapi.from_dict(narrowed)


def conforms(
    schema: OpenApiSchema,
    method: str,
    path: str,
    ask: Callable[[Case[Any]], Response],
    *,
    examples: int,
) -> set[int]:
    """Asks with `examples` good and as many bad requests. Returns the statuses of all answers."""
    seen: set[int] = set()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        operation = schema[path][method]
        if mode is GenerationMode.NEGATIVE and not (operation.body or list(operation.iter_parameters())):
            continue

        @hypothesis.seed(0)
        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def asked(case: Case[Any]) -> None:
            answer = ask(case)
            seen.add(answer.status_code)
            case.validate_response(answer, checks=[no_failure, *CHECKS])

        asked()
    return seen


def no_failure(_: object, response: Response, case: Case[Any]) -> None:
    """A model may be away, with a code that says so; nothing else is the server's fault."""
    if response.status_code < 500:
        return
    code = response.json()["error"]["code"] if response.status_code in (503, 504) else None
    assert code in UNAVAILABLE, f"{case.operation.label}: {response.status_code} {response.text}"


def _name_models(operation: dict[str, Any], names: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in MODEL_NAMES:
            parameter["schema"] = names
    for schema in _schemas(operation):
        schema["properties"]["model"] = names


def _schemas(operation: dict[str, Any]) -> Iterable[dict[str, Any]]:
    return (content["schema"] for content in operation.get("requestBody", {}).get("content", {}).values())
