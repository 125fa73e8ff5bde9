from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from deployments.devices import machine
from deployments.devices.machine import Reader
from deployments.devices.reading import Cpu, Failed, Gpu, Machine
from deployments.memory import Memory

CPU = Cpu(2, Memory(100, 50), load=1, utilization=50)
GPU = Gpu("a", Memory(10, 5))


def broken() -> NoReturn:
    raise OSError("no bus")


class Hanging:
    """Answers once it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = threading.Event()

    def __call__(self) -> tuple[Gpu, ...]:
        self.asked += 1
        assert self.go.wait(10)
        return (GPU,)


def test_every_device_is_read() -> None:
    assert Reader(lambda: CPU, lambda: (GPU,), lambda: None).read() == Machine(CPU, (GPU,), None)


def test_device_that_fails_spoils_nothing() -> None:
    assert Reader(lambda: CPU, broken, broken).read() == Machine(
        CPU, Failed("OSError: no bus"), Failed("OSError: no bus")
    )


def test_device_that_hangs_is_told_in_time_and_asked_once() -> None:
    hangs = Hanging()
    reader = Reader(lambda: CPU, hangs, lambda: None)
    for _ in range(3):
        assert reader.read(0.05) == Machine(CPU, Failed("No answer within 0.05 s."), None)
    assert hangs.asked == 1
    hangs.go.set()
    assert reader.read(10).cuda == (GPU,)


@pytest.mark.filterwarnings("error")
def test_this_machine_has_processors() -> None:
    assert isinstance(machine.read().cpu, Cpu)
