"""The configured models by every name they answer to, and their cards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from deployments.config import ModelConfig
from deployments.errors import ModelNotFound

CREATED = 1795305600
"""`created` of every card: a model has no better date that all replicas and restarts agree on (2026-11-22)."""


class Catalog:
    def __init__(self, models: Iterable[ModelConfig]) -> None:
        self._models = tuple(models)
        self._by_name = {name: model for model in self._models for name in model.names}

    def __iter__(self) -> Iterator[ModelConfig]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str) -> ModelConfig:
        """Raises ModelNotFound."""
        try:
            return self._by_name[name]
        except KeyError:
            raise ModelNotFound(f"The model {name!r} does not exist.", param="model") from None


def card(model: ModelConfig, id_: str, status: str) -> dict[str, Any]:
    """The model as `/v1/models` shows it under one of its names."""
    return {
        "id": id_,
        "object": "model",
        "created": CREATED,
        "owned_by": "llm-manager",
        "permission": [],
        "root": model.name,
        "parent": None,
        "aliases": list(model.aliases),
        "status": status,
    }
