"""Which models are up: the decision case by case, as invariants of a long random run, and as Serve's policy."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from deployments import residency
from deployments.residency import BACK_OFF_S, SETTLE_S, UNFINISHED, Demand, Model, ResidencyPolicy, decide

NOW = 10_000.0
DOWN = Demand(last_used=NOW)
PLAIN = Model()


def idle(ago: float, replicas: int = 1) -> Demand:
    """Up, and used last `ago` seconds ago."""
    return Demand(replicas=replicas, last_used=NOW - ago)


def busy(unfinished: float = 1, replicas: int = 1, queued: float = 0) -> Demand:
    return Demand(queued, unfinished, replicas, NOW)


def waits(since: float = 1, queued: float = 1) -> Demand:
    return Demand(queued=queued, last_used=NOW - since)


def leaving(queued: float = 0, since: float = 0) -> Demand:
    """Decided down, with a process that is not gone yet."""
    return Demand(queued=queued, last_used=NOW - since, leaving=True)


def working(up: float) -> Demand:
    """In use, and up for `up` seconds."""
    return Demand(0, 1, 1, NOW, NOW - up)


def replicas(cap: int, demand: Mapping[str, Demand], turn_s: float = 30, **models: Model) -> dict[str, int]:
    """The decision for the models of `demand`, which are PLAIN unless they are given."""
    configured = {name: models.get(name, PLAIN) for name in demand}
    return {name: d.replicas for name, d in decide(configured, demand, cap=cap, now=NOW, turn_s=turn_s).items()}


# decide --------------------------------------------------------------------------------------------------------------


def test_nothing_changes_without_demand() -> None:
    assert replicas(3, {"a": idle(100), "b": DOWN, "c": idle(5, replicas=2)}) == {"a": 1, "b": 0, "c": 2}


def test_no_models_is_no_decision() -> None:
    assert replicas(1, {}) == {}


def test_request_wakes_a_model() -> None:
    assert replicas(1, {"a": waits()}) == {"a": 1}


def test_many_that_wait_are_one_start() -> None:
    assert replicas(3, {"a": waits(queued=500)}, a=Model(max_replicas=1)) == {"a": 1}


def test_every_model_that_waits_gets_a_free_place() -> None:
    assert replicas(3, {"a": waits(), "b": waits(), "c": idle(9)}) == {"a": 1, "b": 1, "c": 1}


def test_victim_is_the_least_recently_used_idle_model() -> None:
    assert replicas(3, {"a": idle(20), "b": idle(30), "c": idle(10), "d": waits()}) == {"a": 1, "b": 0, "c": 1, "d": 0}


def test_place_is_taken_until_the_victims_process_is_gone() -> None:
    assert replicas(1, {"a": leaving(), "b": waits()}) == {"a": 0, "b": 0}
    assert replicas(1, {"a": DOWN, "b": waits()}) == {"a": 0, "b": 1}


def test_place_that_is_being_freed_costs_no_other_victim() -> None:
    assert replicas(2, {"a": leaving(), "b": waits(), "c": idle(99)}) == {"a": 0, "b": 0, "c": 1}
    assert replicas(2, {"a": leaving(), "b": waits(2), "c": idle(99), "d": waits(1)})["c"] == 0


def test_model_is_not_started_beside_its_own_last_process() -> None:
    assert replicas(3, {"a": leaving(queued=1)}) == {"a": 0}


def test_no_more_victims_than_are_needed() -> None:
    demand = {"a": idle(20), "b": idle(30), "c": idle(10), "d": waits(2), "e": waits(1)}
    assert replicas(4, demand) == {"a": 1, "b": 0, "c": 1, "d": 1, "e": 0}


def test_busy_models_are_never_victims() -> None:
    assert replicas(2, {"a": busy(), "b": busy(), "c": waits(since=999)}) == {"a": 1, "b": 1, "c": 0}, "without a turn"


def test_model_with_queued_requests_only_is_no_victim_either() -> None:
    """It may still be loading."""
    assert replicas(1, {"a": Demand(queued=1, replicas=1, last_used=NOW - 999), "b": waits(999)}) == {"a": 1, "b": 0}


@pytest.mark.parametrize(("ago", "kept"), [(0, 1), (SETTLE_S, 1), (SETTLE_S + 0.01, 0)])
def test_model_is_no_victim_before_its_reports_have_settled(ago: float, kept: int) -> None:
    assert replicas(1, {"a": idle(ago), "b": waits(1)}) == {"a": kept, "b": 0}


def test_longest_waiting_comes_first() -> None:
    demand = {"a": waits(2), "b": waits(9), "c": waits(5)}
    assert replicas(2, demand) == {"a": 0, "b": 1, "c": 1}
    assert replicas(1, demand) == {"a": 0, "b": 1, "c": 0}


def test_higher_priority_comes_first_and_goes_later() -> None:
    vip = Model(priority=1)
    assert replicas(1, {"a": waits(1), "b": waits(9)}, a=vip) == {"a": 1, "b": 0}
    assert replicas(2, {"a": idle(99), "b": idle(9), "c": waits()}, a=vip) == {"a": 1, "b": 0, "c": 0}


def test_pinned_model_is_never_unloaded() -> None:
    pinned = Model(pinned=True, idle_timeout_s=1)
    assert replicas(1, {"a": idle(999), "b": waits(999)}, a=pinned) == {"a": 1, "b": 0}
    assert replicas(1, {"a": working(999), "b": waits(999)}, a=pinned) == {"a": 1, "b": 0}
    assert replicas(1, {"a": DOWN}, a=pinned) == {"a": 0}, "pinned is not auto_start"


@pytest.mark.parametrize(("up", "kept"), [(4, 1), (5, 0)])
def test_model_is_not_unloaded_before_it_was_up_for_its_time(up: float, kept: int) -> None:
    seen = Demand(replicas=1, last_used=NOW - 3, up_since=NOW - up)
    young = Model(min_resident_s=5, idle_timeout_s=2)
    assert replicas(1, {"a": seen}, a=young) == {"a": kept}
    assert replicas(1, {"a": seen, "b": waits()}, a=Model(min_resident_s=5)) == {"a": kept, "b": 0}


@pytest.mark.parametrize(("ago", "kept"), [(BACK_OFF_S - 0.1, 1), (BACK_OFF_S, 0)])
def test_model_that_did_not_start_is_given_up_after_the_back_off(ago: float, kept: int) -> None:
    seen = Demand(replicas=1, last_used=NOW - ago, failed=True)
    assert replicas(1, {"a": seen}) == {"a": kept}
    assert replicas(1, {"a": seen}, a=Model(pinned=True)) == {"a": kept}
    assert replicas(1, {"a": seen}, a=Model(min_replicas=1)) == {"a": 1}


def test_model_that_did_not_start_gives_its_place_at_once() -> None:
    assert replicas(1, {"a": Demand(replicas=1, last_used=NOW - 1, failed=True), "b": waits()}) == {"a": 0, "b": 0}


# Turns: all models are in use, and another one waits -----------------------------------------------------------------


def test_turn_comes_after_the_wait_and_not_before() -> None:
    assert replicas(1, {"a": working(99), "b": waits(29)}) == {"a": 1, "b": 0}
    assert replicas(1, {"a": working(99), "b": waits(30)}) == {"a": 0, "b": 0}


def test_turn_ends_no_model_that_has_just_had_its_own() -> None:
    assert replicas(1, {"a": working(29), "b": waits(99)}) == {"a": 1, "b": 0}


def test_turn_ends_no_model_that_is_loading() -> None:
    assert replicas(1, {"a": Demand(queued=1, replicas=1, last_used=NOW), "b": waits(99)}) == {"a": 1, "b": 0}


def test_turn_takes_the_place_of_the_one_that_has_been_up_longest() -> None:
    assert replicas(2, {"a": working(50), "b": working(60), "c": waits(40)}) == {"a": 1, "b": 0, "c": 0}


def test_turn_takes_an_idle_place_first() -> None:
    assert replicas(2, {"a": working(99), "b": idle(1), "c": waits(99)}) == {"a": 1, "b": 0, "c": 0}


def test_turn_against_a_higher_priority_takes_longer_but_comes() -> None:
    vip = Model(priority=1)
    assert replicas(1, {"a": working(99), "b": waits(59)}, a=vip) == {"a": 1, "b": 0}
    assert replicas(1, {"a": working(99), "b": waits(60)}, a=vip) == {"a": 0, "b": 0}


def test_turn_respects_min_resident_s() -> None:
    assert replicas(1, {"a": working(99), "b": waits(99)}, a=Model(min_resident_s=100)) == {"a": 1, "b": 0}


def test_one_turn_a_waiting_model() -> None:
    demand = {"a": working(99), "b": working(98), "c": waits(99)}
    assert replicas(2, demand) == {"a": 0, "b": 1, "c": 0}
    assert replicas(2, {**demand, "a": leaving(queued=1)}) == {"a": 0, "b": 1, "c": 0}


def test_cap_holds_whatever_waits() -> None:
    demand = {f"m{i}": waits(i) for i in range(9)}
    assert sum(replicas(4, demand).values()) == 4


@pytest.mark.parametrize(
    ("timeout", "ago", "kept"),
    [(60, 59.9, 1), (60, 60, 0), (60, 9999, 0), (0, 9999, 1), (0.1, SETTLE_S, 1), (0.1, SETTLE_S + 0.01, 0)],
)
def test_idle_model_is_unloaded_after_its_own_time_and_never_for_zero(timeout: float, ago: float, kept: int) -> None:
    assert replicas(3, {"a": idle(ago)}, a=Model(idle_timeout_s=timeout)) == {"a": kept}


def test_busy_model_is_not_unloaded_however_long_it_takes() -> None:
    demand = {"a": Demand(unfinished=1, replicas=1, last_used=NOW - 999)}
    assert replicas(3, demand, a=Model(idle_timeout_s=1)) == {"a": 1}


def test_min_replicas_are_up_without_demand() -> None:
    assert replicas(3, {"a": DOWN}, a=Model(min_replicas=2, max_replicas=2)) == {"a": 2}


def test_min_replicas_are_never_unloaded() -> None:
    always = Model(idle_timeout_s=1, min_replicas=1)
    assert replicas(1, {"a": idle(999), "b": waits(999)}, a=always) == {"a": 1, "b": 0}
    assert replicas(1, {"a": idle(999), "b": idle(5)}, a=always) == {"a": 1, "b": 0}


def test_min_replicas_take_one_place() -> None:
    demand = {"a": idle(9, replicas=2), "b": waits(1), "c": waits(2)}
    assert replicas(2, demand, a=Model(min_replicas=2, max_replicas=2)) == {"a": 2, "b": 0, "c": 1}


def test_lower_cap_unloads_the_least_recently_used_idle_models() -> None:
    assert replicas(2, {"a": idle(20), "b": idle(30), "c": idle(10), "d": busy()}) == {"a": 0, "b": 0, "c": 1, "d": 1}


def test_lower_cap_unloads_no_busy_model_and_starts_none() -> None:
    assert replicas(1, {"a": busy(), "b": busy(), "c": idle(0), "d": waits()}) == {"a": 1, "b": 1, "c": 1, "d": 0}


def test_lower_cap_makes_room_before_it_lends_it() -> None:
    assert replicas(1, {"a": idle(20), "b": idle(30), "c": waits()}) == {"a": 0, "b": 0, "c": 0}
    assert replicas(1, {"a": leaving(), "b": idle(30), "c": waits()}) == {"a": 0, "b": 0, "c": 0}


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        pytest.param(busy(10, replicas=1), 1, id="exactly on target"),
        pytest.param(busy(11, replicas=1), 2, id="above target"),
        pytest.param(busy(11, replicas=1, queued=10), 3, id="queued requests count"),
        pytest.param(busy(500, replicas=2), 4, id="at most max_replicas"),
        pytest.param(busy(1, replicas=3), 3, id="a busy model keeps what it has"),
        pytest.param(busy(1, replicas=9), 4, id="but not above a lowered maximum"),
        pytest.param(waits(queued=35), 4, id="a model that starts starts with enough"),
    ],
)
def test_load_decides_the_replicas_of_a_model_in_use(seen: Demand, wanted: int) -> None:
    assert replicas(3, {"a": seen}, a=Model(max_replicas=4, target_ongoing_requests=10)) == {"a": wanted}


def test_replicas_of_one_model_take_one_place() -> None:
    assert replicas(2, {"a": busy(9, replicas=3), "b": waits()}, a=Model(max_replicas=3)) == {"a": 3, "b": 1}


def test_reason_tells_the_operator_why() -> None:
    demand = {"a": idle(30), "b": busy(), "c": waits(2), "d": waits(1), "e": DOWN, "f": idle(99)}
    models = {name: Model(idle_timeout_s=60 if name == "f" else 0) for name in demand}
    reasons = {name: d.reason for name, d in decide(models, demand, cap=2, now=NOW).items()}
    assert reasons == {
        "a": "made room for c",
        "b": "in use",
        "c": "waits for a to end",
        "d": "waits: all 2 places are in use",
        "e": "no demand",
        "f": "idle for 60 s",
    }


TURN_S = 3.0

# A long random run ---------------------------------------------------------------------------------------------------


@dataclass
class Machine:
    """A cluster in small: models load for some steps, requests wait for a replica, run and end."""

    models: dict[str, Model]
    cap: int
    chance: random.Random
    now: float = NOW
    replicas: dict[str, int] = field(default_factory=dict)
    loading: dict[str, int] = field(default_factory=dict)
    ending: dict[str, int] = field(default_factory=dict)
    queued: dict[str, int] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)
    up_since: dict[str, float] = field(default_factory=dict)
    served: int = 0
    turns: int = 0

    def __post_init__(self) -> None:
        for name in self.models:
            self.replicas[name] = self.loading[name] = self.queued[name] = self.running[name] = self.ending[name] = 0

    def demand(self) -> dict[str, Demand]:
        for name in self.models:
            wanted = self.queued[name] or self.running[name]
            if (wanted and self.replicas[name]) or not (wanted or self.replicas[name]):
                self.clock[name] = self.now  # used now; or down, without anybody who waits
            self.clock.setdefault(name, self.now)
        return {
            n: Demand(
                self.queued[n],
                self.running[n] if self.replicas[n] else 0,
                self.replicas[n],
                self.clock[n],
                self.up_since.get(n),
                leaving=not self.replicas[n] and self.ending[n] > 0,
            )
            for n in self.models
        }

    def places(self) -> set[str]:
        """Models that take a place: decided up, or with a process that is not gone."""
        return {name for name in self.models if self.replicas[name] or self.ending[name]}

    def step(self) -> None:
        """One look of the policy, checked against what must always hold."""
        demand = self.demand()
        before = self.places()
        decisions = decide(self.models, demand, cap=self.cap, now=self.now, turn_s=TURN_S)
        assert decisions.keys() == self.models.keys()
        after = {name: decision.replicas for name, decision in decisions.items()}
        up = {name for name in after if after[name]}
        always = {name for name in up if self.models[name].min_replicas}
        started = {name for name in up if not self.replicas[name]} - always
        stopped = {name for name in after if self.replicas[name] and not after[name]}
        assert not started or len(before | started | always) <= self.cap, "a model is started above the cap"
        for name, seen in demand.items():
            assert self.models[name].min_replicas <= after[name] <= self.models[name].max_replicas
            if seen.wanted and name in stopped:
                self.turns += 1
                assert "its turn is over" in decisions[name].reason, "a busy model goes without a turn"
                assert self.now - (seen.up_since or self.now) >= TURN_S, "a turn is cut short"
                assert any(
                    self.now - self.clock[n] >= TURN_S for n in after if demand[n].queued and not self.replicas[n]
                )
            elif seen.unfinished:
                assert after[name] >= seen.replicas, "a busy model loses a replica"
        waiting = sorted((n for n in demand if demand[n].queued and not self.replicas[n]), key=lambda n: self.clock[n])
        waiting = [n for n in waiting if n not in always and not demand[n].leaving]
        assert {self.clock[n] for n in started} == {self.clock[n] for n in waiting[: len(started)]}, "out of turn"
        if len(started) < len(waiting):
            in_use = {n for n in up if demand[n].wanted or self.now - demand[n].last_used <= SETTLE_S}
            assert len(before | up) >= self.cap, "a place stays free while a model waits"
            idle = up - in_use - always - started
            coming = len(before | started) - len(up)
            assert not idle or coming >= len(waiting) - len(started), (
                "an idle model keeps its place while a model waits"
            )
        for name in started | always - before:
            self.loading[name] = self.chance.randrange(6)
        for name in stopped:
            self.ending[name] = self.chance.randint(1, 6)
            self.up_since.pop(name, None)
        self.replicas = after

    def live(self, *, arrivals: bool) -> None:
        """Time passes: models load, requests begin, end and arrive."""
        self.now += self.chance.choice([0.1, 0.1, 0.1, 1.0])
        for name in self.models:
            if not self.replicas[name]:
                self.running[name] -= self.chance.randint(0, self.running[name])  # it is drained
                if not self.running[name]:
                    self.ending[name] = max(0, self.ending[name] - 1)
                continue
            if self.loading[name]:
                self.loading[name] -= 1
                continue
            self.up_since.setdefault(name, self.now)
            self.served += self.queued[name]
            self.running[name] += self.queued[name]
            self.queued[name] = 0
            self.running[name] -= self.chance.randint(0, self.running[name])
        if arrivals and self.chance.random() < 0.4:
            self.queued[self.chance.choice(list(self.models))] += self.chance.choice([1, 1, 5, 40])
        if arrivals and self.chance.random() < 0.01:
            self.cap = self.chance.randint(2, 5)


def test_random_run_never_breaks_a_promise_and_serves_everyone() -> None:
    chance = random.Random(20_261_122)
    models = {f"m{i}": Model(chance.choice([0, 0.5, 20]), 0, chance.randint(1, 3), 8) for i in range(9)}
    machine = Machine({**models, "pinned": Model(5, 1, 2, 8)}, cap=3, chance=chance)
    for _ in range(6):
        for _ in range(500):
            machine.step()
            machine.live(arrivals=True)
        for _ in range(300):  # nobody new comes: all who wait have their turn
            machine.step()
            machine.live(arrivals=False)
        assert not any(machine.queued.values()), f"never served: {machine.queued}"
    assert machine.served > 3000
    assert machine.turns > 10


# ResidencyPolicy -----------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def time(self) -> float:
        return self.now


class Processes:
    """Deployments that still have a replica's process."""

    def __init__(self) -> None:
        self.alive: set[tuple[str, str]] = set()

    def has(self, application: str, deployment: str) -> bool:
        return (application, deployment) in self.alive


@pytest.fixture
def processes() -> Processes:
    return Processes()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, processes: Processes) -> Clock:
    clock = Clock()
    monkeypatch.setattr(residency, "ReplicaProcesses", lambda: processes)
    monkeypatch.setattr(residency, "time", clock)
    monkeypatch.delenv("MAX_CONCURRENT_MODELS", raising=False)
    return clock


@pytest.fixture
def log() -> Iterator[list[logging.LogRecord]]:
    """What the policy logs at WARNING and above; Ray's loggers do not pass on to the root."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    residency.logger.addHandler(handler)
    yield records
    residency.logger.removeHandler(handler)


def context(
    name: str,
    *,
    replicas: int = 0,
    up: int | None = None,
    queued: float | None = 0,
    unfinished: list[list[float]] | None = None,
    kwargs: dict[str, Any] | None = None,
) -> SimpleNamespace:
    """Serve's AutoscalingContext of a deployment. up: replicas that run, if not all. unfinished: for each replica the
    points of its series."""
    series = {f"r{i}": [SimpleNamespace(timestamp=0.0, value=v) for v in p] for i, p in enumerate(unfinished or [])}
    own = {"idle_timeout_s": 60.0, "min_replicas": 0, "max_replicas": 1, "target_ongoing_requests": 32}
    policy = SimpleNamespace(policy_kwargs=own if kwargs is None else kwargs)
    return SimpleNamespace(
        app_name="app",
        deployment_name=name,
        current_num_replicas=replicas if up is None else up,
        config=SimpleNamespace(policy=policy),
        total_queued_requests=queued,
        target_num_replicas=replicas,
        raw_metrics=None if unfinished is None else {UNFINISHED: series},
    )


def ask(policy: ResidencyPolicy, *contexts: SimpleNamespace) -> dict[str, int]:
    """The policy's answer, by deployment name. Serve's keys are not strings."""
    decided, state = policy({(c.deployment_name, "app"): c for c in contexts})
    assert state == {}, "Serve would keep it and hand it back"
    return {key[0]: n for key, n in decided.items() if isinstance(key, tuple)}


def test_only_deployments_that_change_are_mentioned(clock: Clock) -> None:
    contexts = [context("a", replicas=1, unfinished=[[1]]), context("b"), context("c", queued=1)]
    assert ask(ResidencyPolicy(), *contexts) == {"c": 1}
    assert ask(ResidencyPolicy(), *contexts[:2]) == {}


def test_model_that_waits_for_a_place_is_not_mentioned(clock: Clock) -> None:
    """Serve would start it for its queued request if the policy said 0."""
    assert ask(ResidencyPolicy(1), context("a", replicas=1, unfinished=[[1]]), context("b", queued=1)) == {}


def test_contexts_without_metrics_are_fine(clock: Clock, log: list[logging.LogRecord]) -> None:
    policy = ResidencyPolicy(2)
    bare = context("a", replicas=1, queued=None)
    empty = context("b", replicas=1, unfinished=[[], []])
    other = SimpleNamespace(**{**vars(context("c", queued=None)), "raw_metrics": {}})
    assert ask(policy, bare, empty, other) == {}
    assert not log


def test_latest_report_of_each_replica_counts(clock: Clock) -> None:
    policy = ResidencyPolicy(1)
    two = {"max_replicas": 2}
    busy_second = context("a", replicas=2, unfinished=[[5, 0], [0, 1]], kwargs=two)
    done = context("a", replicas=2, unfinished=[[5, 0], [7, 0]], kwargs=two)
    ask(policy, busy_second)
    clock.now += 30
    assert ask(policy, busy_second, context("b", queued=1)) == {}
    clock.now += 30
    assert ask(policy, done, context("b", queued=1)) == {"a": 0}


def test_reports_of_all_replicas_are_added_up(clock: Clock) -> None:
    scaled = {"max_replicas": 4, "target_ongoing_requests": 10}
    assert ask(ResidencyPolicy(), context("a", replicas=2, unfinished=[[15], [16]], kwargs=scaled)) == {"a": 4}


def test_victims_place_is_lent_once_its_process_is_gone(clock: Clock, processes: Processes) -> None:
    policy = ResidencyPolicy(1)
    ask(policy, context("a", replicas=1, unfinished=[[0]]), context("b"))
    clock.now += 30
    processes.alive = {("app", "a"), ("other", "b")}
    assert ask(policy, context("a", replicas=1, unfinished=[[0]]), context("b", queued=1)) == {"a": 0}
    assert ask(policy, context("a"), context("b", queued=1)) == {}
    processes.alive = {("other", "b")}
    assert ask(policy, context("a"), context("b", queued=1)) == {"b": 1}


def test_model_without_a_process_did_not_start(clock: Clock, processes: Processes) -> None:
    policy = ResidencyPolicy(1)
    ask(policy, context("a", replicas=1, up=0, queued=1))
    processes.alive = {("app", "a")}
    clock.now += 2 * BACK_OFF_S
    assert ask(policy, context("a", replicas=1, up=0)) == {}, "it is loading"
    processes.alive = set()
    assert ask(policy, context("a", replicas=1)) == {}, "it is up"
    ask(policy, context("a", replicas=1, up=0))
    assert ask(policy, context("a", replicas=1, up=0)) == {"a": 0}


def test_turn_is_counted_from_when_the_model_can_answer(clock: Clock) -> None:
    policy = ResidencyPolicy(1, max_swap_wait_s=10)
    loading = context("a", replicas=1, up=0, queued=1)
    busy_a = context("a", replicas=1, unfinished=[[1]])
    ask(policy, loading, context("b", queued=1))
    clock.now += 20
    assert ask(policy, busy_a, context("b", queued=1)) == {}
    clock.now += 9
    assert ask(policy, busy_a, context("b", queued=1)) == {}
    clock.now += 1
    assert ask(policy, busy_a, context("b", queued=1)) == {"a": 0}


def test_least_recently_used_is_remembered_between_calls(clock: Clock) -> None:
    policy = ResidencyPolicy(2)
    for user in ("a", "b"):
        contexts = [context(n, replicas=1, unfinished=[[float(n == user)]]) for n in ("b", "a")]
        assert ask(policy, *contexts) == {}
        clock.now += 5
    idle_now = [context(n, replicas=1, unfinished=[[0]]) for n in ("b", "a")]
    assert ask(policy, *idle_now, context("c", queued=1)) == {"a": 0}


def test_idle_time_counts_from_the_last_sign_of_use(clock: Clock) -> None:
    policy = ResidencyPolicy()
    ask(policy, context("a", replicas=1, unfinished=[[1]]))
    clock.now += 59
    assert ask(policy, context("a", replicas=1, unfinished=[[0]])) == {}
    clock.now += 1
    assert ask(policy, context("a", replicas=1, unfinished=[[0]])) == {"a": 0}


def test_model_that_is_seen_up_for_the_first_time_is_taken_as_just_used(clock: Clock) -> None:
    """The controller may have been restarted."""
    assert ask(ResidencyPolicy(1), context("a", replicas=1), context("b", queued=1)) == {}


def test_model_that_comes_back_starts_a_new_idle_time(clock: Clock) -> None:
    policy = ResidencyPolicy()
    ask(policy, context("a", replicas=1, unfinished=[[1]]))
    ask(policy, context("a"))
    clock.now += 500
    assert ask(policy, context("a", replicas=1)) == {}


def test_time_in_the_queue_orders_the_models_that_wait(clock: Clock) -> None:
    policy = ResidencyPolicy(1)
    full = context("a", replicas=1, unfinished=[[1]])
    ask(policy, full, context("b"), context("c", queued=1))
    clock.now += 1
    ask(policy, full, context("b", queued=9), context("c", queued=1))
    clock.now += 1
    assert ask(policy, context("b", queued=9), context("c", queued=1)) == {"c": 1}


def test_model_that_nobody_waited_for_meanwhile_goes_to_the_end(clock: Clock) -> None:
    policy = ResidencyPolicy(1)
    full = context("a", replicas=1, unfinished=[[1]])
    for queued in ({"b": 1, "c": 0}, {"b": 0, "c": 1}, {"b": 1, "c": 1}):
        ask(policy, full, *(context(n, queued=q) for n, q in queued.items()))
        clock.now += 1
    assert ask(policy, context("b", queued=1), context("c", queued=1)) == {"c": 1}


def test_model_that_was_up_meanwhile_waits_from_now(clock: Clock) -> None:
    policy = ResidencyPolicy(1)
    full = context("a", replicas=1, unfinished=[[1]])
    up_again = context("b", replicas=1, queued=1)
    for b, c in ((context("b", queued=1), 0), (up_again, 1), (context("b", queued=1), 1)):
        ask(policy, full, b, context("c", queued=c))
        clock.now += 1
    assert ask(policy, context("b", queued=1), context("c", queued=1)) == {"c": 1}


def test_foreign_deployments_are_left_as_they_are(clock: Clock) -> None:
    """The ingress has no policy_kwargs; it takes no place either."""
    ingress = context("Ingress", replicas=1, kwargs={})
    assert ask(ResidencyPolicy(1), ingress, context("a", queued=1)) == {"a": 1}
    clock.now += 9999
    assert ask(ResidencyPolicy(1), ingress, context("Other", queued=7, kwargs={})) == {}


def test_broken_context_changes_nothing_and_is_logged(clock: Clock, log: list[logging.LogRecord]) -> None:
    policy = ResidencyPolicy()
    assert ask(policy, context("a", queued=1), SimpleNamespace(deployment_name="b")) == {}
    (record,) = log
    assert record.exc_info
    assert ask(policy, context("a", queued=1)) == {"a": 1}, "it goes on afterwards"


def test_unknown_policy_kwargs_do_not_raise(clock: Clock, log: list[logging.LogRecord]) -> None:
    assert ask(ResidencyPolicy(), context("a", queued=1, kwargs={"colour": "red"})) == {}
    assert log


@pytest.mark.parametrize(("environment", "up"), [("1", 1), ("3", 3), ("", 2), (None, 2)])
def test_cap_of_the_environment_comes_first(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, environment: str | None, up: int
) -> None:
    if environment is not None:
        monkeypatch.setenv("MAX_CONCURRENT_MODELS", environment)
    decided = ask(ResidencyPolicy(max_concurrent_models=2), *(context(n, queued=1) for n in "abcd"))
    assert list(decided.values()) == [1] * up


@pytest.mark.parametrize(("environment", "configured"), [("0", 3), ("many", 3), ("", 0)])
def test_cap_below_one_or_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: str, configured: int
) -> None:
    monkeypatch.setenv("MAX_CONCURRENT_MODELS", environment)
    with pytest.raises(ValueError, match=r"."):
        ResidencyPolicy(max_concurrent_models=configured)
