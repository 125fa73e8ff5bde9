"""Which models' answers are kept, and for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deployments.frozen import Frozen

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CacheSettings(Frozen):
    """For all models. serve_config.yaml explains each key."""

    enabled: bool = False
    ttl_s: Positive = 300
    max_mb: Positive = 256


class ModelCache(Frozen):
    """What a model has otherwise. serve_config.yaml explains each key."""

    enabled: bool | None = None
    ttl_s: Positive | None = None


def ttl_s(model: ModelCache, settings: CacheSettings) -> float | None:
    """None: the model's answers are not kept."""
    enabled = settings.enabled if model.enabled is None else model.enabled
    return (model.ttl_s or settings.ttl_s) if enabled else None
