from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from deployments.residency import policy as module
from deployments.residency.board import Board
from tests.residency.store import Memory
from tests.residency.world import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(module, "Watch", world.watch)
    monkeypatch.setattr(module, "clock", world)
    monkeypatch.delenv("MAX_CONCURRENT_MODELS", raising=False)
    return world


@pytest.fixture
def log() -> Iterator[list[logging.LogRecord]]:
    """What the project logs at WARNING and above; Ray's loggers do not pass on to the root."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    module.logger.addHandler(handler)
    yield records
    module.logger.removeHandler(handler)


@pytest.fixture
def store() -> Memory:
    return Memory()


@pytest.fixture
def board(store: Memory) -> Board:
    return Board("app", store)
