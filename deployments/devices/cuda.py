"""NVIDIA's GPUs on this machine, by their driver's own library: all of them, whatever CUDA_VISIBLE_DEVICES says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pynvml

from deployments.devices.reading import Failed, Gpu
from deployments.memory import MB, Memory

T = TypeVar("T")


def read() -> tuple[Gpu | Failed, ...] | None:
    """None: no driver is installed.

    Raises: pynvml.NVMLError, if there is one that does not work.
    """
    try:
        with _library():
            return tuple(_gpu(index) for index in range(count()))
    except pynvml.NVMLError_LibraryNotFound:
        return None


def count() -> int:
    """Raises: pynvml.NVMLError."""
    with _library():
        return int(pynvml.nvmlDeviceGetCount())


def _gpu(index: int) -> Gpu | Failed:
    try:
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        return Gpu(
            name=_text(pynvml.nvmlDeviceGetName(gpu)),
            memory=Memory(memory.total / MB, memory.free / MB),
            utilization=_if_told(lambda: float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)),
            temperature=_if_told(lambda: float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU))),
            power=_if_told(lambda: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
        )
    except pynvml.NVMLError as error:
        return Failed(str(error))


def _if_told(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except pynvml.NVMLError:  # not every GPU has every sensor
        return None


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


@contextlib.contextmanager
def _library() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()
