"""The configured models by every name they answer to, and their cards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from deployments.config import EngineName, Mode, ModelConfig, pool_deployment
from deployments.errors import ModelNotFound

CREATED = 1795305600
"""`created` of every card: a model has no better date that all replicas and restarts agree on (2026-11-22)."""


@dataclass(frozen=True)
class Entry:
    """A public model: with replicas of its own, in a pool's, or an adapter in those of its base.

    deployment_name: the model or pool whose replicas serve it. member: what it is called inside them, None for a model
    with replicas of its own. parent: of an adapter, its base's name. model: its own configuration, or its base's.
    """

    name: str
    model: ModelConfig
    deployment_name: str
    member: str | None = None
    parent: str | None = None

    @property
    def aliases(self) -> tuple[str, ...]:
        return () if self.parent else self.model.aliases

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def mode(self) -> Mode:
        return self.model.mode

    @property
    def auto_load(self) -> bool:
        return self.model.auto_load

    @property
    def auto_start(self) -> bool:
        return self.model.auto_start and self.parent is None

    @property
    def pool(self) -> str | None:
        return self.model.pool

    def engine_at(self, deployment_name: str) -> EngineName:
        """The engine that serves it at one of its placements; at the first of them if that is none of its own."""
        variants = self.model.variants
        return next((v.engine for v in variants if v.deployment_name == deployment_name), variants[0].engine)


class Catalog:
    def __init__(self, models: Iterable[ModelConfig], shows: Callable[[Entry], bool] = lambda _: True) -> None:
        """shows: which of them there are, for those who ask."""
        self._entries = tuple(entry for model in models for entry in _entries(model) if shows(entry))
        self._by_name = {name: entry for entry in self._entries for name in entry.names}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def hosts(self) -> list[Entry]:
        """One for everything that has replicas of its own: what it is to a whole model or pool, whoever is inside."""
        found: dict[str, Entry] = {}
        for entry in self._entries:
            found.setdefault(entry.deployment_name, replace(entry, member=None))
        return list(found.values())

    def find(self, name: str) -> Entry:
        """Raises ModelNotFound."""
        try:
            return self._by_name[name]
        except KeyError:
            raise ModelNotFound(f"The model {name!r} does not exist.", param="model") from None


def _entries(model: ModelConfig) -> Iterator[Entry]:
    if model.pool is not None:
        yield Entry(model.name, model, pool_deployment(model.pool), member=model.name)
        return
    yield Entry(model.name, model, model.deployment_name)
    for adapter in model.adapters:
        yield Entry(adapter.name, model, model.deployment_name, member=adapter.name, parent=model.name)


def card(entry: Entry, id_: str, status: str) -> dict[str, Any]:
    """The model as `/v1/models` shows it under one of its names."""
    return {
        "id": id_,
        "object": "model",
        "created": CREATED,
        "owned_by": "llm-manager",
        "permission": [],
        "root": entry.parent or entry.name,
        "parent": entry.parent,
        "aliases": list(entry.aliases),
        "status": status,
    }
