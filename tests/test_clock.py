from __future__ import annotations

import importlib
import time

import pytest

from deployments import clock


def test_clock_says_the_time() -> None:
    assert abs(clock.time() - time.time()) < 5


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_clock_does_not_jump_when_the_machines_is_set(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    before = clock.time()
    machines = time.time
    monkeypatch.setattr(time, "time", lambda: machines() + jump_s)
    assert abs(time.time() - before - jump_s) < 5
    assert 0 <= clock.time() - before < 5


def test_process_that_begins_later_has_the_machines_time(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = time.time
    monkeypatch.setattr(time, "time", lambda: machines() + 3600)
    try:
        assert abs(importlib.reload(clock).time() - time.time()) < 5
    finally:
        monkeypatch.undo()
        importlib.reload(clock)
