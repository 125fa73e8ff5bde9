"""One machine's devices, as plain data that crosses processes.

Utilisation is percent, temperature degrees Celsius, power watts; None where the device does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from deployments.memory import Memory


@dataclass(frozen=True)
class Failed:
    """In the place of a device that did not answer."""

    error: str


@dataclass(frozen=True)
class Cpu:
    """load: processes that ran or wanted to, on average of the last minute."""

    count: int
    memory: Memory
    load: float
    utilization: float


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: Memory
    utilization: float | None = None
    temperature: float | None = None
    power: float | None = None


@dataclass(frozen=True)
class Metal:
    """memory: the working set that Apple recommends, and what of it no process of the machine has taken."""

    name: str
    memory: Memory
    utilization: float | None = None


@dataclass(frozen=True)
class Machine:
    """cuda: by index; None: no driver is installed. mlx: None: not a Mac."""

    cpu: Cpu | Failed
    cuda: tuple[Gpu | Failed, ...] | Failed | None = None
    mlx: Metal | Failed | None = None
