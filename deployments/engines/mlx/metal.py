"""The device, and its memory."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


def device_mb() -> float:
    """Metal's buffers of this whole process; without Metal they are the process's own memory."""
    if not mx.metal.is_available():
        return 0
    return float(mx.get_active_memory() + mx.get_cache_memory()) / 2**20


def device() -> dict[str, Any] | None:
    """Its `device_name`, and in bytes `max_recommended_working_set_size` and `memory_size`; None without Metal."""
    return dict(mx.device_info()) if mx.metal.is_available() else None
