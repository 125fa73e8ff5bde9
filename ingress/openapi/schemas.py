"""The named schemas of the document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from deployments.config import Mode
from deployments.errors import ApiError, family
from deployments.history.intervals import Kind
from ingress.running import REQUEST_STATES
from ingress.states import State

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
OBJECT: Schema = {"type": "object"}
OBJECTS: Schema = {"type": "array", "items": OBJECT}
TEXTS: Schema = {"type": "array", "items": TEXT}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def map_of(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def record(fields: Mapping[str, Schema]) -> Schema:
    """An object that has all these fields, and may have more."""
    return {"type": "object", "properties": dict(fields), "required": list(fields)}


def constant(value: object) -> Schema:
    return {"const": value}


def _types(errors: tuple[type[ApiError], ...]) -> list[str]:
    return sorted({error.type for error in errors})


_STATE: Schema = {"type": "string", "enum": [state.value for state in State]}
_ERROR = record(
    {
        "message": TEXT,
        "type": {"type": "string", "enum": _types(family())},
        "param": or_null(TEXT),
        "code": or_null(TEXT),
    }
)
_CARD = record(
    {
        "id": TEXT,
        "object": constant("model"),
        "created": COUNT,
        "owned_by": TEXT,
        "permission": OBJECTS,
        "root": TEXT,
        "parent": or_null(TEXT),
        "aliases": TEXTS,
        "status": _STATE,
    }
)
_MODEL = record(
    {
        "name": TEXT,
        "aliases": TEXTS,
        "mode": {"type": "string", "enum": list(get_args(Mode))},
        "engine": TEXT,
        "status": _STATE,
        "failure_reason": or_null(TEXT),
        "replicas": COUNT,
        "nodes": TEXTS,
        "pending_requests": COUNT,
        "running_requests": COUNT,
        "loaded_at": or_null(NUMBER),
        "last_used_at": or_null(NUMBER),
        "idle_seconds": or_null(NUMBER),
        "memory_bytes": COUNT,
        "context_length": or_null(COUNT),
        "auto_start": BOOLEAN,
        "auto_load": BOOLEAN,
        "pinned": BOOLEAN,
    }
)
_REQUEST = record(
    {
        "id": TEXT,
        "request_id": TEXT,
        "key": TEXT,
        "model": TEXT,
        "path": TEXT,
        "state": {"type": "string", "enum": list(REQUEST_STATES)},
        "status": or_null(COUNT),
        "began_at": NUMBER,
        "queue_ms": NUMBER,
        "ttft_ms": or_null(NUMBER),
        "total_ms": NUMBER,
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "cached_tokens": COUNT,
        "streamed": BOOLEAN,
        "from_cache": BOOLEAN,
        "replica": TEXT,
    }
)
_INTERVAL = record(
    {
        "model": TEXT,
        "state": {"type": "string", "enum": list(get_args(Kind))},
        "from": NUMBER,
        "until": or_null(NUMBER),
        "reason": TEXT,
    }
)

SCHEMAS: dict[str, Schema] = {
    "ErrorObject": _ERROR,
    "Error": record({"error": ref("ErrorObject")}),
    "ManagementError": record({"success": constant(False), "message": TEXT, "error": ref("ErrorObject")}),
    "AnthropicError": record({"type": constant("error"), "error": ref("ErrorObject")}),
    "Card": _CARD,
    "Model": _MODEL,
    "Request": _REQUEST,
    "Interval": _INTERVAL,
}
