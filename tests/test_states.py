from __future__ import annotations

import asyncio
import math
import threading
from dataclasses import asdict
from typing import Any

import pytest

from deployments.config import Adapter, ModelConfig
from deployments.residency.board import Board, Report, Row, Table, encode
from deployments.shelf import Shelf, Shown
from ingress import details, states
from ingress.catalog import Catalog
from ingress.states import (
    STOPPED,
    Loading,
    ModelState,
    Reading,
    Replicas,
    State,
    States,
    failure_reason,
    member_state,
    read,
    replicas_of,
    state_of,
    together,
)
from tests.residency.store import Memory

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
        pytest.param(NOT_UP, Row(replicas=1), State.STARTING, id="Serve has not begun"),
        pytest.param(Replicas(State.FAILED, "died"), Row(replicas=1), State.STARTING, id="lost, and nobody said why"),
        pytest.param(Replicas(State.FAILED, "died"), Row(lost=1), State.STARTING, id="lost, and will be tried again"),
        pytest.param(Replicas(State.FAILED, "died"), Row(replicas=1, failure="bad"), State.FAILED, id="gave up"),
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


def test_only_a_start_is_loading_seen_by_serve_or_not_yet() -> None:
    row = Row(replicas=1, started_at=NOW - 3, failure="no weights")
    assert {s for s in State if state(Replicas(s), row).loading} == {State.STARTING, State.STOPPED}


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


# At several placements -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param([], NOT_UP, id="not deployed yet"),
        pytest.param([NOT_UP, NOT_UP], NOT_UP, id="down"),
        pytest.param([NOT_UP, STARTING], STARTING, id="starts at the second"),
        pytest.param([Replicas(State.STOPPING), STARTING], STARTING, id="moves"),
        pytest.param([Replicas(State.STOPPING), NOT_UP], Replicas(State.STOPPING), id="ends at the first"),
        pytest.param([UP, STARTING], UP, id="is up while it starts elsewhere"),
        pytest.param([Replicas(State.FAILED, "bad"), UP], UP, id="failed at one, and up at the other"),
        pytest.param([UP, Replicas(State.RUNNING, running=2)], Replicas(State.RUNNING, running=3), id="up at both"),
    ],
)
def test_furthest_of_its_placements_is_the_models_state(seen: list[Replicas], expected: Replicas) -> None:
    named = dict(zip("abc", seen, strict=False))
    backwards = dict(reversed(named.items()))
    assert all(together(named, name) == together(backwards, name) == expected for name in named or "a")


def test_failure_counts_only_where_the_model_is_to_be() -> None:
    failed = Replicas(State.FAILED, "its node went")
    seen = {"a": failed, "a~1": STARTING}
    assert together(seen, "a") == failed
    assert together(seen, "a~1") == STARTING
    assert together({"a": failed}, "a~1") == NOT_UP


def test_models_state_says_where_it_is_served_and_why_not_elsewhere() -> None:
    row = Row(deployment="a~1", placements={"a": "no node has GPU: 1"})
    now = state(UP, row)
    assert (now.deployment, now.placements) == ("a~1", {"a": "no node has GPU: 1"})


# Inside others' replicas ---------------------------------------------------------------------------------------------

HOST = ModelState(
    State.RUNNING,
    deployment="pool--p~1",
    placements={"pool--p": "no node has GPU: 1"},
    reason="in use",
    has_place=True,
    replicas=2,
    pending=7,
    running=8,
    loaded_at=NOW - 99,
    last_used_at=NOW - 1,
    unloads_at=NOW + 99,
    memory_mb=700,
    needs_mb=800,
    context_length=2048,
)


def shown(phase: str, age_s: float = 5, **more: Any) -> dict[str, Any]:
    return asdict(Shown(phase, NOW - age_s, **more))


def inside(host: ModelState, *each: dict[str, Any]) -> ModelState:
    return member_state(host, each, NOW)


def test_what_is_read_of_a_member_is_what_a_shelf_shows() -> None:
    class Nothing:
        async def load(self, name: str) -> Any: ...
        async def unload(self, name: str) -> None: ...
        async def check(self, name: str) -> None: ...

    async def announce(name: str) -> None: ...

    members = Shelf(Nothing(), {"a": math.inf}, 1, announce, wait_s=1, turn_s=1)
    members._enter(members._find("a"), "up")
    now = member_state(HOST, [members.shown()["a"]], NOW)
    assert (now.state, now.replicas) == (State.RUNNING, 1)


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        pytest.param([], State.STOPPED, id="never asked for"),
        pytest.param([""], State.STOPPED, id="unloaded"),
        pytest.param(["waiting"], State.STARTING, id="waits for a place"),
        pytest.param(["loading"], State.STARTING, id="loads"),
        pytest.param(["up"], State.RUNNING, id="up"),
        pytest.param(["leaving"], State.STOPPING, id="finishes its requests"),
        pytest.param(["failed"], State.FAILED, id="failed"),
        pytest.param(["loading", "up"], State.RUNNING, id="up in one replica, loads in another"),
        pytest.param(["leaving", "waiting"], State.STARTING, id="moves to another replica"),
        pytest.param(["failed", "leaving"], State.STOPPING, id="failed where it is not"),
        pytest.param(["", "failed"], State.FAILED, id="failed in the only one that tried"),
    ],
)
def test_furthest_of_its_replicas_is_the_members_state(phases: list[str], expected: State) -> None:
    each = [shown(phase, failure="bad" if phase == "failed" else None) for phase in phases]
    for order in (each, each[::-1]):
        now = inside(HOST, *order)
        assert now.state is expected
        assert now.failure_reason == ("bad" if expected is State.FAILED else None)
        assert (now.loading is not None) == (expected is State.STARTING)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (State.RUNNING, State.RUNNING),
        (State.STARTING, State.RUNNING),
        (State.STOPPING, State.STOPPED),
        (State.STOPPED, State.STOPPED),
        (State.FAILED, State.FAILED),
    ],
)
def test_old_report_of_a_process_that_is_gone_holds_no_member(host: State, expected: State) -> None:
    assert inside(ModelState(host), shown("up")).state is expected


def test_failed_host_fails_its_members_with_its_reason() -> None:
    now = inside(ModelState(State.FAILED, "no weights", backing_off=True))
    assert (now.state, now.failure_reason, now.backing_off) == (State.FAILED, "no weights", True)


def test_refused_host_refuses_its_members() -> None:
    assert inside(ModelState(State.STOPPED, refused=True, reason="it needs 9 MB")).refused


def test_figures_of_a_member_are_its_own_and_not_its_hosts() -> None:
    each = [
        shown("up", 60, running=2, last_used=NOW - 3),
        shown("up", 30, running=1, last_used=NOW - 2),
        shown("loading", 1, waiting=4),
    ]
    assert inside(HOST, *each) == ModelState(
        State.RUNNING,
        deployment="pool--p~1",
        placements={"pool--p": "no node has GPU: 1"},
        reason="loaded",
        has_place=True,
        replicas=2,
        pending=4,
        running=3,
        loaded_at=NOW - 60,
        last_used_at=NOW - 2,
        context_length=2048,
    )


def test_member_that_is_not_loaded_keeps_its_last_use_and_no_other_figure() -> None:
    now = inside(HOST, shown("", last_used=NOW - 9, load_s=2))
    assert (now.state, now.last_used_at) == (State.STOPPED, NOW - 9)
    assert (now.replicas, now.pending, now.running, now.memory_mb) == (0, 0, 0, 0)
    assert (now.loaded_at, now.unloads_at, now.needs_mb, now.loading) == (None, None, None, None)


def test_why_the_host_is_up_is_no_reason_of_a_member_that_is_not() -> None:
    assert inside(HOST).reason == ""
    assert inside(ModelState(State.STOPPED, reason="idle for 5 s")).reason == "idle for 5 s"


@pytest.mark.parametrize("order", [1, -1])
def test_load_of_a_member_tells_how_far_it_is_before_a_wait_does(order: int) -> None:
    each = [shown("waiting", 9), shown("loading", 2, load_s=4.0)][::order]
    assert inside(HOST, *each).loading == Loading("loading", 2, 4.0)
    assert inside(HOST, shown("waiting", 9)).loading == Loading("waiting", 9, None)
    assert inside(HOST, shown("loading", -3)).loading == Loading("loading", 0, None)


def test_reading_finds_a_model_and_its_members_in_its_deployment() -> None:
    model = ModelConfig(name="org/base", engine="echo", adapters=(Adapter(name="style", path="/style"),))
    base, style = Catalog([model])
    up = ModelState(State.RUNNING)
    loaded = {"org--base": {"style": [shown("up")]}}
    assert Reading({"org--base": up}, members=loaded).of_entry(base) is up
    assert Reading({"org--base": up}, members=loaded).of_entry(style).reason == "loaded"
    assert Reading({"org--base": up}).of_entry(style).state is State.STOPPED
    assert Reading({}, members=loaded).of_entry(style).state is State.STOPPED


async def test_state_of_an_entry_is_that_of_the_reading() -> None:
    model = ModelConfig(name="org/base", engine="echo", adapters=(Adapter(name="style", path="/style"),))
    _, style = Catalog([model])
    answer = Reading({"org--base": HOST}, members={"org--base": {"style": [shown("leaving")]}})
    assert (await States(lambda: answer).of_entry(style)).state is State.STOPPING


# Read from Serve and the board ---------------------------------------------------------------------------------------


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Serve tells of each deployment of the application `app`, by its name."""
    told: dict[str, Any] = {}
    applications = {"app": told, "other": {"a": overview({"RUNNING": 1})}}
    monkeypatch.setattr(details, "deployments", lambda name: applications[name])
    return told


def overview(replicas: dict[str, int], message: str = "") -> dict[str, Any]:
    """Serve's DeploymentDetails, as far as they matter."""
    from ray.serve._private.common import DeploymentStatusTrigger, ReplicaState

    own = [{"state": ReplicaState(state)} for state, count in replicas.items() for _ in range(count)]
    return {"status_trigger": DeploymentStatusTrigger.AUTOSCALING, "message": message, "replicas": own}


def test_model_is_read_at_all_its_placements(deployed: dict[str, Any]) -> None:
    board = Board("app", Memory())
    board.publish(encode(Table("life", 3, {"a": Row(replicas=1, deployment="a~1", placements={"a": "no GPU"})})))
    board.report(Report("a", "r1", "n1", "up", context_length=2048, deployment="a~1"))
    deployed |= {"a": overview({}), "a~1": overview({"RUNNING": 1}), "Ingress": overview({"RUNNING": 1})}
    known = read("app", board, {"a": ("a", "a~1"), "b": ("b",)})
    assert known.states.keys() == {"a", "b"}
    assert known.cap == 3
    now = known.of("a")
    assert (now.state, now.replicas, now.deployment, now.context_length) == (State.RUNNING, 1, "a~1", 2048)
    assert now.placements == {"a": "no GPU"}
    assert known.of("b").state is State.STOPPED


def test_model_is_on_the_nodes_of_its_living_replicas(deployed: dict[str, Any]) -> None:
    board = Board("app", Memory())
    board.publish(encode(Table("life", 3, {"a": Row(replicas=2)})))
    for replica, address, failure in (("r1", "10.0.0.2", None), ("r2", "10.0.0.1", None), ("r3", "10.0.0.3", "dead")):
        board.report(Report("a", replica, "n", "up", failure=failure, address=address))
    deployed["a"] = overview({"RUNNING": 2})
    assert read("app", board, {"a": ("a",)}).of("a").nodes == ("10.0.0.1", "10.0.0.2")
    deployed["a"] = overview({})
    board.publish(encode(Table("life", 3)))
    assert read("app", board, {"a": ("a",)}).of("a").nodes == ()


def test_member_is_on_the_nodes_where_it_is_loaded(deployed: dict[str, Any]) -> None:
    board = Board("app", Memory())
    for replica, members in {"r1": {"a": shown("up")}, "r2": {"a": shown("loading"), "b": shown("loading")}}.items():
        board.report(Report("pool--p", replica, "n", "up", members=members, address=f"host-{replica}"))
    deployed["pool--p"] = overview({"RUNNING": 2})
    known = read("app", board, {"pool--p": ("pool--p",)})
    assert [known.of("pool--p", name).nodes for name in ("a", "b", "c")] == [("host-r1",), ("host-r2",), ()]


def test_model_is_pinned_as_an_operator_said(deployed: dict[str, Any]) -> None:
    board = Board("app", Memory())
    board.publish(encode(Table("life", 3, {"a": Row(pinned=False), "b": Row()})))
    known = read("app", board, {"a": ("a",), "b": ("b",)})
    assert (known.of("a").pinned, known.of("b").pinned) == (False, None)


def test_model_is_gone_that_an_application_with_other_deployments_has_no_more(deployed: dict[str, Any]) -> None:
    known = {"a": ("a", "a~1"), "b": ("b",)}
    board = Board("app", Memory())
    assert not read("app", board, known).of("b").gone, "Serve builds the application anew"
    deployed["a~1"] = overview({})
    reading = read("app", board, known)
    assert (reading.of("a").gone, reading.of("b").gone) == (False, True)


def test_members_are_read_from_the_reports_of_all_replicas(deployed: dict[str, Any]) -> None:
    board = Board("app", Memory())
    for replica, members in {"r1": {"a": shown("up"), "b": shown("leaving")}, "r2": {"a": shown("up")}}.items():
        board.report(Report("pool--p", replica, "n1", "up", members=members))
    deployed["pool--p"] = overview({"RUNNING": 2})
    known = read("app", board, {"pool--p": ("pool--p",)})
    assert known.of("pool--p", "a").replicas == 2
    assert known.of("pool--p", "b").state is State.STOPPING
    assert known.of("pool--p", "c").state is State.STOPPED


def test_nothing_is_read_before_the_first_policy_and_after_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "deployments", lambda _: {})
    known = read("app", Board("app", Memory()), {"a": ("a", "a~1")})
    assert known == Reading({"a": ModelState(State.STOPPED, deployment="a")})


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
