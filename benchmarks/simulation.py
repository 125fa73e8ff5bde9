"""The decision in simulated time: what it costs requests, beside plain LRU and an optimum that knows the future.

Usage: python -m benchmarks.simulation [--quick] [--decision] [--out FILE]
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from deployments.residency import Demand, Model, Node, decide

TICK_S = 0.1
"""Serve asks the policy ten times a second."""
TURN_S = 30.0
UNLOAD_S = 0.7
ROUNDS = 300
QUICK_ROUNDS = 60

Row = tuple[str, ...]


@dataclass(frozen=True)
class Request:
    at: float
    model: str
    service_s: float


@dataclass(frozen=True)
class Workload:
    """load_s: of each model. memory_mb: of each model, with a node of `limit_mb`; none where models are of one size."""

    name: str
    cap: int
    requests: Sequence[Request]
    load_s: Mapping[str, float]
    memory_mb: Mapping[str, float] = field(default_factory=dict)
    limit_mb: float = math.inf


@dataclass
class Outcome:
    """waits_s: of every request, that of one which was not served as long as it was looked at."""

    requests: int
    hits: int = 0
    swaps: int = 0
    waits_s: list[float] = field(default_factory=list)
    unserved: int = 0


@dataclass
class State:
    replicas: int = 0
    queued: list[Request] = field(default_factory=list)
    running: int = 0
    last_used: float = 0
    up_since: float | None = None
    waiting_since: float = 0
    leaving: bool = False
    ended_at: float | None = None

    @property
    def waits(self) -> bool:
        return self.replicas == 0 and bool(self.queued)

    @property
    def matters(self) -> bool:
        """A model that is down and unasked for has no part in a decision."""
        return self.replicas > 0 or self.leaving or bool(self.queued)


class Simulation:
    """One run. Events happen at their own time; decisions at the next tick, as long as somebody waits."""

    def __init__(self, workload: Workload, turn_s: float) -> None:
        self.workload = workload
        self.turn_s = turn_s
        self.states: defaultdict[str, State] = defaultdict(State)
        self.events: list[tuple[float, int, str, str]] = []
        self.order = itertools.count()
        self.outcome = Outcome(len(workload.requests))

    def run(self) -> Outcome:
        """Until the last request has come."""
        arrivals = iter(self.workload.requests)
        arrival = next(arrivals, None)
        tick = 0.0
        while arrival:
            tick += TICK_S
            while arrival and (arrival.at <= tick or (self.events and self.events[0][0] <= tick)):
                if self.events and self.events[0][0] <= arrival.at:
                    self._happen()
                else:
                    self._arrive(arrival)
                    arrival = next(arrivals, None)
            if any(state.waits for state in self.states.values()):
                self._decide(tick)
        for state in self.states.values():
            self.outcome.unserved += len(state.queued)
            self.outcome.waits_s.extend(tick - request.at for request in state.queued)
        return self.outcome

    def _at(self, at: float, event: str, model: str) -> None:
        heapq.heappush(self.events, (at, next(self.order), event, model))

    def _happen(self) -> None:
        at, _, event, name = heapq.heappop(self.events)
        state = self.states[name]
        if event == "loaded":
            state.up_since = state.last_used = at
            for request in state.queued:
                self._serve(request, at)
            state.queued.clear()
        elif event == "done":
            state.running -= 1
            state.last_used = at
            if state.leaving and not state.running:
                self._at(at + UNLOAD_S, "gone", name)
        else:
            del self.states[name]
            if state.queued:
                self.states[name] = State(queued=state.queued, waiting_since=state.waiting_since)

    def _arrive(self, request: Request) -> None:
        state = self.states[request.model]
        if state.up_since is not None:
            self.outcome.hits += 1
            self._serve(request, request.at)
            return
        if not state.queued:
            state.waiting_since = request.at
        state.queued.append(request)

    def _serve(self, request: Request, at: float) -> None:
        self.outcome.waits_s.append(at - request.at)
        self.states[request.model].running += 1
        self._at(at + request.service_s, "done", request.model)

    def _decide(self, now: float) -> None:
        taking_part = {name: state for name, state in self.states.items() if state.matters}
        demand = {name: self._demand(name, state, now) for name, state in taking_part.items()}
        nodes = {} if math.isinf(self.workload.limit_mb) else {"node": Node(self.workload.limit_mb)}
        models = dict.fromkeys(demand, Model())
        decisions = decide(models, demand, cap=self.workload.cap, now=now, turn_s=self.turn_s, nodes=nodes)
        for name, state in taking_part.items():
            replicas = decisions[name].replicas
            if replicas and not state.replicas:
                self._at(now + self.workload.load_s[name], "loaded", name)
            elif state.replicas and not replicas:
                self.outcome.swaps += 1
                state.up_since, state.leaving, state.ended_at = None, True, now
                if not state.running:
                    self._at(now + UNLOAD_S, "gone", name)
            state.replicas = replicas

    def _demand(self, name: str, state: State, now: float) -> Demand:
        used = now if state.queued or state.running else state.last_used
        return Demand(
            queued=len(state.queued),
            unfinished=state.running if state.replicas else 0,
            replicas=state.replicas,
            last_used=used if state.replicas else state.waiting_since,
            up_since=state.up_since,
            leaving=state.leaving,
            loading=state.replicas > 0 and state.up_since is None,
            memory_mb=self.workload.memory_mb.get(name, 0),
            nodes=("node",) if state.replicas or state.leaving else (),
            ended_at=state.ended_at,
        )


def in_order(workload: Workload, *, knows_the_future: bool) -> Outcome:
    """One request after the other, each in no time: Belady's optimum unloads the model whose next request is furthest
    away, LRU the one whose last is. For models of one size the optimum bounds the hit rate, and the swaps from below,
    of whoever takes requests in the order in which they come; who lets them wait may swap less. Here a load is over at
    once, and who would have come during it finds it up."""
    later: defaultdict[str, list[int]] = defaultdict(list)
    for i in reversed(range(len(workload.requests))):
        later[workload.requests[i].model].append(i)
    outcome = Outcome(len(workload.requests))
    up: dict[str, int] = {}  # the last used last
    for i, request in enumerate(workload.requests):
        later[request.model].pop()
        if request.model in up:
            outcome.hits += 1
            del up[request.model]
        elif len(up) == workload.cap:
            furthest = max(up, key=lambda name: later[name][-1] if later[name] else math.inf)
            del up[furthest if knows_the_future else next(iter(up))]
            outcome.swaps += 1
        up[request.model] = i
    return outcome


def workloads(*, quick: bool) -> Iterator[Workload]:
    share = 0.15 if quick else 1.0
    yield _zipf(7200 * share)
    yield _bursts(7200 * share)
    yield _agents(1800 * share)
    yield _long_generation()
    yield _mixed_sizes(7200 * share)


def _zipf(lasts_s: float) -> Workload:
    chance = random.Random(1)
    names = [f"m{i}" for i in range(1000)]
    requests = [Request(at, _by_rank(chance, names, 1.1), chance.uniform(1, 5)) for at in _poisson(chance, 1, lasts_s)]
    load_s = {name: chance.uniform(3, 8) for name in names}
    return Workload("Zipf(1.1) over 1,000 models, cap 20", 20, requests, load_s)


def _bursts(lasts_s: float) -> Workload:
    chance = random.Random(2)
    names = [f"m{i}" for i in range(50)]
    requests = []
    for at in _poisson(chance, 1 / 15, lasts_s):
        name = _by_rank(chance, names, 0.8)
        for _ in range(chance.randint(5, 40)):
            requests.append(Request(at + chance.uniform(0, 2), name, chance.uniform(2, 10)))
    return Workload("bursts on 50 models, cap 5", 5, _in_order(requests), dict.fromkeys(names, 5))


def _agents(lasts_s: float) -> Workload:
    requests = [
        Request(i * 1.5 + shift, name, 2) for name, shift in (("a", 1), ("b", 2)) for i in range(round(lasts_s / 1.5))
    ]
    return Workload("two agents, a model each, never idle, cap 1", 1, _in_order(requests), {"a": 4, "b": 4})


def _long_generation() -> Workload:
    chance = random.Random(4)
    requests = [Request(1, "long", 600), *(Request(10 + i, "busy", 1.5) for i in range(900))]
    for name in ("x", "y", "z"):
        requests.extend(Request(10 + at, name, chance.uniform(1, 3)) for at in _poisson(chance, 1 / 20, 900))
    return Workload(
        "one generation of 600 s among short requests, cap 2",
        2,
        _in_order(requests),
        dict.fromkeys(["long", "busy", "x", "y", "z"], 4),
    )


def _mixed_sizes(lasts_s: float) -> Workload:
    chance = random.Random(5)
    names = [f"m{i}" for i in range(40)]
    memory_mb = {name: chance.choice([2, 4, 4, 8, 8, 16, 40]) * 1000.0 for name in names}
    requests = [
        Request(at, _by_rank(chance, names, 0.9), chance.uniform(1, 5)) for at in _poisson(chance, 0.5, lasts_s)
    ]
    load_s = {name: 1 + mb / 4000 for name, mb in memory_mb.items()}
    return Workload("40 models of 2 to 40 GB, limit 96 GB, cap 10", 10, requests, load_s, memory_mb, 96_000)


def _poisson(chance: random.Random, rate: float, lasts_s: float) -> Iterator[float]:
    at = chance.expovariate(rate)
    while at < lasts_s:
        yield at
        at += chance.expovariate(rate)


def _by_rank(chance: random.Random, names: Sequence[str], exponent: float) -> str:
    return chance.choices(names, [1 / rank**exponent for rank in range(1, len(names) + 1)])[0]


def _in_order(requests: Iterable[Request]) -> list[Request]:
    return sorted(requests, key=lambda request: (request.at, request.model))


def markdown(*, quick: bool) -> str:
    rows = []
    for workload in workloads(quick=quick):
        rows.append(_row(workload.name, f"turns of {TURN_S:g} s", Simulation(workload, TURN_S).run()))
        rows.append(_row("", "plain LRU", Simulation(workload, math.inf).run()))
        if not workload.memory_mb:
            rows.append(_row("", "LRU, in order", in_order(workload, knows_the_future=False)))
            rows.append(_row("", "optimum, in order", in_order(workload, knows_the_future=True)))
    head = ("workload", "", "requests", "swaps", "hit rate", "wait p50 s", "p99 s", "max s", "not served")
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _row(workload: str, policy: str, seen: Outcome) -> Row:
    told = (f"{seen.requests:,}", f"{seen.swaps:,}", f"{seen.hits / seen.requests:.1%}")
    if not seen.waits_s:
        return (workload, policy, *told, "", "", "", "")
    p50, p99 = _percentiles(seen.waits_s)
    return (workload, policy, *told, f"{p50:.1f}", f"{p99:.1f}", f"{max(seen.waits_s):.1f}", f"{seen.unserved:,}")


def decisions(*, quick: bool) -> str:
    """What one decision takes of a processor, whoever else uses it."""
    lines = ["| models | decision p50 CPU ms | p99 CPU ms |", "| --- | --- | --- |"]
    for count in (100, 1000, 5000):
        p50, p99 = _percentiles(list(_decision_ms(count, QUICK_ROUNDS if quick else ROUNDS)))
        lines.append(f"| {count:,} | {p50:.2f} | {p99:.2f} |")
    return "\n".join(lines) + "\n"


def _decision_ms(count: int, rounds: int) -> Iterator[float]:
    """20 of the models are up, half of those in use; 50 wait, some of them overdue; 4 nodes."""
    nodes = {f"n{i}": Node(100_000) for i in range(4)}
    models = {f"m{i}": Model() for i in range(count)}
    for seed in range(rounds):
        chance = random.Random(seed)
        demand = {}
        for i, name in enumerate(models):
            mb = chance.choice([4000.0, 8000.0, 16_000.0, 40_000.0])
            if i < 20:
                seen = Demand(0, i % 2, 1, -chance.uniform(1, 99), -100, memory_mb=mb / 2, nodes=(f"n{i % 4}",))
            elif i < 70:
                seen = Demand(queued=1, last_used=-chance.uniform(0, 60), memory_mb=mb)
            else:
                seen = Demand(memory_mb=mb)
            demand[name] = seen
        began = time.process_time()
        decide(models, demand, cap=20, now=0, turn_s=TURN_S, nodes=nodes)
        yield (time.process_time() - began) * 1000


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--decision", action="store_true", help="only what a decision takes of a processor")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    options = parser.parse_args(arguments)
    text = decisions(quick=options.quick) if options.decision else markdown(quick=options.quick)
    print(text, end="")
    if options.out:
        options.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
