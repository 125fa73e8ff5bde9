"""What a route answers when all is well."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ingress import metrics
from ingress.endpoints import ENDPOINTS, FOLLOW_UPS
from ingress.openapi.requests import FORMS, STREAMS
from ingress.openapi.schemas import (
    BOOLEAN,
    COUNT,
    NUMBER,
    OBJECT,
    OBJECTS,
    TEXT,
    TEXTS,
    Schema,
    constant,
    list_of,
    map_of,
    or_null,
    record,
    ref,
)

JSON = "application/json"
SSE = "text/event-stream"

_SUCCESS: dict[str, Schema] = {"success": constant(True), "message": TEXT}
_POINTS = list_of(or_null(NUMBER))
_OF_API: dict[str, dict[str, Schema]] = {
    "/api/models": {"models": list_of(ref("Model"))},
    "/api/models/{alias}": {"model": ref("Model")},
    "/api/models/{alias}/pin": {},
    "/api/models/{alias}/unpin": {},
    "/api/requests": {
        "running": list_of(ref("Request")),
        "recent": list_of(ref("Request")),
        "tokens_per_second": map_of(NUMBER),
    },
    "/api/requests/{id}/cancel": {},
    "/api/history": {
        "since": NUMBER,
        "until": NUMBER,
        "step_s": COUNT,
        "residency": list_of(ref("Interval")),
        "times": list_of(NUMBER),
        "models": map_of(map_of(_POINTS)),
        "nodes": map_of(record({"memory_used_mb": _POINTS, "memory_total_mb": NUMBER})),
    },
    "/api/models/stop-all": {},
    "/api/models/restart-autostart": {},
    "/api/logs/stats": {
        "stats": record(
            {
                "total_models": COUNT,
                "total_log_entries": COUNT,
                "models_with_logs": COUNT,
                "total_subscribers": COUNT,
                "model_stats": map_of(record({"log_count": COUNT, "subscriber_count": COUNT})),
            }
        )
    },
    "/api/logs/{alias}/clear": {"deleted": COUNT},
    "/api/devices/info": {"devices": map_of(record({"online": BOOLEAN})), "nodes": OBJECTS},
    "/api/usage": {"range": TEXT, "group_by": TEXT, "totals": OBJECT},
    "/api/metrics/throughput": {"range": TEXT, "bucket_s": COUNT, "models": map_of(OBJECTS)},
    "/api/cache/stats": {"stats": OBJECT},
    "/api/cache/clear": {"cleared": COUNT},
}
"""Beside success and message."""

_OTHERS: dict[str, Schema] = {
    "/": record({"message": TEXT, "version": TEXT, "models_url": TEXT, "docs_url": TEXT, "console_url": or_null(TEXT)}),
    "/health": record(
        {
            "status": {"type": "string", "enum": ["healthy", "degraded"]},
            "timestamp": NUMBER,
            "manager_initialized": BOOLEAN,
            "engines": map_of(record({"status": TEXT, "loaded_models": COUNT})),
            "models": COUNT,
            "models_count": COUNT,
            "running_models": COUNT,
            "issues": TEXTS,
        }
    ),
    "/v1/models": record({"object": constant("list"), "data": list_of(ref("Card"))}),
    "/v1/models/{id}": ref("Card"),
    "/v1/system/status": record(
        {
            "initialized": BOOLEAN,
            "total_engines": COUNT,
            "registered_models": COUNT,
            "loaded_models": COUNT,
            "max_concurrent_models": or_null(COUNT),
            "models": OBJECTS,
            "engines": map_of(OBJECT),
        }
    ),
}
_BYTES = frozenset({"/v1/embeddings", "/pooling"})
_INFERENCE = frozenset(endpoint.path for endpoint in (*ENDPOINTS, *FOLLOW_UPS))


def of(path: str, parameters: Collection[str]) -> dict[str, Any]:
    """The document's `responses` that are no errors, by status."""
    responses = {"200": _response("As asked for.", _content(path))}
    if path.startswith("/api/") and "wait" in parameters:
        responses["202"] = _response("It is being done.", {JSON: record(_SUCCESS)})
    return responses


def _content(path: str) -> dict[str, Schema]:
    if path in _INFERENCE:
        return _of_engine(path)
    if path == "/metrics":
        return {metrics.CONTENT_TYPE.partition(";")[0]: TEXT}
    if path.endswith("/stream"):
        return {SSE: TEXT}
    if path.startswith("/api/"):
        return {JSON: record({**_SUCCESS, **_OF_API.get(path, {})})}
    return {JSON: _OTHERS[path]}


def _of_engine(path: str) -> dict[str, Schema]:
    """As OpenAI, Anthropic or vLLM define them."""
    content: dict[str, Schema] = {JSON: OBJECT}
    if path in STREAMS or path == "/v1/responses/{id}":
        content[SSE] = TEXT
    if path in FORMS:
        content["text/plain"] = TEXT
    if path in _BYTES:
        content["application/octet-stream"] = TEXT
    return content


def _response(description: str, content: dict[str, Schema]) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema} for kind, schema in content.items()}}
