"""Management over a board in memory, with a policy that answers wishes as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any

import pytest

from deployments.config import ModelConfig
from deployments.errors import (
    ApiError,
    Capacity,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    ModelNotRunning,
    StopTimeout,
)
from deployments.residency.board import Board, Row, Table, Wish, encode
from ingress import management, states
from ingress.catalog import Catalog
from ingress.leases import RETRY_AFTER_S
from ingress.management import Management, view
from ingress.states import STOPPED, Loading, ModelState, Reading, State, States

LONG = 30.0
NOW = 1_800_000_000.0
QWEN = ModelConfig(name="Qwen/Qwen3-8B", aliases=("qwen",), engine="echo", auto_start=True)
SMOL = ModelConfig(name="smol", engine="echo", auto_start=True)
LAZY = ModelConfig(name="lazy", engine="echo", auto_load=False)
SUPERSEDED = "another wish came after it: stop"

CONTRACT = {
    *("name", "aliases", "mode", "engine", "status", "failure_reason", "replicas", "pending_requests"),
    *("running_requests", "loaded_at", "last_used_at", "idle_seconds", "memory_bytes", "context_length"),
    *("auto_start", "auto_load"),
}


class Memory:
    """The board's store."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.broken = False
        self.changed = threading.Condition()

    def put(self, key: str, value: bytes) -> None:
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()

    def get(self, key: str) -> bytes | None:
        if self.broken:
            raise ConnectionError("no control service")
        return self.values.get(key)

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.values if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class Policy:
    """Sees wishes on the board, and answers them when a test says so."""

    def __init__(self) -> None:
        self.store = Memory()
        self.board = Board("app", self.store)
        self._rows: dict[str, Row] = {}

    async def sees(self, count: int) -> tuple[Wish, ...]:
        def see() -> tuple[Wish, ...]:
            with self.store.changed:
                assert self.store.changed.wait_for(lambda: len(self.board.wishes()) >= count, timeout=10)
                return self.board.wishes()

        return await asyncio.to_thread(see)

    def answer(self, *wishes: Wish, problem: str = "") -> None:
        for wish in wishes:
            self._rows.setdefault(wish.model, Row()).answers[wish.id] = problem
        self.board.publish(encode(Table("life", 3, self._rows)))
        self.board.fulfil([wish.id for wish in wishes])


class Clock:
    """Management's time, which stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return NOW


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Looks follow each other at once, and each reads anew."""
    monkeypatch.setattr(management, "LOOK_S", 0.001)
    monkeypatch.setattr(management, "CHANGES_S", 0.0)
    monkeypatch.setattr(states, "TTL_S", -1.0)
    clock = Clock()
    monkeypatch.setattr(management, "time", clock)
    return clock


@pytest.fixture
def policy() -> Policy:
    return Policy()


def manage(policy: Policy, wait_s: float = LONG, models: Mapping[str, ModelState] | None = None) -> Management:
    return over(lambda: Reading(models or {}), policy, wait_s)


def over(read: Callable[[], Reading], policy: Policy, wait_s: float = LONG) -> Management:
    return Management(Catalog([QWEN, SMOL, LAZY]), States(read), policy.board, start_s=wait_s, stop_s=wait_s)


class Impatient(Management):
    """Does not wait for `smol`."""

    def __init__(self, policy: Policy, **models: ModelState) -> None:
        catalog, known = Catalog([QWEN, SMOL, LAZY]), States(lambda: Reading(models))
        super().__init__(catalog, known, policy.board, start_s=LONG, stop_s=LONG)

    async def _wait(self, wish: Wish, wait_s: float) -> str:
        if wish.model == "smol":
            raise TimeoutError
        return await super()._wait(wish, wait_s)


async def waits(task: asyncio.Task[Any]) -> None:
    await asyncio.wait({task}, timeout=0.01)
    assert not task.done()


# One model -----------------------------------------------------------------------------------------------------------


async def test_start_is_a_wish_for_the_models_deployment_and_ends_with_its_answer(policy: Policy) -> None:
    start = asyncio.create_task(manage(policy).start(QWEN))
    (wish,) = await policy.sees(1)
    assert (wish.model, wish.kind) == ("Qwen--Qwen3-8B", "start")
    await waits(start)
    policy.answer(wish)
    await start


async def test_answer_to_another_wish_ends_nothing(policy: Policy) -> None:
    start = asyncio.create_task(manage(policy).start(SMOL))
    (wish,) = await policy.sees(1)
    policy.answer(Wish("another", "smol", "start"), Wish(wish.id, "lazy", "start"))
    await waits(start)
    policy.answer(wish)
    await start


async def test_each_caller_has_a_wish_of_its_own(policy: Policy) -> None:
    managed = manage(policy)
    starts = [asyncio.create_task(managed.start(SMOL)) for _ in range(3)]
    policy.answer(*await policy.sees(3))
    await asyncio.gather(*starts)


async def test_start_that_failed_says_why(policy: Policy) -> None:
    start = asyncio.create_task(manage(policy).start(QWEN))
    policy.answer(*await policy.sees(1), problem="ValueError: no weights")
    with pytest.raises(ModelLoadFailed) as caught:
        await start
    assert caught.value.message == "The model 'Qwen/Qwen3-8B' could not be loaded: ValueError: no weights"
    assert caught.value.retry_after_s == RETRY_AFTER_S


async def test_start_that_was_superseded_is_not_a_failure_of_the_model(policy: Policy) -> None:
    start = asyncio.create_task(manage(policy).start(SMOL))
    policy.answer(*await policy.sees(1), problem=SUPERSEDED)
    with pytest.raises(ModelNotRunning) as caught:
        await start
    assert SUPERSEDED in caught.value.message
    assert caught.value.retry_after_s == RETRY_AFTER_S


@pytest.mark.parametrize(
    ("now", "expected", "text"),
    [
        pytest.param(
            ModelState(State.STARTING, has_place=True, loading=Loading("loading", 3, 20)),
            ModelLoading,
            "still loading: loading, 3 s so far",
            id="loads",
        ),
        pytest.param(
            ModelState(State.STARTING, reason="waits: all 3 places are in use"),
            Capacity,
            "waits: all 3 places are in use",
            id="waits for a place",
        ),
        pytest.param(ModelState(State.FAILED, "no weights"), ModelLoadFailed, "no weights", id="failed"),
    ],
)
async def test_start_that_takes_too_long_says_what_it_waits_for_and_goes_on(
    policy: Policy, now: ModelState, expected: type[ApiError], text: str
) -> None:
    with pytest.raises(expected, match=text) as caught:
        await manage(policy, 0.01, {"smol": now}).start(SMOL)
    assert caught.value.retry_after_s
    assert len(policy.board.wishes()) == 1


async def test_stop_ends_with_its_answer(policy: Policy) -> None:
    stop = asyncio.create_task(manage(policy).stop(QWEN))
    (wish,) = await policy.sees(1)
    assert (wish.model, wish.kind) == ("Qwen--Qwen3-8B", "stop")
    await waits(stop)
    policy.answer(wish)
    await stop


async def test_stop_that_takes_too_long_is_a_timeout_and_goes_on(policy: Policy) -> None:
    with pytest.raises(StopTimeout) as caught:
        await manage(policy, 0.01).stop(SMOL)
    assert (caught.value.status, caught.value.code) == (504, "timeout")
    assert "'smol'" in caught.value.message
    assert len(policy.board.wishes()) == 1


async def test_stop_that_was_superseded_says_so(policy: Policy) -> None:
    stop = asyncio.create_task(manage(policy).stop(SMOL))
    policy.answer(*await policy.sees(1), problem="another wish came after it: start")
    with pytest.raises(ModelNotRunning, match="another wish came after it: start"):
        await stop


async def test_wish_is_left_and_not_waited_for(policy: Policy) -> None:
    wish = await manage(policy).wish(LAZY, "restart")
    assert policy.board.wishes() == (wish,)
    assert (wish.model, wish.kind) == ("lazy", "restart")


async def test_table_that_cannot_be_read_for_a_while_ends_no_wait(policy: Policy) -> None:
    start = asyncio.create_task(manage(policy).start(SMOL))
    (wish,) = await policy.sees(1)
    policy.store.broken = True
    await waits(start)
    policy.store.broken = False
    policy.answer(wish)
    await start


async def test_caller_that_leaves_leaves_its_wish(policy: Policy) -> None:
    start = asyncio.create_task(manage(policy).start(SMOL))
    await policy.sees(1)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert len(policy.board.wishes()) == 1


# All models ----------------------------------------------------------------------------------------------------------


async def test_all_are_stopped_and_those_that_were_up_are_named(policy: Policy) -> None:
    up = {"Qwen--Qwen3-8B": ModelState(State.RUNNING), "smol": ModelState(State.FAILED, "bad")}
    stop = asyncio.create_task(manage(policy, models=up).stop_all())
    wishes = await policy.sees(3)
    assert {(wish.model, wish.kind) for wish in wishes} == {(m, "stop") for m in ("Qwen--Qwen3-8B", "smol", "lazy")}
    policy.answer(*wishes[:2])
    await waits(stop)
    policy.answer(wishes[2])
    assert await stop == ["Qwen/Qwen3-8B"]


@pytest.mark.parametrize(("state", "was_up"), [(s, s not in (State.STOPPED, State.FAILED)) for s in State])
async def test_model_that_starts_or_ends_counts_as_up(policy: Policy, state: State, was_up: bool) -> None:
    stop = asyncio.create_task(manage(policy, models={"lazy": ModelState(state)}).stop_all())
    policy.answer(*await policy.sees(3))
    assert (await stop == ["lazy"]) is was_up


async def test_all_are_waited_for_though_one_does_not_end(policy: Policy) -> None:
    stop = asyncio.create_task(Impatient(policy).stop_all())
    wishes = await policy.sees(3)
    policy.answer(*(wish for wish in wishes if wish.model == "lazy"))
    await waits(stop)
    policy.answer(*(wish for wish in wishes if wish.model == "Qwen--Qwen3-8B"))
    with pytest.raises(StopTimeout, match="'smol'"):
        await stop


async def test_auto_start_models_and_no_others_are_restarted(policy: Policy) -> None:
    restart = asyncio.create_task(manage(policy).restart_autostart())
    wishes = {wish.model: wish for wish in await policy.sees(2)}
    assert {model: wish.kind for model, wish in wishes.items()} == {"Qwen--Qwen3-8B": "restart", "smol": "restart"}
    policy.answer(wishes["smol"], problem="ValueError: no weights")
    await waits(restart)
    policy.answer(wishes["Qwen--Qwen3-8B"])
    assert await restart == {
        "Qwen/Qwen3-8B": "",
        "smol": "The model 'smol' could not be loaded: ValueError: no weights",
    }


async def test_restart_that_takes_too_long_is_a_problem_of_that_model(policy: Policy) -> None:
    now = ModelState(State.STARTING, has_place=True)
    restart = asyncio.create_task(Impatient(policy, smol=now).restart_autostart())
    policy.answer(*(wish for wish in await policy.sees(2) if wish.model != "smol"))
    assert await restart == {"Qwen/Qwen3-8B": "", "smol": "The model 'smol' is still loading."}


# How the models are --------------------------------------------------------------------------------------------------


def test_view_has_every_field_of_the_contract() -> None:
    assert view(LAZY, STOPPED).keys() >= CONTRACT


def test_view_of_a_running_model() -> None:
    now = ModelState(
        State.RUNNING,
        reason="idle",
        has_place=True,
        replicas=2,
        loaded_at=NOW - 60,
        last_used_at=NOW - 2.04,
        unloads_at=NOW + 298,
        memory_mb=1.5,
        needs_mb=2,
        context_length=2048,
    )
    assert json.loads(json.dumps(view(QWEN, now))) == {
        "name": "Qwen/Qwen3-8B",
        "aliases": ["qwen"],
        "mode": "chat",
        "engine": "echo",
        "status": "running",
        "failure_reason": None,
        "reason": "idle",
        "loading": None,
        "replicas": 2,
        "pending_requests": 0,
        "running_requests": 0,
        "loaded_at": NOW - 60,
        "last_used_at": NOW - 2.04,
        "idle_seconds": 2.0,
        "unloads_at": NOW + 298,
        "memory_bytes": 3 * 2**19,
        "memory_needed_bytes": 2**21,
        "context_length": 2048,
        "auto_start": True,
        "auto_load": True,
        "pinned": False,
        "priority": 0,
    }


def test_view_of_a_model_that_starts_tells_how_far_it_is() -> None:
    now = ModelState(State.STARTING, pending=3, loading=Loading("loading", 1.5, None))
    shown = view(LAZY, now)
    assert shown["loading"] == {"phase": "loading", "seconds": 1.5, "last_seconds": None}
    assert (shown["status"], shown["pending_requests"], shown["auto_load"]) == ("starting", 3, False)


def test_view_of_a_failed_model_tells_why() -> None:
    shown = view(LAZY, ModelState(State.FAILED, "no weights"))
    assert (shown["status"], shown["failure_reason"]) == ("failed", "no weights")


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(ModelState(State.RUNNING, last_used_at=NOW - 9, running=1), id="in use"),
        pytest.param(ModelState(State.RUNNING, last_used_at=NOW - 9, pending=1), id="asked for"),
        pytest.param(ModelState(State.STOPPED, last_used_at=NOW - 9), id="down"),
        pytest.param(ModelState(State.RUNNING), id="of unknown use"),
    ],
)
def test_only_an_idle_model_has_been_idle_for_some_time(now: ModelState) -> None:
    assert view(LAZY, now)["idle_seconds"] is None


def test_clock_of_another_node_makes_no_negative_idle_time() -> None:
    assert view(LAZY, ModelState(State.RUNNING, last_used_at=NOW + 5))["idle_seconds"] == 0


async def test_models_are_listed_in_the_order_of_the_configuration(policy: Policy) -> None:
    shown = await manage(policy, models={"lazy": ModelState(State.RUNNING)}).models()
    assert [(m["name"], m["status"]) for m in shown] == [
        ("Qwen/Qwen3-8B", "stopped"),
        ("smol", "stopped"),
        ("lazy", "running"),
    ]


async def test_one_model_is_found_by_each_of_its_names(policy: Policy) -> None:
    managed = manage(policy, models={"Qwen--Qwen3-8B": ModelState(State.RUNNING)})
    for name in QWEN.names:
        shown = await managed.model(name)
        assert (shown["name"], shown["status"]) == ("Qwen/Qwen3-8B", "running")
    with pytest.raises(ModelNotFound):
        await managed.model("Qwen--Qwen3-8B")


# Changes -------------------------------------------------------------------------------------------------------------


class Readings:
    """Each reading in turn, the last one for ever."""

    def __init__(self, *readings: dict[str, ModelState]) -> None:
        self._readings: Iterator[dict[str, ModelState]] = iter(readings)
        self._now: dict[str, ModelState] = {}
        self.count = 0

    def __call__(self) -> Reading:
        self.count += 1
        self._now = next(self._readings, self._now)
        return Reading(self._now)


async def next_event(events: AsyncGenerator[bytes, None]) -> dict[str, Any]:
    raw = await asyncio.wait_for(anext(events), 10)
    assert raw.startswith(b"data: ")
    assert raw.endswith(b"\n\n")
    assert raw.count(b"\n") == 2
    event: dict[str, Any] = json.loads(raw.removeprefix(b"data: "))
    return event


async def test_whole_table_comes_first_and_then_what_changes(policy: Policy) -> None:
    running, starting = ModelState(State.RUNNING), ModelState(State.STARTING)
    readings = Readings(
        {"smol": starting}, {"smol": starting}, {"smol": running}, {"smol": STOPPED, "lazy": starting}, {}
    )
    events = over(readings, policy).changes()
    table = await next_event(events)
    assert table["type"] == "models"
    assert [(m["name"], m["status"]) for m in table["models"]] == [
        ("Qwen/Qwen3-8B", "stopped"),
        ("smol", "starting"),
        ("lazy", "stopped"),
    ]
    assert table["models"][0].keys() >= CONTRACT
    told = [await next_event(events) for _ in range(4)]
    assert [event["type"] for event in told] == ["model"] * 4
    assert [(event["model"]["name"], event["model"]["status"]) for event in told] == [
        ("smol", "running"),
        ("smol", "stopped"),
        ("lazy", "starting"),
        ("lazy", "stopped"),
    ]
    assert told[0]["model"].keys() >= CONTRACT
    assert readings.count == 5
    await events.aclose()


async def test_clocks_alone_are_no_event(policy: Policy) -> None:
    def at(s: float) -> ModelState:
        return ModelState(State.RUNNING, last_used_at=NOW - s, unloads_at=NOW + s, memory_mb=s, loaded_at=NOW)

    def loading(s: float, phase: str = "preparing the weights") -> ModelState:
        return ModelState(State.STARTING, loading=Loading(phase, s, 20))

    readings = Readings(
        *({"smol": at(s), "lazy": loading(s)} for s in range(4)),
        {"smol": at(4), "lazy": loading(4, "loading")},
    )
    events = over(readings, policy).changes()
    await next_event(events)
    change = await next_event(events)
    assert change["model"]["name"] == "lazy"
    assert change["model"]["loading"] == {"phase": "loading", "seconds": 4, "last_seconds": 20}
    assert readings.count == 5
    await events.aclose()


async def test_quiet_stream_pings_now_and_then(policy: Policy, clock: Clock) -> None:
    class Minutes(Readings):
        def __call__(self) -> Reading:
            clock.now += 10
            return super().__call__()

    readings = Minutes({}, {}, {}, {}, {}, {"smol": ModelState(State.RUNNING)})
    events = over(readings, policy).changes()
    await next_event(events)
    for count in (3, 5):  # every second reading: more than 15 s are over
        assert await anext(events) == b": ping\n\n"
        assert readings.count == count
    assert (await next_event(events))["type"] == "model"
    await events.aclose()


async def test_reader_who_comes_later_gets_the_whole_table_too(policy: Policy) -> None:
    managed = over(Readings({}, {"smol": ModelState(State.RUNNING)}), policy)
    for expected in ("stopped", "running"):
        events = managed.changes()
        table = await next_event(events)
        assert (table["type"], table["models"][1]["status"]) == ("models", expected)
        await events.aclose()


async def test_states_that_cannot_be_read_for_a_while_end_no_stream(policy: Policy) -> None:
    class Flaky(Readings):
        def __call__(self) -> Reading:
            if self.count == 1:
                self.count += 1
                raise ConnectionError("no controller")
            return super().__call__()

    events = over(Flaky({}, {"smol": ModelState(State.RUNNING)}), policy).changes()
    await next_event(events)
    assert (await next_event(events))["model"]["name"] == "smol"
    await events.aclose()
