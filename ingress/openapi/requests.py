"""What the engines' routes take, as far as the server itself cares: engines have more fields, and check them."""

from __future__ import annotations

from typing import Any

from ingress.endpoints import ENDPOINTS
from ingress.inference import SESSION_HEADER
from ingress.keep_alive import FIELD, HEADER
from ingress.openapi.schemas import BOOLEAN, COUNT, NUMBER, OBJECT, TEXT, TEXTS, Schema, list_of, or_null

_ANY: Schema = {}
_MESSAGES: Schema = {**list_of(OBJECT), "minItems": 1}
_TOKENS: Schema = {"type": "integer", "minimum": 1}
_MODEL: Schema = {**TEXT, "description": "A model's name, or one of its aliases."}
_COMMON: dict[str, Schema] = {
    "model": _MODEL,
    FIELD: or_null({"anyOf": [NUMBER, TEXT], "description": "Seconds, or a time such as `5m`; below 0: for ever."}),
}
_STREAMED: dict[str, Schema] = {"stream": or_null(BOOLEAN)}
_CHAT = {"messages": _MESSAGES}
_PAIRS = {"query": _ANY, "documents": _ANY}
_FIELDS: dict[str, tuple[dict[str, Schema], dict[str, Schema]]] = {
    "/v1/chat/completions": (_CHAT, {**_STREAMED, "max_tokens": or_null(_TOKENS)}),
    "/v1/completions": ({"prompt": _ANY}, {**_STREAMED, "max_tokens": or_null(_TOKENS)}),
    "/v1/responses": ({"input": _ANY}, {**_STREAMED, "store": or_null(BOOLEAN)}),
    "/v1/messages": ({**_CHAT, "max_tokens": _TOKENS}, _STREAMED),
    "/v1/messages/count_tokens": (_CHAT, {}),
    "/v1/embeddings": ({"input": _ANY}, {"dimensions": or_null(_TOKENS)}),
    "/v1/rerank": (_PAIRS, {}),
    "/v2/rerank": (_PAIRS, {}),
    "/rerank": (_PAIRS, {}),
    "/detokenize": ({"tokens": list_of(COUNT)}, {}),
}
"""Of a path, the fields that its requests must have beside the model, and some that they may."""

FORMS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
STREAMS = FORMS | {path for path, (_, others) in _FIELDS.items() if "stream" in others}
_FORM: dict[str, Schema] = {
    "model": _MODEL,
    "file": {"type": "string", "contentMediaType": "application/octet-stream"},
    "stream": BOOLEAN,
    "timestamp_granularities[]": TEXTS,
}
_PATHS = frozenset(endpoint.path for endpoint in ENDPOINTS)


def body(path: str) -> dict[str, Any] | None:
    """The document's `requestBody`; None where a route takes none."""
    if path not in _PATHS:
        return None
    if path in FORMS:
        return _content("multipart/form-data", _object(_FORM, ["model", "file"]))
    needed, others = _FIELDS.get(path, ({}, {}))
    return _content("application/json", _object({**_COMMON, **needed, **others}, ["model", *needed]))


def parameters(path: str) -> list[dict[str, Any]]:
    """Those of engines' routes, which FastAPI does not see."""
    if path not in _PATHS:
        return []
    return [
        _parameter("model", "query", "The model, where the body names none."),
        _parameter(HEADER, "header", f"As the field `{FIELD}`."),
        _parameter(SESSION_HEADER, "header", "Requests of one session go to the same replica, as far as that is up."),
    ]


def _parameter(name: str, place: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "schema": TEXT, "description": description}


def _object(fields: dict[str, Schema], required: list[str]) -> Schema:
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": True}


def _content(media_type: str, schema: Schema) -> dict[str, Any]:
    return {"required": True, "content": {media_type: {"schema": schema}}}
