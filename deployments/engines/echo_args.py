"""What `engine_args` of an echo model may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class EchoArgs(BaseModel):
    """tokens: answer length when the request sets none. interval_ms: pause before each token.
    load_seconds, adapter_seconds: how long the model and an adapter take to load.
    dimensions: length of the vectors of an embedding model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: Annotated[int, Field(ge=1)] = 128
    interval_ms: Annotated[float, Field(ge=0)] = 0
    load_seconds: Annotated[float, Field(ge=0)] = 0
    adapter_seconds: Annotated[float, Field(ge=0)] = 0
    dimensions: Annotated[int, Field(ge=1)] = 32
