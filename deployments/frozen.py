"""What every part of the settings is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Does not change, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
