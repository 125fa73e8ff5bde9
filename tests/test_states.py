from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import pytest

from ingress import states
from ingress.states import STOPPED, ModelState, State, States, failure_reason, state_of

FAILURE = "REPLICA_STARTUP_FAILED"


@pytest.mark.parametrize(
    ("trigger", "replicas", "expected"),
    [
        pytest.param("AUTOSCALING", {"RUNNING": 1}, State.RUNNING, id="up"),
        pytest.param("AUTOSCALING", {"RUNNING": 1, "STARTING": 1}, State.RUNNING, id="up and growing"),
        pytest.param("AUTOSCALING", {"RUNNING": 1, "STOPPING": 1}, State.RUNNING, id="up and shrinking"),
        pytest.param(FAILURE, {"RUNNING": 1, "STARTING": 1}, State.RUNNING, id="only a second replica fails"),
        pytest.param("AUTOSCALING", {"STARTING": 1}, State.STARTING, id="starts"),
        pytest.param("AUTOSCALING", {"STARTING": 1, "STOPPING": 1}, State.STARTING, id="starts again"),
        pytest.param("AUTOSCALING", {"UPDATING": 1}, State.STARTING, id="is updated"),
        pytest.param("AUTOSCALING", {"RECOVERING": 1}, State.STARTING, id="recovers"),
        pytest.param("AUTOSCALING", {"PENDING_MIGRATION": 1}, State.STARTING, id="moves"),
        pytest.param("AUTOSCALING", {"STOPPING": 1}, State.STOPPING, id="drains"),
        pytest.param("AUTOSCALING", {"STOPPED": 1}, State.STOPPED, id="stopped"),
        pytest.param("AUTOSCALING", {"RUNNING": 0}, State.STOPPED, id="none counted"),
        pytest.param("AUTOSCALING", {}, State.STOPPED, id="none"),
        pytest.param(FAILURE, {}, State.FAILED, id="failed"),
        pytest.param(FAILURE, {"STARTING": 1}, State.FAILED, id="failed and tried again"),
    ],
)
def test_state_follows_from_the_replicas_and_the_trigger(
    trigger: str, replicas: dict[str, int], expected: State
) -> None:
    now = state_of(trigger, "ValueError: no weights", replicas)
    assert now.state is expected
    assert now.failure_reason == ("ValueError: no weights" if expected is State.FAILED else None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from within Ray's own modules
def test_every_replica_state_and_trigger_is_serves_own_word() -> None:
    """state_of compares with plain strings: a word that Serve does not know would never match."""
    from ray.serve._private.common import DeploymentStatusTrigger, ReplicaState

    assert DeploymentStatusTrigger(FAILURE)
    not_up = {str(s.value) for s in ReplicaState if state_of("AUTOSCALING", "", {str(s.value): 1}) == STOPPED}
    assert not_up == {"STOPPED"}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('Traceback (most recent call last):\n  File "a.py", line 1\nValueError: bad\n\n  ', "ValueError: bad"),
        ("one line", "one line"),
        ("", "unknown"),
        (" \n\n", "unknown"),
    ],
)
def test_reason_is_the_last_line_of_the_trace(message: str, reason: str) -> None:
    assert failure_reason(message) == reason


class Reader:
    """Blocks until the gate is opened, as a call to Serve's controller may."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = threading.Event()
        self.gate.set()
        self.answer: Mapping[str, ModelState] | Exception = {"a": ModelState(State.RUNNING)}

    def __call__(self) -> Mapping[str, ModelState]:
        self.count += 1
        assert self.gate.wait(10)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_unknown_deployment_is_stopped() -> None:
    known = States(Reader())
    assert await known.of("a") == ModelState(State.RUNNING)
    assert await known.of("b") == STOPPED


async def test_callers_share_a_reading_in_progress_however_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "TTL_S", 0)
    reader = Reader()
    reader.gate.clear()
    shared = States(reader)
    callers = [asyncio.create_task(shared.all()) for _ in range(5)]
    await asyncio.sleep(0)  # a blocked reading does not block the loop
    assert not any(caller.done() for caller in callers)
    reader.gate.set()
    assert await asyncio.gather(*callers) == [reader.answer] * 5
    assert reader.count == 1


async def test_reading_is_kept_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "TTL_S", 3600)
    reader = Reader()
    shared = States(reader)
    await shared.all()
    reader.answer = {}
    assert await shared.of("a") == ModelState(State.RUNNING)
    assert reader.count == 1


async def test_after_its_time_it_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "TTL_S", 0)
    reader = Reader()
    shared = States(reader)
    await shared.all()
    reader.answer = {}
    assert await shared.of("a") == STOPPED
    assert reader.count == 2


async def test_caller_that_leaves_does_not_end_the_others_reading() -> None:
    reader = Reader()
    reader.gate.clear()
    shared = States(reader)
    leaver, stayer = asyncio.create_task(shared.all()), asyncio.create_task(shared.all())
    await asyncio.sleep(0)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    reader.gate.set()
    assert await stayer == reader.answer


async def test_failed_reading_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "TTL_S", 0)
    reader = Reader()
    reader.answer = RuntimeError("no controller")
    shared = States(reader)
    with pytest.raises(RuntimeError, match="no controller"):
        await shared.all()
    reader.answer = {}
    assert await shared.all() == {}
