"""The processors and the memory of this machine."""

from __future__ import annotations

import psutil

from deployments import memory
from deployments.devices.reading import Cpu

LOOK_S = 0.1
"""Utilisation is that of so long a moment."""


def read() -> Cpu:
    return Cpu(
        count=psutil.cpu_count() or 1,
        memory=memory.machine(),
        load=psutil.getloadavg()[0],
        utilization=psutil.cpu_percent(LOOK_S),
    )
