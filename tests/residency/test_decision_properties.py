"""What the decision promises, in random runs of random clusters."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.residency import Demand, Model, Node, decide
from deployments.residency.decision import SETTLE_S
from deployments.residency.scaling import enough, needed

STEP_S = 0.25
TURN_S = 3.0
LOAD_S = 1.5
"""The longest load, by half before its memory is known and by half after."""
REQUEST_S = 2.0
END_S = 1.0
MIN_RESIDENT_S = 2.0
MOST_PRIORITY = 1

ROUND_S = TURN_S * (2 + MOST_PRIORITY) + MIN_RESIDENT_S + 2 * LOAD_S + REQUEST_S + END_S + SETTLE_S
"""What one model that waits may cost those behind it, at most."""

checked = settings(
    derandomize=True, deadline=None, max_examples=30, database=None, suppress_health_check=list(HealthCheck)
)


@dataclass(frozen=True)
class Kind:
    """A model as it really is. told: whether its memory is known before it is started."""

    model: Model
    mb: float = 0
    told: bool = True


@dataclass(frozen=True)
class Setting:
    kinds: dict[str, Kind]
    nodes: dict[str, Node]
    cap: int
    seed: int

    @property
    def patience_s(self) -> float:
        """Everyone else has a turn before it."""
        return ROUND_S * (len(self.kinds) + 1)


@dataclass
class Process:
    """mb: what is reserved for it. A model that was not told of its memory knows it after `starting`."""

    node: str | None
    phase: Literal["starting", "loading", "up", "ending"]
    until: float = 0
    mb: float = 0


@dataclass
class State:
    processes: list[Process] = field(default_factory=list)
    replicas: int = 0
    queued: int = 0
    requests: list[float] = field(default_factory=list)
    asked: Literal["up", "down", "auto"] | None = None
    held: bool = False
    last_used: float = 0
    waiting_since: float | None = None
    up_since: float | None = None
    ended_at: float | None = None
    reserved: bool = False
    lost: bool = False
    enough: tuple[int, float | None] = (0, None)
    needed: list[tuple[float, int]] = field(default_factory=list)
    """What its load needed, and when."""

    @property
    def paused(self) -> bool:
        loading = any(p.phase == "loading" for p in self.processes)
        return self.replicas > 0 and (self.lost or (not self.reserved and loading))


class Cluster:
    """Processes load, requests run and end in simulated time; what `decide` decides is done, and checked."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.kinds = setting.kinds
        self.nodes = setting.nodes
        self.chance = random.Random(setting.seed)
        self.now = 1000.0
        self.states = {n: State(asked="auto" if k.model.auto_start else None) for n, k in self.kinds.items()}

    def step(self) -> None:
        demand = {name: self._demand(name) for name in self.kinds}
        models = {name: kind.model for name, kind in self.kinds.items()}
        decisions = decide(models, demand, cap=self.setting.cap, now=self.now, turn_s=TURN_S, nodes=self.nodes)
        assert decisions.keys() == self.kinds.keys()
        started: list[tuple[str, int]] = []
        for name, decision in decisions.items():
            state, seen, model = self.states[name], demand[name], models[name]
            assert decision.reason
            assert 0 <= decision.replicas <= max(model.max_replicas, seen.replicas)
            if decision.refused:
                state.queued, state.asked = 0, None
            if decision.granted and state.lost:
                state.lost = False
                started.append((name, decision.replicas))
            elif decision.granted:
                assert seen.paused
                state.reserved = True
                for process in state.processes:
                    process.mb = self.kinds[name].mb
            if seen.replicas and not decision.replicas:
                self._may_go(name, seen, decision.reason)
                self._take_down(state)
            elif state.lost:
                continue  # it keeps what it had until it is started anew
            elif decision.replicas > seen.replicas and not seen.moving:
                assert decision.replicas <= max(1, self._needed(name)), "more than its load needs"
                started.append((name, decision.replicas - seen.replicas))
            elif decision.replicas < seen.replicas and not seen.moving:
                self._may_shrink(name, decision.replicas)
                self._end_some(state, seen.replicas - decision.replicas)
            state.replicas = decision.replicas
        self._place(started)
        self._check_room()

    def _needed(self, name: str) -> int:
        state = self.states[name]
        return needed(self.kinds[name].model, state.queued + len(state.requests))

    def _may_shrink(self, name: str, replicas: int) -> None:
        model, state = self.kinds[name].model, self.states[name]
        assert replicas >= max(1, model.min_replicas), "a model shrinks to nothing"
        lately = [need for at, need in state.needed if self.now - at <= model.downscale_delay_s]
        assert max(lately, default=0) <= replicas, "fewer replicas than were needed lately"

    def _end_some(self, state: State, count: int) -> None:
        living = [process for process in state.processes if process.phase != "ending"]
        for process in self.chance.sample(living, min(count, len(living))):
            process.phase, process.until = "ending", self.now + self.chance.uniform(0, REQUEST_S + END_S)
        if not any(process.phase == "up" for process in state.processes):
            state.up_since = None

    def _may_go(self, name: str, seen: Demand, reason: str) -> None:
        model = self.kinds[name].model
        if reason == "stopped by an operator":
            return
        if seen.moving:
            assert not seen.wanted
            assert not model.stays
            return
        assert not model.stays, "one that is never unloaded goes"
        assert seen.up_since is None or self.now - seen.up_since >= model.min_resident_s, "goes too soon"
        if reason.startswith("its turn is over"):
            assert seen.up_since is not None
            assert self.now - seen.up_since >= TURN_S, "a turn is cut short"
            assert any(self.waits_s(other) >= TURN_S for other in self.kinds), "a turn ends for nobody"
        else:
            assert not seen.wanted, f"a busy model goes: {reason}"
            assert self.now - seen.last_used > SETTLE_S

    def _take_down(self, state: State) -> None:
        last = max([self.now, *state.requests])
        for process in state.processes:
            process.phase, process.until = "ending", last + self.chance.uniform(0, END_S)
        state.up_since, state.ended_at, state.reserved, state.lost = None, self.now, False, False

    def _place(self, started: Sequence[tuple[str, int]]) -> None:
        """Somewhere that it all fits: the decision says how much may start, and not where."""
        new = [name for name, count in started for _ in range(count)]
        for name, _ in started:
            state = self.states[name]
            if not state.processes:
                state.reserved = self.kinds[name].told
                state.waiting_since, state.needed = None, []
            state.last_used, state.held = self.now, False
            if state.asked == "auto":
                state.asked = None
        taken = self._taken()
        for where in itertools.product(self.nodes or [None], repeat=len(new)):
            sums = dict(taken)
            for name, node in zip(new, where, strict=True):
                if node is not None and self.states[name].reserved:
                    sums[node] += self.kinds[name].mb
            if all(mb <= self.nodes[node].limit_mb for node, mb in sums.items()):
                break
        else:
            raise AssertionError(f"{new} do not fit beside {taken}")
        for name, node in zip(new, where, strict=True):
            ready = self.now + self.chance.uniform(0, LOAD_S)
            if self.states[name].reserved:
                self.states[name].processes.append(Process(node, "loading", ready, self.kinds[name].mb))
            else:
                self.states[name].processes.append(Process(node, "starting", ready))

    def _taken(self) -> dict[str, float]:
        taken = dict.fromkeys(self.nodes, 0.0)
        for state in self.states.values():
            for process in state.processes:
                if process.node is not None:
                    taken[process.node] += process.mb
        return taken

    def _check_room(self) -> None:
        places = 0
        for name, state in self.states.items():
            held = max(state.replicas, len(state.processes))
            places += self.kinds[name].model.places * (held if self.kinds[name].model.places > 1 else min(1, held))
        assert places <= self.setting.cap, "over the cap"
        for node, mb in self._taken().items():
            assert mb <= self.nodes[node].limit_mb, f"over the limit of {node}"

    def waits_s(self, name: str) -> float:
        since = self.states[name].waiting_since
        return 0 if since is None else self.now - since

    def _demand(self, name: str) -> Demand:
        kind, state = self.kinds[name], self.states[name]
        if state.asked == "down" and state.replicas == 0:
            state.asked, state.held = None, True
        if state.asked == "up" and state.up_since is not None:
            state.asked = None
        if state.queued:
            state.held = False
        always = kind.model.stays and (state.paused or (kind.model.min_replicas and not state.held))
        waits = (state.queued or state.asked or always) and (state.replicas == 0 or state.paused)
        state.waiting_since = (state.waiting_since or self.now) if waits else None
        if state.replicas and (state.queued or state.requests):
            state.last_used = self.now
        need = self._needed(name)
        state.needed.append((self.now, need))
        has = state.replicas if state.up_since is not None else 0
        state.enough = enough(need, has, state.enough, self.now)
        known = kind.told or any(p.mb or p.phase == "loading" for p in state.processes)
        return Demand(
            queued=state.queued,
            unfinished=len(state.requests) if state.replicas else 0,
            replicas=state.replicas,
            last_used=state.last_used if state.waiting_since is None else state.waiting_since,
            up_since=state.up_since,
            leaving=state.replicas == 0 and bool(state.processes),
            loading=state.replicas > 0 and state.up_since is None,
            memory_mb=kind.mb if known else 0,
            nodes=tuple(process.node for process in state.processes if process.node is not None),
            asked=state.asked,
            held=state.held,
            paused=state.paused,
            ended_at=state.ended_at,
            moving=state.lost,
            processes=len(state.processes),
            enough=state.enough[0],
            enough_since=state.enough[1],
        )

    def live(self) -> None:
        """Time passes; nobody new comes."""
        self.now += STEP_S
        for state in self.states.values():
            state.requests = [end for end in state.requests if end > self.now]
            for process in list(state.processes):
                if process.until > self.now:
                    continue
                if process.phase == "ending":
                    state.processes.remove(process)
                elif process.phase == "starting":
                    process.phase, process.until = "loading", self.now + self.chance.uniform(0, LOAD_S)
                elif process.phase == "loading" and state.reserved:
                    process.phase = "up"
                    state.up_since = state.up_since or self.now
                    state.last_used = self.now
            if state.up_since is not None and state.replicas:
                ends = [self.now + self.chance.uniform(0, REQUEST_S) for _ in range(state.queued)]
                state.requests.extend(ends)
                state.queued = 0

    def arrive(self, chance: float) -> None:
        for state in self.states.values():
            if self.chance.random() < chance:
                state.queued += self.chance.choice([1, 1, 4, 9])

    def wish(self) -> None:
        if self.chance.random() < 0.02:
            self.chance.choice(list(self.states.values())).asked = self.chance.choice(["up", "down"])

    def lose(self) -> None:
        """All nodes that can hold a model go; another placement is possible."""
        up = [state for state in self.states.values() if state.replicas and state.up_since is not None]
        if up and self.chance.random() < 0.02:
            state = self.chance.choice(up)
            state.queued += len(state.requests)
            state.processes, state.requests, state.up_since, state.reserved = [], [], None, False
            state.lost = True

    def press(self) -> None:
        for name, node in self.nodes.items():
            short_mb = self.chance.choice([2.0, 9.0]) if self.chance.random() < 0.03 else 0
            self.nodes = {**self.nodes, name: replace(node, short_mb=short_mb)}


models_ = st.builds(
    Model,
    idle_timeout_s=st.sampled_from([0, 0, 1, 5]),
    max_replicas=st.sampled_from([1, 2, 3]),
    target_ongoing_requests=st.sampled_from([2, 4]),
    priority=st.sampled_from([0, 0, MOST_PRIORITY]),
    min_resident_s=st.sampled_from([0, 0, MIN_RESIDENT_S]),
    auto_start=st.booleans(),
    downscale_delay_s=st.sampled_from([0, 1, 4]),
)
pools = st.builds(
    Model,
    idle_timeout_s=st.sampled_from([0, 5]),
    max_replicas=st.sampled_from([1, 2, 3]),
    target_ongoing_requests=st.just(2),
    places=st.sampled_from([2, 3]),
    downscale_delay_s=st.sampled_from([0, 1]),
)
staying = st.one_of(
    st.builds(Model, pinned=st.just(True), auto_start=st.booleans()),
    st.builds(Model, min_replicas=st.just(1), max_replicas=st.sampled_from([1, 2])),
)


@st.composite
def settings_of_a_cluster(draw: st.DrawFn) -> Setting:
    nodes = {f"n{i}": Node(draw(st.sampled_from([8.0, 12.0, 20.0]))) for i in range(draw(st.integers(0, 2)))}
    sizes = st.sampled_from([0.0, 1.0, 3.0, 5.0, 8.0, 11.0, 30.0])
    kinds = {
        f"m{i}": Kind(draw(st.one_of(models_, models_, pools, staying)), draw(sizes), draw(st.booleans()))
        for i in range(draw(st.integers(2, 7)))
    }
    return Setting(kinds, nodes, draw(st.integers(1, 6)), draw(st.integers(0, 2**32)))


def steps(seconds: float) -> Iterator[int]:
    return iter(range(round(seconds / STEP_S)))


@checked
@given(settings_of_a_cluster())
def test_whatever_happens_no_promise_is_broken_and_everyone_is_served_in_the_end(setting: Setting) -> None:
    cluster = Cluster(setting)
    for _ in steps(60):
        cluster.arrive(0.05)
        cluster.wish()
        cluster.lose()
        cluster.press()
        cluster.step()
        cluster.live()
    cluster.nodes = setting.nodes
    for _ in steps(setting.patience_s):
        cluster.step()
        cluster.live()
        if not any(state.queued for state in cluster.states.values()):
            return
    raise AssertionError({name: state for name, state in cluster.states.items() if state.queued})


@settings(checked, max_examples=20)
@given(settings_of_a_cluster())
def test_steady_traffic_makes_nobody_wait_longer_than_the_others_turns(setting: Setting) -> None:
    cluster = Cluster(setting)
    for _ in steps(1.5 * setting.patience_s):
        cluster.arrive(0.4)
        cluster.step()
        cluster.live()
        waits = {name: cluster.waits_s(name) for name, state in cluster.states.items() if state.queued}
        assert max(waits.values(), default=0) <= setting.patience_s, waits


@settings(checked, max_examples=8)
@given(st.integers(6, 8), st.integers(3, 5), st.booleans(), st.integers(0, 2**32))
def test_model_that_needs_everything_waits_about_as_long_as_the_small_ones(
    count: int, cap: int, told: bool, seed: int
) -> None:
    small = {f"m{i}": Kind(Model(), 4) for i in range(count)}
    cluster = Cluster(Setting({"big": Kind(Model(), 12, told), **small}, {"n0": Node(12)}, cap, seed))
    longest = dict.fromkeys(cluster.kinds, 0.0)
    for _ in steps(120):
        cluster.arrive(0.4)
        cluster.step()
        cluster.live()
        longest = {name: max(s, cluster.waits_s(name)) for name, s in longest.items()}
    assert longest.pop("big") <= 2 * max(longest.values())


@st.composite
def quiet(draw: st.DrawFn) -> tuple[Setting, dict[str, int]]:
    setting = draw(settings_of_a_cluster())
    kinds = {n: replace(k, model=replace(k.model, idle_timeout_s=0), told=True) for n, k in setting.kinds.items()}
    return replace(setting, kinds=kinds), {name: draw(st.integers(0, 1)) for name in kinds}


@checked
@given(quiet())
def test_without_demand_everything_stays_as_it_was_decided(case: tuple[Setting, dict[str, int]]) -> None:
    setting, up = case
    models = {name: kind.model for name, kind in setting.kinds.items()}

    def decided(replicas: dict[str, int]) -> dict[str, int]:
        demand = {
            name: Demand(replicas=n, last_used=i, up_since=0 if n else None, memory_mb=setting.kinds[name].mb)
            for i, (name, n) in enumerate(replicas.items())
        }
        decisions = decide(models, demand, cap=setting.cap, now=1e4, turn_s=TURN_S, nodes=setting.nodes)
        return {name: decision.replicas for name, decision in decisions.items()}

    taken = sum(models[name].places_of(n) for name, n in up.items())
    if taken <= setting.cap and all(up[n] for n, model in models.items() if model.min_replicas):
        assert decided(up) == up
    for _ in models:  # what always is to be up takes its place, one after the other
        up = decided(up)
    up = decided(up)
    assert decided(up) == up
