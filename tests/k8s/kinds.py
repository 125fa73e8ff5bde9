"""Each object by its kind's schema, unknown fields refused: Kubernetes' own kinds, KubeRay's, and those of others."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from tests.k8s.objects import Object, title, walk

VERSION = "1.32"  # of Kubernetes
RAYSERVICE = Path(__file__).with_name("rayservice-1.7.0.json.gz")
"""The schema of ray.io/v1 RayService in KubeRay 1.7.0 (Apache-2.0)."""
QUANTITY = re.compile(r"([0-9]+|[0-9]*\.[0-9]+)([KMGTPE]i|[mkMGTPE])?")
AMOUNTS = re.compile(r"\.(requests|limits)\.[^.]+$|\.sizeLimit$")

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_SELECTOR = {"type": "object", "minProperties": 1}
_DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


_RELABELING = _object(
    "regex",
    sourceLabels=_TEXTS,
    regex=_TEXT,
    targetLabel=_TEXT,
    replacement=_TEXT,
    action={"enum": ["replace", "drop"]},
)
_ENDPOINT = _object("port", port=_TEXT, interval=_DURATION, metricRelabelings=_list(_RELABELING))
_RULE = _object(
    "alert expr labels annotations",
    alert=_TEXT,
    expr=_TEXT,
    labels=_object("severity", severity={"enum": ["critical", "warning"]}),
    annotations=_object("summary runbook", summary=_TEXT, runbook=_TEXT),
    **{"for": _DURATION},
)
_ROUTE_RULE = _object(
    "backendRefs timeouts",
    matches=_list(_object("path", path=_object("type value", type={"enum": ["PathPrefix", "Exact"]}, value=_TEXT))),
    backendRefs=_list(_object("name port", name=_TEXT, port={"type": "integer"})),
    timeouts=_object("request backendRequest", request=_DURATION, backendRequest=_DURATION),
)
OTHERS = {
    ("monitoring.coreos.com/v1", "PodMonitor"): _object(
        "selector podMetricsEndpoints",
        selector=_SELECTOR,
        podTargetLabels=_TEXTS,
        podMetricsEndpoints=_list(_ENDPOINT),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _object(
        "groups", groups=_list(_object("name rules", name=_TEXT, rules=_list(_RULE)))
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _object(
        "parentRefs rules",
        parentRefs=_list(_object("name", name=_TEXT, namespace=_TEXT)),
        hostnames=_TEXTS,
        rules=_list(_ROUTE_RULE),
    ),
}
"""The `spec` of kinds whose definitions no package brings: as much of each as is used here."""


def mistakes(one: Object) -> Iterator[str]:
    kind = (one["apiVersion"], one["kind"])
    if kind == ("ray.io/v1", "RayService"):
        found = _by_schema(one, rayservice())
        found.extend(_doubles(one, rayservice()))
    elif kind in OTHERS:
        whole = _object("apiVersion kind metadata spec", apiVersion={}, kind={}, metadata={}, spec=OTHERS[kind])
        found = _by_schema(one, whole)
    else:
        found = _by_kubernetes(json.dumps(one))
    yield from (f"{title(one)}{path}: {message}" for path, message in found)
    for path, value in walk(one):
        if AMOUNTS.search(path) and not QUANTITY.fullmatch(str(value)):
            yield f"{title(one)}{path}: {value!r} is no quantity"


@cache
def rayservice() -> dict[str, Any]:
    strict = _strict(json.loads(gzip.decompress(RAYSERVICE.read_bytes())))
    assert isinstance(strict, dict)
    return strict


def _strict(schema: Any) -> Any:
    """As the API server takes it: what has a default need not be there; what is not known is refused."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    properties = made.get("properties")
    if isinstance(properties, dict) and "type" in made:
        made["required"] = [name for name in made.get("required", ()) if "default" not in properties.get(name, {})]
        if "additionalProperties" not in made and not made.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    return made


def _by_schema(one: Object, schema: dict[str, Any]) -> list[tuple[str, str]]:
    errors = jsonschema.Draft202012Validator(schema).iter_errors(one)
    return [(error.json_path.removeprefix("$"), error.message) for error in errors]


@cache
def _by_kubernetes(text: str) -> list[tuple[str, str]]:
    """text: an object as JSON."""
    try:
        kubernetes_validate.validate(json.loads(text), VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [("." + ".".join(str(part) for part in error.path), error.message)]
    except kubernetes_validate.SchemaNotFoundError:
        return [("", "there is no such kind")]
    return []


def _doubles(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Members of a list that have the same keys, where the schema says that it is a map."""
    if isinstance(value, dict):
        for key, inner in value.items():
            known = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(known, dict):
                yield from _doubles(inner, known, f"{path}.{key}")
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        items = schema.get("items", {})
        seen = set()
        for i, inner in enumerate(value):
            if keys:
                defaults = {key: items["properties"].get(key, {}).get("default") for key in keys}
                own = tuple(inner.get(key, defaults[key]) for key in keys)
                if own in seen:
                    yield f"{path}[{i}]", f"{own} is there twice"
                seen.add(own)
            yield from _doubles(inner, items, f"{path}[{i}]")
