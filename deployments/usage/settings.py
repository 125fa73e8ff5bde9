"""Settings of what is kept and told of requests; serve_config.yaml explains each key."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deployments.frozen import Frozen


class UsageSettings(Frozen):
    database_url: Annotated[str, Field(pattern=r"^[a-z0-9]+(\+[a-z0-9]+)?://")] | None = None
    max_days: Annotated[int, Field(ge=1)] = 90


class TraceSettings(Frozen):
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1
