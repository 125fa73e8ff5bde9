from __future__ import annotations

import sys
from typing import Any

import pytest

from deployments.devices import mlx
from deployments.devices.reading import Metal
from deployments.memory import MB, Memory

DEVICE = {"device_name": "Apple M2 Max", "max_recommended_working_set_size": 24_000 * MB, "memory_size": 32_768 * MB}


def test_what_all_processes_have_taken_counts() -> None:
    registry = [{"PerformanceStatistics": {"In use system memory": 6_000 * MB, "Device Utilization %": 37}}]
    assert mlx.metal_of(DEVICE, registry) == Metal("Apple M2 Max", Memory(24_000, 18_000), utilization=37)


def test_more_than_is_recommended_leaves_nothing_free() -> None:
    registry = [{"PerformanceStatistics": {"In use system memory": 25_000 * MB}}]
    assert mlx.metal_of(DEVICE, registry).memory == Memory(24_000, 0)


@pytest.mark.parametrize("registry", [[], [{}]])
def test_registry_that_tells_nothing_leaves_what_mlx_tells(registry: list[dict[str, Any]]) -> None:
    assert mlx.metal_of(DEVICE, registry) == Metal("Apple M2 Max", Memory(24_000, 24_000))


@pytest.mark.skipif(sys.platform == "darwin", reason="is one")
def test_other_machines_are_no_macs() -> None:
    assert mlx.read() is None
