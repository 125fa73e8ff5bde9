"""What `/openapi.json` says of the routes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import BaseRoute, Route

from deployments.errors import family
from ingress.endpoints import ENDPOINTS, FOLLOW_UPS
from ingress.keys import OPEN
from tests.test_app import SETTINGS, served

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from ingress.app import api

DOCUMENT = api.openapi()
OPERATIONS = [(m.upper(), path, o) for path, item in DOCUMENT["paths"].items() for m, o in item.items()]
FORMS = {"/v1/audio/transcriptions", "/v1/audio/translations"}


def resolved(reference: str) -> Any:
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def every(key: str, within: Any) -> Iterator[Any]:
    if isinstance(within, dict):
        for name, value in within.items():
            if name == key:
                yield value
            yield from every(key, value)
    elif isinstance(within, list):
        for value in within:
            yield from every(key, value)


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def flat(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """FastAPI 0.137 and later keeps those of an included router together."""
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from [route] if included is None else flat(included.routes)


def test_every_route_is_described() -> None:
    paths = {r.path_format for r in flat(api.routes) if isinstance(r, Route) and r.include_in_schema}
    assert paths == DOCUMENT["paths"].keys()
    assert {endpoint.path for endpoint in (*ENDPOINTS, *FOLLOW_UPS)} <= paths


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    references = set(every("$ref", DOCUMENT))
    assert references
    for reference in references:
        assert resolved(reference)
    for schema in every("schema", DOCUMENT["paths"]):
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", [endpoint.path for endpoint in ENDPOINTS])
def test_inference_names_its_model_in_the_body(path: str) -> None:
    body = operation("POST", path)["requestBody"]
    kind = "multipart/form-data" if path in FORMS else "application/json"
    assert body["content"].keys() == {kind}
    schema = body["content"][kind]["schema"]
    assert "model" in schema["required"]
    assert schema["properties"]["model"]["type"] == "string"
    assert schema["properties"].keys() >= set(schema["required"])
    assert schema["additionalProperties"] is True


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/models/stream"]
)
def test_streams_are_events(path: str) -> None:
    (content,) = (o["responses"]["200"]["content"] for _, at, o in OPERATIONS if at == path)
    assert "text/event-stream" in content


@pytest.mark.parametrize(("method", "path"), [(m, path) for m, path, _ in OPERATIONS])
def test_every_error_is_of_the_family_and_has_the_shape_of_its_path(method: str, path: str) -> None:
    responses = operation(method, path)["responses"]
    assert "500" in responses
    assert not {"default", "422"} & responses.keys()
    failures = {status: resolved(r["$ref"]) for status, r in responses.items() if status >= "400"}
    assert {int(status) for status in failures} <= {error.status for error in family()}
    for failure in failures.values():
        shape = resolved(failure["content"]["application/json"]["schema"]["$ref"])
        assert "error" in shape["required"]
        assert ("success" in shape["required"]) == path.startswith("/api/")
        assert ("type" in shape["required"]) == path.startswith("/v1/messages")


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("GET", "/health", {"200", "500"}),
        ("GET", "/v1/models/{id}", {"200", "400", "401", "403", "404", "500"}),
        ("GET", "/api/models", {"200", "401", "403", "500"}),
        ("POST", "/api/models/{alias}/start", {"200", "202", "400", "401", "403", "404", "500", "503", "504"}),
        (
            "POST",
            "/v1/chat/completions",
            {"200", "400", "401", "403", "404", "408", "413", "429", "499", "500", "503", "504"},
        ),
    ],
)
def test_statuses_are_those_that_the_route_can_answer(method: str, path: str, statuses: set[str]) -> None:
    assert operation(method, path)["responses"].keys() == statuses


@pytest.mark.parametrize(("method", "path"), [(m, path) for m, path, _ in OPERATIONS])
def test_only_open_paths_need_no_key(method: str, path: str) -> None:
    security = operation(method, path)["security"]
    assert (security == []) == (path in OPEN)
    for scheme in security:
        assert scheme.keys() <= DOCUMENT["components"]["securitySchemes"].keys()


def test_bounds_of_parameters_are_told() -> None:
    parameters = {p["name"]: p["schema"] for p in operation("POST", "/api/logs/{alias}/clear")["parameters"]}
    assert parameters["keep_minutes"]["minimum"] == 0


async def test_pages_of_the_document_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    server = served(monkeypatch, SETTINGS)
    told = await server.ask("GET", "/openapi.json")
    assert told.status_code == 200
    assert told.json()["paths"].keys() == DOCUMENT["paths"].keys()
    for page in ("/docs", "/redoc"):
        assert "/openapi.json" in (await server.ask("GET", page)).text
