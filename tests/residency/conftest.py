from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from deployments.residency import policy as module
from tests.residency.world import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(module, "Watch", world.watch)
    monkeypatch.setattr(module, "time", world)
    monkeypatch.delenv("MAX_CONCURRENT_MODELS", raising=False)
    return world


@pytest.fixture
def log() -> Iterator[list[logging.LogRecord]]:
    """What the policy logs at WARNING and above; Ray's loggers do not pass on to the root."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    module.logger.addHandler(handler)
    yield records
    module.logger.removeHandler(handler)
