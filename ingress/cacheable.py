"""Which answers are the same by right, and what they are the same for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingress.catalog import Entry

_TEXT = frozenset({"/v1/chat/completions", "/v1/completions"})
_VECTORS = frozenset({"/v1/embeddings", "/v1/score", "/score", "/v1/rerank", "/v2/rerank", "/rerank"})
_SAYS_NOTHING = frozenset({"user", "metadata", "keep_alive", "prompt_cache_key"})
"""Fields that no answer depends on."""

_DONE = re.compile(rb"\ndata: *\[DONE\]\s*\Z")
_ERROR_EVENT = re.compile(rb'^(event: *error|data: *\{ *"error")', re.MULTILINE)


@dataclass(frozen=True)
class Control:
    """The request header `Cache-Control`: whether it may be answered from the cache, and its answer be kept."""

    reads: bool = True
    stores: bool = True

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Control:
        said = {word.strip().lower() for word in headers.get("cache-control", "").split(",")}
        stores = "no-store" not in said
        return cls(reads=stores and "no-cache" not in said, stores=stores)


def is_cacheable(path: str, data: Mapping[str, Any]) -> bool:
    """data: of the request's body; empty of a form."""
    if path in _VECTORS:
        return bool(data)
    if path not in _TEXT or any(data.get(name) not in (None, 1) for name in ("n", "best_of")):
        return False
    temperature, seed = data.get("temperature"), data.get("seed")
    return (type(temperature) in (int, float) and temperature == 0) or type(seed) is int


def key(entry: Entry, path: str, query: str, data: Mapping[str, Any]) -> str:
    """Of the request, which names the model as its client does, and of the model as it is configured."""
    asked = {name: value for name, value in data.items() if name not in _SAYS_NOTHING}
    parts = {"path": path, "query": query, "name": entry.name, "version": _version(entry), "asked": asked}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_whole(status: int, content_type: str, body: bytes) -> bool:
    """Whether an answer is all that there is to say: a stream has its end, and told of no error before it."""
    if status != 200:
        return False
    if not content_type.startswith("text/event-stream"):
        return bool(body)
    return bool(_DONE.search(body[-64:])) and not _ERROR_EVENT.search(body)


def _version(entry: Entry) -> Any:
    """What the model is: it changes with the configuration."""
    variants = [variant.model_dump(mode="json", exclude={"placement"}) for variant in entry.model.variants]
    adapters = [adapter.path for adapter in entry.model.adapters if adapter.name == entry.name]
    return [entry.deployment_name, entry.mode, variants, adapters]
