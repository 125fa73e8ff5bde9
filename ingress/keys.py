"""Who presents which key, and which rights a path asks for. Pure functions over the settings' keys."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping

from deployments.keys import KeyConfig, Right, hash_of
from ingress.catalog import Entry
from ingress.console.console import is_console

OPEN = frozenset({"/", "/health", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
"""Paths that need no key, beside those of the console."""

_STATUS = frozenset({"/v1/system/status", "/v1/models", "/metrics"})

_SEEN = frozenset({"/api/devices/info", "/api/history"})

NONE: frozenset[Right] = frozenset()
USE: frozenset[Right] = frozenset({"use"})
MANAGE: frozenset[Right] = frozenset({"manage"})
LOOK = USE | MANAGE


class Keyring:
    def __init__(self, keys: Iterable[KeyConfig]) -> None:
        # Looked up by what nobody can foresee: the time that it takes tells nothing of a key.
        self._pepper = secrets.token_bytes(32)
        self._keys = {self._mark(key.key_hash): key for key in keys if key.key_hash is not None}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, key: str) -> KeyConfig | None:
        return self._keys.get(self._mark(hash_of(key)))

    def _mark(self, key_hash: str) -> bytes:
        return hmac.digest(self._pepper, key_hash.encode(), "sha256")


def presented(headers: Mapping[str, str]) -> str:
    """The key of `Authorization: Bearer`, else that of `x-api-key`, as Anthropic's clients send it; else empty."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key", "").strip()


def rights_for(method: str, path: str) -> frozenset[Right]:
    """One of these is needed; none is. path: as routes are matched."""
    if path in OPEN or is_console(path):
        return NONE
    looks = method in ("GET", "HEAD")
    if path.startswith("/api/"):
        models = path == "/api/models" or (path.startswith("/api/models/") and "/logs" not in path)
        return LOOK if looks and (models or path in _SEEN) else MANAGE  # logs may hold prompts
    if looks and (path in _STATUS or path.startswith("/v1/models/")):
        return LOOK
    return USE


def may_use(key: KeyConfig | None) -> Callable[[Entry], bool]:
    """Whether a model is one of the key's: an adapter is where its base is. None is a server without keys."""
    names = None if key is None or key.models is None else frozenset(key.models)
    return lambda entry: names is None or bool(names & {*entry.names, *(entry.model.names if entry.parent else ())})
