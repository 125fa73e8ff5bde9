"""Apple's GPU. mlx says what it is and may take; what all processes of the Mac have taken, only its registry tells."""

from __future__ import annotations

import plistlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from deployments.devices.reading import Metal
from deployments.memory import MB, Memory

REGISTRY = ("/usr/sbin/ioreg", "-a", "-r", "-d", "1", "-c", "IOAccelerator")
REGISTRY_S = 1.0


def read() -> Metal | None:
    """None: not a Mac.

    Raises: RuntimeError, OSError, ValueError, subprocess.SubprocessError.
    """
    if sys.platform != "darwin":
        return None
    from deployments.engines.mlx import metal

    device = metal.device()
    if device is None:
        raise RuntimeError("mlx finds no Metal.")
    told = subprocess.run(REGISTRY, capture_output=True, check=True, timeout=REGISTRY_S).stdout
    return metal_of(device, plistlib.loads(told) if told else [])


def metal_of(device: Mapping[str, Any], registry: list[dict[str, Any]]) -> Metal:
    """device: as mlx tells. registry: the accelerators in it, of which a Mac with Apple's chip has one."""
    figures: Mapping[str, Any] = next((one.get("PerformanceStatistics", {}) for one in registry), {})
    total = device["max_recommended_working_set_size"] / MB
    return Metal(
        name=device["device_name"],
        memory=Memory(total, max(0.0, total - figures.get("In use system memory", 0) / MB)),
        utilization=figures.get("Device Utilization %"),
    )
