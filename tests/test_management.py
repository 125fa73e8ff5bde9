"""Management over a board in memory, with a policy that answers wishes as it is told."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from deployments.config import Adapter, ModelConfig, Placement
from deployments.errors import (
    ApiError,
    Capacity,
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    ModelNotRunning,
    StopTimeout,
    UpstreamTimeout,
)
from deployments.residency.board import Board, Row, Table, Wish, encode
from deployments.shelf import Shown
from ingress import management, states
from ingress.catalog import Catalog, Entry
from ingress.leases import RETRY_AFTER_S, Route
from ingress.management import Management, view
from ingress.states import STOPPED, Loading, ModelState, Reading, State, States

LONG = 30.0
NOW = 1_800_000_000.0
CATALOG = Catalog(
    [
        ModelConfig(name="Qwen/Qwen3-8B", aliases=("qwen",), engine="echo", auto_start=True),
        ModelConfig(name="smol", engine="echo", auto_start=True),
        ModelConfig(name="lazy", engine="echo", auto_load=False),
    ]
)
QWEN, SMOL, LAZY = CATALOG
SUPERSEDED = "another wish came after it: stop"
request_var: contextvars.ContextVar[str] = contextvars.ContextVar("request_var")

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
    return Management(CATALOG, States(read), policy.board, {}, start_s=wait_s, stop_s=wait_s)


class Impatient(Management):
    """Does not wait for `smol`."""

    def __init__(self, policy: Policy, **models: ModelState) -> None:
        super().__init__(CATALOG, States(lambda: Reading(models)), policy.board, {}, start_s=LONG, stop_s=LONG)

    async def _wait(self, wish: Wish) -> str:
        if wish.model == "smol":
            raise TimeoutError
        return await super()._wait(wish)


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


@pytest.mark.parametrize(("pinned", "kind"), [(True, "pin"), (False, "unpin")])
async def test_pin_holds_when_it_is_told(policy: Policy, pinned: bool, kind: str) -> None:
    pin = asyncio.create_task(manage(policy).pin(QWEN, pinned=pinned))
    (wish,) = await policy.sees(1)
    assert (wish.model, wish.kind) == ("Qwen--Qwen3-8B", kind)
    await waits(pin)
    policy.answer(wish)
    await pin


async def test_pin_that_nobody_hears_is_told(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "PIN_S", 0.0)
    with pytest.raises(UpstreamTimeout):
        await manage(policy).pin(QWEN, pinned=True)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (ModelConfig(name="a", engine="echo", pool="q"), "a model of the pool 'q'"),
        (ModelConfig(name="b", engine="echo", adapters=(Adapter(name="a", path="/x"),)), "the adapter of 'b'"),
    ],
)
async def test_model_that_goes_with_others_is_not_pinned_by_itself(
    policy: Policy, model: ModelConfig, why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        await manage(policy).pin(Catalog([model]).find("a"), pinned=True)
    assert policy.board.wishes() == ()


@pytest.mark.parametrize(
    ("configured", "said", "pinned"), [(False, None, False), (True, None, True), (True, False, False)]
)
def test_what_is_shown_of_a_pin_is_what_holds(configured: bool, said: bool | None, pinned: bool) -> None:
    (entry,) = Catalog([ModelConfig(name="a", engine="echo", pinned=configured)])
    assert view(entry, replace(STOPPED, pinned=said))["pinned"] is pinned


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
    assert len(await policy.sees(1)) == 1


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
    assert len(await policy.sees(1)) == 1


async def test_stop_that_was_superseded_says_so(policy: Policy) -> None:
    stop = asyncio.create_task(manage(policy).stop(SMOL))
    policy.answer(*await policy.sees(1), problem="another wish came after it: start")
    with pytest.raises(ModelNotRunning, match="another wish came after it: start"):
        await stop


async def test_wish_is_left_and_not_waited_for(policy: Policy) -> None:
    await manage(policy).wish(LAZY, "restart")
    (wish,) = policy.board.wishes()
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


# Members -------------------------------------------------------------------------------------------------------------

INSIDE = Catalog(
    [
        ModelConfig(
            name="org/base",
            engine="echo",
            auto_start=True,
            adapters=(Adapter(name="style", path="/style"), Adapter(name="tone", path="/tone")),
        ),
        ModelConfig(name="p1", aliases=("one",), engine="echo", pool="many", auto_start=True),
        ModelConfig(name="p2", engine="echo", pool="many"),
    ]
)
BASE, STYLE, TONE, P1, P2 = INSIDE


class Inside(Route):
    """The way to one member, in as many replicas as it is told. Each step waits for its gate, and fails as told."""

    def __init__(self, happened: list[str], name: str) -> None:
        self._happened = happened
        self._name = name
        self.replicas = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []

    async def load(self) -> None:
        await self._happens("load")
        self.replicas = 1

    async def unload(self) -> None:
        await self._happens("unload")
        self.replicas -= 1

    async def _happens(self, what: str) -> None:
        self._happened.append(f"{what} {self._name}")
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)

    @property
    def shown(self) -> list[dict[str, Any]]:
        return [asdict(Shown("up", NOW)) for _ in range(self.replicas)]


class Replicas:
    """Management over hosts that are as a test says, whose members come and go."""

    def __init__(self, policy: Policy, wait_s: float = LONG) -> None:
        self.happened: list[str] = []
        self.hosts = {name: ModelState(State.RUNNING) for name in ("org--base", "pool--many")}
        self.routes = {entry.name: Inside(self.happened, entry.name) for entry in INSIDE}
        self.management = Management(
            INSIDE, States(self._read), policy.board, self.routes, start_s=wait_s, stop_s=wait_s
        )

    def _read(self) -> Reading:
        members: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for entry in INSIDE:
            if entry.member is not None:
                members.setdefault(entry.deployment_name, {})[entry.member] = self.routes[entry.name].shown
        return Reading(self.hosts, members=members)


@pytest.mark.parametrize(("entry", "host"), [(STYLE, "org--base"), (P1, "pool--many")])
async def test_member_is_loaded_once_its_host_is_up(policy: Policy, entry: Entry, host: str) -> None:
    replicas = Replicas(policy)
    start = asyncio.create_task(replicas.management.start(entry))
    (wish,) = await policy.sees(1)
    assert (wish.model, wish.kind) == (host, "start")
    await waits(start)
    assert replicas.happened == []
    policy.answer(wish)
    await start
    assert replicas.happened == [f"load {entry.name}"]


async def test_member_of_a_host_that_cannot_start_is_not_loaded(policy: Policy) -> None:
    replicas = Replicas(policy)
    start = asyncio.create_task(replicas.management.start(STYLE))
    policy.answer(*await policy.sees(1), problem="ValueError: no weights")
    with pytest.raises(ModelLoadFailed, match="'style' could not be loaded: ValueError: no weights"):
        await start
    assert replicas.happened == []


async def test_member_that_cannot_be_loaded_says_why(policy: Policy) -> None:
    replicas = Replicas(policy)
    replicas.routes["style"].failures = [ModelLoadFailed("rank 64 is too much")]
    start = asyncio.create_task(replicas.management.start(STYLE))
    policy.answer(*await policy.sees(1))
    with pytest.raises(ModelLoadFailed, match="rank 64 is too much"):
        await start


async def test_member_that_takes_too_long_to_load_says_so(policy: Policy) -> None:
    replicas = Replicas(policy, 0.2)
    replicas.hosts["org--base"] = ModelState(State.RUNNING, has_place=True)
    replicas.routes["style"].gate.clear()
    start = asyncio.create_task(replicas.management.start(STYLE))
    policy.answer(*await policy.sees(1))
    with pytest.raises(ModelLoading, match="'style' is still loading"):
        await start


async def test_member_is_taken_out_of_every_replica_and_its_host_stays(policy: Policy) -> None:
    replicas = Replicas(policy)
    replicas.routes["p1"].replicas = 3
    await replicas.management.stop(P1)
    assert replicas.happened == ["unload p1"] * 3
    assert policy.board.wishes() == ()


async def test_stop_of_a_member_that_is_not_loaded_asks_nobody(policy: Policy) -> None:
    replicas = Replicas(policy)
    await replicas.management.stop(P1)
    assert replicas.happened == []


@pytest.mark.parametrize("state", [State.STOPPED, State.STOPPING, State.FAILED])
async def test_stop_of_a_member_whose_host_is_gone_asks_nobody(policy: Policy, state: State) -> None:
    replicas = Replicas(policy)
    replicas.routes["p1"].replicas = 1
    replicas.hosts["pool--many"] = ModelState(state)
    await replicas.management.stop(P1)
    assert replicas.happened == []


async def test_stop_of_a_member_that_still_answers_is_a_timeout(policy: Policy) -> None:
    replicas = Replicas(policy, 0.01)
    replicas.routes["p1"].replicas = 1
    replicas.routes["p1"].gate.clear()
    with pytest.raises(StopTimeout, match="'p1' still finishes its requests"):
        await replicas.management.stop(P1)


async def test_replica_that_dies_while_a_member_is_taken_out_has_it_no_more(policy: Policy) -> None:
    replicas = Replicas(policy)
    replicas.routes["p1"].replicas = 2
    replicas.routes["p1"].failures = [EngineFailed("The replica failed: actor died")]
    await replicas.management.stop(P1)
    assert replicas.happened == ["unload p1"] * 3


async def test_unattended_start_and_stop_of_a_member_go_on(policy: Policy) -> None:
    replicas = Replicas(policy)
    await replicas.management.wish(P1, "start")
    policy.answer(*await policy.sees(1))
    await reaches(lambda: replicas.routes["p1"].replicas == 1)
    await replicas.management.wish(P1, "stop")
    await reaches(lambda: replicas.routes["p1"].replicas == 0)
    assert replicas.happened == ["load p1", "unload p1"]


@pytest.mark.parametrize("failure", [ModelLoadFailed("no weights"), RuntimeError("no controller")])
async def test_unattended_failure_is_in_the_log(
    policy: Policy, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    replicas = Replicas(policy)
    replicas.routes["p1"].failures = [failure]
    await replicas.management.wish(P1, "start")
    policy.answer(*await policy.sees(1))
    await reaches(lambda: f"Model p1: {failure}" in caplog.messages)


async def test_unattended_work_belongs_to_no_request(policy: Policy) -> None:
    """Ray would cancel its calls with that request."""
    seen: list[str] = []

    class Looks(Inside):
        async def unload(self) -> None:
            seen.append(request_var.get("none"))
            await super().unload()

    replicas = Replicas(policy)
    replicas.routes["p1"] = Looks([], "p1")
    replicas.management._routes = replicas.routes
    replicas.routes["p1"].replicas = 1
    request_var.set("mine")
    await replicas.management.wish(P1, "stop")
    await reaches(lambda: seen == ["none"])


async def test_all_hosts_are_stopped_once_and_members_that_were_up_are_named(policy: Policy) -> None:
    replicas = Replicas(policy)
    for name in ("style", "p2"):
        replicas.routes[name].replicas = 1
    stop = asyncio.create_task(replicas.management.stop_all())
    wishes = await policy.sees(2)
    assert [(wish.model, wish.kind) for wish in wishes] == [("org--base", "stop"), ("pool--many", "stop")]
    policy.answer(*wishes)
    assert await stop == ["org/base", "style", "p2"]
    assert replicas.happened == []
    assert len(policy.board.wishes()) == 0


async def test_stop_of_all_that_takes_too_long_names_the_base_and_not_its_adapter(policy: Policy) -> None:
    with pytest.raises(StopTimeout, match="'org/base' still"):
        await Replicas(policy, 0.01).management.stop_all()


async def test_restart_of_a_member_leaves_the_others_beside_it(policy: Policy) -> None:
    replicas = Replicas(policy)
    for name in ("p1", "p2"):
        replicas.routes[name].replicas = 1
    restart = asyncio.create_task(replicas.management.restart_autostart())
    wishes = {wish.model: wish for wish in await policy.sees(2)}
    assert {model: wish.kind for model, wish in wishes.items()} == {"org--base": "restart", "pool--many": "start"}
    policy.answer(*wishes.values())
    assert await restart == {"org/base": "", "p1": ""}
    assert replicas.happened == ["unload p1", "load p1"]


async def test_members_are_listed_with_their_parents_and_pools(policy: Policy) -> None:
    replicas = Replicas(policy)
    replicas.routes["p2"].replicas = 1
    shown = await replicas.management.models()
    assert [(m["name"], m["parent"], m["pool"], m["placement"], m["status"]) for m in shown] == [
        ("org/base", None, None, "org--base", "running"),
        ("style", "org/base", None, "org--base", "stopped"),
        ("tone", "org/base", None, "org--base", "stopped"),
        ("p1", None, "many", "pool--many", "stopped"),
        ("p2", None, "many", "pool--many", "running"),
    ]
    assert (await replicas.management.model("one"))["name"] == "p1"


async def reaches(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.001)


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
        nodes=("10.0.0.1",),
    )
    assert json.loads(json.dumps(view(QWEN, now))) == {
        "name": "Qwen/Qwen3-8B",
        "aliases": ["qwen"],
        "mode": "chat",
        "engine": "echo",
        "parent": None,
        "pool": None,
        "placement": "Qwen--Qwen3-8B",
        "not_placed": {},
        "status": "running",
        "failure_reason": None,
        "reason": "idle",
        "loading": None,
        "replicas": 2,
        "nodes": ["10.0.0.1"],
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


def test_view_tells_where_a_model_is_served_and_why_not_elsewhere() -> None:
    placements = (Placement(engine="vllm", source="org/a", num_gpus=1), Placement(engine="echo"))
    (entry,) = Catalog([ModelConfig(name="a", engine="echo", placements=placements)])
    now = ModelState(State.RUNNING, deployment="a~1", placements={"a": "no node has GPU: 1"})
    shown = view(entry, now)
    assert (shown["placement"], shown["engine"]) == ("a~1", "echo")
    assert shown["not_placed"] == {"a": "no node has GPU: 1"}
    before = view(entry, STOPPED)
    assert (before["placement"], before["engine"], before["not_placed"]) == ("a", "vllm", {})


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
