from __future__ import annotations

import os

from deployments import memory
from deployments.devices import cpu


def test_processors_and_memory_are_those_of_this_machine() -> None:
    seen = cpu.read()
    assert seen.count == os.cpu_count()
    assert seen.memory.total_mb == memory.machine().total_mb
    assert 0 < seen.memory.free_mb < seen.memory.total_mb
    assert 0 <= seen.utilization <= 100
    assert seen.load >= 0
