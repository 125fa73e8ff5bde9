"""Answers against OpenAI's own schemas of them, in openai.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012


def violations(name: str, answer: object) -> list[str]:
    """Where the answer is not as the schema `name` says."""
    return sorted(f"{error.json_path}: {error.message}" for error in _validator(name).iter_errors(answer))


@cache
def _validator(name: str) -> Draft202012Validator:
    document = _with_nulls(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))
    registry: Registry[Any] = Registry().with_resource("urn:openai", DRAFT202012.create_resource(document))
    return Draft202012Validator({"$ref": f"urn:openai#/components/schemas/{name}"}, registry=registry)


def _with_nulls(schema: Any) -> Any:
    """`nullable`, a word of OpenAPI 3.0 that OpenAI's document still has, as JSON Schema says it."""
    if isinstance(schema, list):
        return [_with_nulls(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _with_nulls(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain
