"""A real server against its own OpenAPI document."""

from __future__ import annotations

import json
import warnings
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving
from tests.openapi.conformance import ENDLESS, conforms, operations, schema_of

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from ingress.app import api

APPLICATIONS = ("schema",)
MODELS = ["org/chat", "parrot", "base", "vectors", "nope"]


@pytest.fixture(scope="module")
def document(serving: Serving) -> dict[str, Any]:
    answer = httpx.get(f"{serving.url}/schema/openapi.json", timeout=30)
    assert answer.status_code == 200
    told: dict[str, Any] = answer.json()
    return told


def test_document_is_that_of_the_source(document: dict[str, Any]) -> None:
    assert document["paths"] == json.loads(json.dumps(api.openapi()["paths"]))


@pytest.mark.parametrize(("method", "path"), operations(api.openapi()))
def test_answers_are_those_of_the_document(serving: Serving, document: dict[str, Any], method: str, path: str) -> None:
    url = f"{serving.url}/schema"
    examples = 1 if (method, path.startswith("/api/models")) == ("POST", True) else 4  # models come and go
    seen = conforms(schema_of(document, MODELS), method, path, lambda case: case.call(base_url=url), examples=examples)
    assert seen - {401, 403}


@pytest.mark.parametrize("path", sorted(ENDLESS))
def test_streams_that_never_end_are_events(serving: Serving, path: str) -> None:
    url = f"{serving.url}/schema{path.format(alias='parrot')}"
    with httpx.stream("GET", url, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert next(answer.iter_lines())
