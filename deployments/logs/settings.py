"""How much of the logs is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deployments.frozen import Frozen


class LogSettings(Frozen):
    """serve_config.yaml explains each key."""

    max_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 64
    max_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 7
