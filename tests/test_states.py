from __future__ import annotations

import asyncio
import threading

import pytest

from deployments.residency.board import Report, Row
from ingress import states
from ingress.states import (
    STOPPED,
    Loading,
    ModelState,
    Reading,
    Replicas,
    State,
    States,
    failure_reason,
    replicas_of,
    state_of,
)

FAILURE = "REPLICA_STARTUP_FAILED"
NOW = 1_800_000_000.0
UP = Replicas(State.RUNNING, running=1)
STARTING = Replicas(State.STARTING)
NOT_UP = Replicas()

# What Serve sees -----------------------------------------------------------------------------------------------------


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
    seen = replicas_of(trigger, "ValueError: no weights", replicas)
    assert seen.state is expected
    assert seen.failure_reason == ("ValueError: no weights" if expected is State.FAILED else None)
    assert seen.running == replicas.get("RUNNING", 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from within Ray's own modules
def test_every_replica_state_and_trigger_is_serves_own_word() -> None:
    """replicas_of compares with plain strings: a word that Serve does not know would never match."""
    from ray.serve._private.common import DeploymentStatusTrigger, ReplicaState

    assert DeploymentStatusTrigger(FAILURE)
    not_up = {str(s.value) for s in ReplicaState if replicas_of("AUTOSCALING", "", {str(s.value): 1}) == NOT_UP}
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


# What the policy adds ------------------------------------------------------------------------------------------------


def report(phase: str = "loading", *, failure: str | None = None, context_length: int | None = None) -> Report:
    return Report("a", "r1", "n1", phase, context_length=context_length, failure=failure)


def state(seen: Replicas, row: Row, *reports: Report) -> ModelState:
    return state_of(seen, row, reports, NOW)


@pytest.mark.parametrize("seen", [Replicas(s) for s in State], ids=lambda seen: seen.state)
def test_without_a_policy_the_state_is_what_serve_sees(seen: Replicas) -> None:
    assert state(seen, Row()).state is seen.state


@pytest.mark.parametrize(
    ("seen", "row", "expected"),
    [
        pytest.param(NOT_UP, Row(waiting=True), State.STARTING, id="waits for its place"),
        pytest.param(NOT_UP, Row(failure="bad"), State.FAILED, id="did not start the last time"),
        pytest.param(NOT_UP, Row(failure="bad", waiting=True), State.STARTING, id="is tried again"),
        pytest.param(Replicas(State.STOPPING), Row(waiting=True), State.STOPPING, id="is wanted while it ends"),
        pytest.param(Replicas(State.STOPPING), Row(failure="bad"), State.STOPPING, id="ends after a failure"),
        pytest.param(UP, Row(failure="bad", waiting=True), State.RUNNING, id="what is up is up"),
    ],
)
def test_model_without_replicas_is_what_the_policy_knows_of_it(seen: Replicas, row: Row, expected: State) -> None:
    assert state(seen, row).state is expected


def test_reason_of_a_failure_is_serves_or_else_the_policys() -> None:
    assert state(Replicas(State.FAILED, "from Serve"), Row(failure="from a report")).failure_reason == "from Serve"
    assert state(NOT_UP, Row(failure="from a report")).failure_reason == "from a report"


def test_old_failure_is_no_reason_of_a_model_that_has_not_failed() -> None:
    assert state(UP, Row(failure="bad")).failure_reason is None
    assert state(NOT_UP, Row(failure="bad", waiting=True)).failure_reason is None


def test_only_a_failure_that_serve_still_sees_is_backed_off_from() -> None:
    assert state(Replicas(State.FAILED, "bad"), Row()).backing_off
    assert not state(NOT_UP, Row(failure="bad")).backing_off


def test_figures_of_a_running_model() -> None:
    row = Row(
        replicas=2,
        running=2,
        reason="in use",
        queued=1,
        unfinished=3,
        up_since=NOW - 60,
        last_used=NOW - 2,
        measured_mb=700,
        reserved_mb=800,
        idle_limit_s=300,
    )
    assert state(Replicas(State.RUNNING, running=2), row, report("up", context_length=2048)) == ModelState(
        State.RUNNING,
        reason="in use",
        has_place=True,
        replicas=2,
        pending=1,
        running=3,
        loaded_at=NOW - 60,
        last_used_at=NOW - 2,
        memory_mb=1400,
        needs_mb=800,
        context_length=2048,
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(Row(last_used=NOW - 2, idle_limit_s=300), NOW + 298, id="idle"),
        pytest.param(Row(last_used=NOW - 2, idle_limit_s=0), NOW - 2, id="at once"),
        pytest.param(Row(last_used=NOW - 2), None, id="never"),
        pytest.param(Row(last_used=NOW - 2, idle_limit_s=300, unfinished=1), None, id="in use"),
        pytest.param(Row(last_used=NOW - 2, idle_limit_s=300, queued=1), None, id="asked for"),
    ],
)
def test_only_an_idle_model_is_about_to_be_unloaded(row: Row, expected: float | None) -> None:
    assert state(UP, row).unloads_at == expected
    assert state(NOT_UP, row).unloads_at is None


def test_model_that_is_down_takes_no_memory_and_keeps_its_last_use() -> None:
    row = Row(last_used=NOW - 9, up_since=NOW - 60, measured_mb=700, reserved_mb=800, reason="idle for 5 s")
    assert state(NOT_UP, row) == ModelState(
        State.STOPPED, reason="idle for 5 s", last_used_at=NOW - 9, needs_mb=800, memory_mb=0, loaded_at=None
    )


def test_refusal_is_passed_on() -> None:
    refused = state(NOT_UP, Row(refused=True, waiting=True, reason="it needs 9 MB"))
    assert (refused.refused, refused.reason, refused.has_place) == (True, "it needs 9 MB", False)


# How far a start is --------------------------------------------------------------------------------------------------


def test_start_tells_its_replicas_phase_and_how_long_it_takes() -> None:
    row = Row(replicas=1, waiting=True, started_at=NOW - 3, waiting_since=NOW - 60, load_s=12.4)
    assert state(STARTING, row, report("preparing the weights")).loading == Loading("preparing the weights", 3, 12.4)


def test_last_words_of_a_dead_replica_are_no_phase() -> None:
    row = Row(replicas=1, waiting=True, started_at=NOW - 3)
    dead = report("failed", failure="bad")
    assert state(STARTING, row, dead).loading == Loading("starting its process", 3, None)
    assert state(STARTING, row, dead, report("loading")).loading == Loading("loading", 3, None)


def test_wait_for_a_place_tells_its_reason_and_its_own_time() -> None:
    row = Row(waiting=True, started_at=NOW - 500, waiting_since=NOW - 2, reason="waits: all 3 places are in use")
    assert state(NOT_UP, row).loading == Loading("waits: all 3 places are in use", 2, None)


def test_start_that_nobody_timed_has_just_begun_and_no_clock_runs_backwards() -> None:
    assert state(STARTING, Row(replicas=1)).loading == Loading("starting its process", 0, None)
    assert state(STARTING, Row(replicas=1, started_at=NOW + 5)).loading == Loading("starting its process", 0, None)


def test_only_a_start_is_loading() -> None:
    row = Row(replicas=1, started_at=NOW - 3)
    assert {s for s in State if state(Replicas(s), row).loading} == {State.STARTING}


@pytest.mark.parametrize(
    ("loading", "text", "retry_after_s"),
    [
        pytest.param(Loading("loading", 3.4, None), "loading, 3 s so far", 10, id="first start"),
        pytest.param(
            Loading("loading", 3.4, 12.0), "loading, 3 s so far; the last start took 12 s", 9, id="what is left of it"
        ),
        pytest.param(
            Loading("loading", 30, 12.0), "loading, 30 s so far; the last start took 12 s", 1, id="longer than the last"
        ),
        pytest.param(
            Loading("loading", 0, 600.0), "loading, 0 s so far; the last start took 600 s", 60, id="a minute at most"
        ),
    ],
)
def test_retry_after_is_what_is_left_of_the_last_starts_time(loading: Loading, text: str, retry_after_s: int) -> None:
    assert (str(loading), loading.retry_after_s) == (text, retry_after_s)


# States --------------------------------------------------------------------------------------------------------------


class Reader:
    """Blocks until the gate is opened, as a call to Serve's controller may."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = threading.Event()
        self.gate.set()
        self.answer: Reading | Exception = reading(a=ModelState(State.RUNNING))

    def __call__(self) -> Reading:
        self.count += 1
        assert self.gate.wait(10)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def reading(**models: ModelState) -> Reading:
    return Reading(models, cap=3)


@pytest.fixture
def always_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "TTL_S", -1.0)


async def test_unknown_deployment_is_stopped() -> None:
    known = States(Reader())
    assert await known.of("a") == ModelState(State.RUNNING)
    assert await known.of("b") == STOPPED


async def test_reading_is_shared_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "TTL_S", 3600.0)
    reader = Reader()
    shared = States(reader)
    await shared.all()
    reader.answer = reading()
    assert await shared.of("a") == ModelState(State.RUNNING)
    assert reader.count == 1


@pytest.mark.usefixtures("always_read")
async def test_after_its_time_it_is_read_again() -> None:
    reader = Reader()
    known = States(reader)
    await known.all()
    reader.answer = reading()
    assert await known.of("a") == STOPPED
    assert reader.count == 2


@pytest.mark.usefixtures("always_read")
async def test_failed_reading_raises_where_there_was_none_before_and_does_not_stay() -> None:
    reader = Reader()
    reader.answer = RuntimeError("no controller")
    known = States(reader)
    with pytest.raises(RuntimeError, match="no controller"):
        await known.all()
    reader.answer = reading()
    assert await known.all() == reading()


@pytest.mark.usefixtures("always_read")
async def test_failed_reading_leaves_the_last_one() -> None:
    reader = Reader()
    known = States(reader)
    before = await known.all()
    reader.answer = RuntimeError("no controller")
    assert await known.all() is before
    reader.answer = reading()
    assert await known.all() is reader.answer


@pytest.mark.usefixtures("always_read")
async def test_reading_that_hangs_leaves_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    known = States(reader)
    before = await known.all()
    monkeypatch.setattr(states, "PATIENCE_S", 0.01)
    reader.gate.clear()
    assert await known.all() is before
    assert await known.all() is before
    assert reader.count == 2, "a reading that hangs is not begun again"
    reader.gate.set()


async def test_reading_that_hangs_raises_where_there_was_none_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "PATIENCE_S", 0.01)
    reader = Reader()
    reader.gate.clear()
    with pytest.raises(TimeoutError):
        await States(reader).all()
    reader.gate.set()


@pytest.mark.usefixtures("always_read")
async def test_caller_that_leaves_is_not_given_the_last_reading() -> None:
    reader = Reader()
    known = States(reader)
    await known.all()
    reader.gate.clear()
    leaver = asyncio.create_task(known.all())
    await asyncio.sleep(0)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    reader.gate.set()
