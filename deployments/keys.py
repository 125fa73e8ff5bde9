"""Clients' keys as the settings have them: names, hashes and rights, never the keys themselves."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from deployments.frozen import Frozen

ENVIRONMENT = "LLM_MANAGER_KEYS"
"""Keys that need no settings, with commas between them: each has all rights."""
MIN_LENGTH = 16
"""Of a key in the environment: its hash shows, and a short one could be guessed from it."""

Right = Literal["use", "manage"]
PerMinute = Annotated[int, Field(ge=1)]


class KeyConfig(Frozen):
    """One client's key. serve_config.yaml explains each key."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$", max_length=100)]
    key_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    key_env: str | None = None
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    rights: Annotated[tuple[Right, ...], Field(min_length=1)] = ("use",)
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None

    @property
    def is_limited(self) -> bool:
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


def hash_of(key: str) -> str:
    """One round, no salt: a key of 256 random bits is in nobody's dictionary, and each request pays for this."""
    return hashlib.sha256(key.encode()).hexdigest()


def made(name: str) -> tuple[str, KeyConfig]:
    """A new key, and what the settings need of it. Raises: ValidationError, if the name is none."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    return key, KeyConfig(name=name, key_hash=hash_of(key))


def resolved(keys: Sequence[KeyConfig], environ: Mapping[str, str]) -> tuple[KeyConfig, ...]:
    """All keys with their hashes, those of the environment too.

    Raises: ValueError with every mistake, none of which shows a key.
    """
    mistakes: list[str] = []
    found = list(keys)
    for i, key in enumerate(keys):
        if key.key_env is not None:
            secret = environ.get(key.key_env, "").strip()
            mistakes += [f"keys[{i}].key_env: {key.key_env} {wrong}" for wrong in _wrong(secret)]
            found[i] = key.model_copy(update={"key_hash": hash_of(secret), "key_env": None})
    plain = [part.strip() for part in environ.get(ENVIRONMENT, "").split(",") if part.strip()]
    for number, secret in enumerate(plain, 1):
        mistakes += [f"{ENVIRONMENT}: its key {number} {wrong}" for wrong in _wrong(secret)]
        found.append(KeyConfig(name=f"environment-{number}", key_hash=hash_of(secret), rights=("use", "manage")))
    if mistakes := mistakes or list(_doubles(found)):
        raise ValueError("\n".join(mistakes))
    return tuple(found)


def mistakes(keys: Sequence[KeyConfig], models: frozenset[str]) -> Iterator[str]:
    """models: every name that leads to one."""
    for i, key in enumerate(keys):
        if (key.key_hash is None) == (key.key_env is None):
            yield f"keys[{i}]: needs either key_hash or key_env"
        for j, model in enumerate(key.models or ()):
            if model not in models:
                yield f"keys[{i}].models[{j}]: {model!r} is no model"
    yield from _doubles(keys)


def _wrong(secret: str) -> Iterator[str]:
    if not secret:
        yield "is not set in the environment"
    elif len(secret) < MIN_LENGTH:
        yield f"is shorter than {MIN_LENGTH} characters"


def _doubles(keys: Sequence[KeyConfig]) -> Iterator[str]:
    for i, key in enumerate(keys):
        if key.name in {other.name for other in keys[:i]}:
            yield f"keys[{i}].name: {key.name!r} is already a key's name"
        if key.key_hash is not None and key.key_hash in {other.key_hash for other in keys[:i]}:
            yield f"keys[{i}]: it is the key of another one too"
