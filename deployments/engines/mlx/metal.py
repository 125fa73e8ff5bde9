"""Memory of the device."""

from __future__ import annotations

import mlx.core as mx


def device_mb() -> float:
    """Metal's buffers of this whole process; without Metal they are the process's own memory."""
    if not mx.metal.is_available():
        return 0
    return float(mx.get_active_memory() + mx.get_cache_memory()) / 2**20
