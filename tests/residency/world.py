"""What the policy sees of Serve and of the board, and what it does to them, without either."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from deployments.memory import Memory
from deployments.residency import ResidencyPolicy
from deployments.residency.board import Kind, Report, Row, Table, Wish, decode, encode
from deployments.residency.decision import SETTLE_S
from deployments.residency.policy import MEMORY, UNFINISHED
from deployments.residency.watch import Seen

NOW = 10_000.0
HERE = "node"
STEP_S = 0.1

Metrics = Mapping[str, Mapping[str, float]]
"""Values by metric and replica."""


class Watch:
    """Stands for `deployments.residency.watch.Watch`."""

    def __init__(self, restored: Table) -> None:
        self.seen: Seen | None = None
        self.life = "life"
        self.restored = restored
        self.starts = 0
        self.table = Table()
        self.done: list[str] = []
        self.heard: list[Report] = []
        self.changing = False
        self.unborn: frozenset[str] = frozenset()

    def start(self) -> None:
        self.starts += 1

    def publish(
        self, table: Table, done: list[str], heard: list[Report], unborn: frozenset[str], *, changing: bool
    ) -> None:
        self.unborn = unborn
        self.table = decode(encode(table))
        self.done += done
        self.heard += heard
        self.changing = changing


class World:
    """Clock, processes and board around a policy. alive: processes, by deployment. resources: of nodes. Wishes stay
    on the board unless `take_down` is set."""

    def __init__(self) -> None:
        self.now = NOW
        self.alive: Counter[str] = Counter()
        self.wishes: list[Wish] = []
        self.reports: list[Report] = []
        self.nodes: dict[str, float] = {}
        self.resources: dict[str, dict[str, float]] = {}
        self.free: float | None = None
        self.restored = Table()
        self.looked = True
        self.take_down = True
        self.watches: list[Watch] = []

    def time(self) -> float:
        return self.now

    def watch(self, application: str) -> Watch:
        """Stands for the class Watch."""
        assert application == "app"
        self.watches.append(Watch(self.restored))
        self._look()
        return self.watches[-1]

    @property
    def told(self) -> Watch:
        """What the policy has said."""
        return self.watches[-1]

    def row(self, model: str) -> Row:
        return self.told.table.row(model)

    def wish(self, model: str, kind: Kind) -> str:
        wish = Wish(f"wish {len(self.wishes)} {self.now}", model, kind)
        self.wishes.append(wish)
        return wish.id

    def answer(self, wish: str) -> str | None:
        """What became of it: empty is success, None is not done yet."""
        answers = [row.answers[wish] for row in self.told.table.rows.values() if wish in row.answers]
        return answers[0] if answers else None

    def ask(self, policy: ResidencyPolicy, *contexts: SimpleNamespace) -> dict[str, int]:
        """The policy's answer, by deployment name. Serve's keys are not strings."""
        self._look()
        decided, state = policy({(c.deployment_name, "app"): c for c in contexts})
        assert state == {}, "Serve would keep it and hand it back"
        if self.take_down and self.watches:
            self.wishes = [wish for wish in self.wishes if wish.id not in self.told.done]
            self.reports = [report for report in self.reports if report not in self.told.heard]
        return {key[0]: n for key, n in decided.items() if isinstance(key, tuple)}

    def _look(self) -> None:
        if not self.watches or not self.looked:
            return
        reports: dict[str, tuple[Report, ...]] = {}
        for report in self.reports:
            reports[report.model] = (*reports.get(report.model, ()), report)
        self.told.seen = Seen(
            at=self.now,
            processes=Counter(self.alive),
            wishes=tuple(self.wishes),
            reports=reports,
            nodes=dict(self.nodes),
            resources=dict(self.resources),
            here=None if self.free is None else (HERE, Memory(self.nodes[HERE], self.free)),
        )


def context(
    name: str,
    *,
    replicas: int = 0,
    up: int | None = None,
    queued: float | None = 0,
    unfinished: Iterable[Iterable[float]] | None = None,
    metrics: Metrics | None = None,
    model: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Any] | None = None,
    placement: Mapping[str, Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> SimpleNamespace:
    """Serve's AutoscalingContext of a deployment. up: replicas that run, if not all. unfinished: for each replica the
    points of its series. model, sizes: what differs from a plain model. placement: None is a model's only one. kwargs:
    in place of all three."""
    series: dict[str, dict[Any, Any]] = {}
    if unfinished is not None:
        series[UNFINISHED] = {f"r{i}": [_point(value) for value in points] for i, points in enumerate(unfinished)}
    for metric, values in (metrics or {}).items():
        # Serve's keys are ReplicaIDs.
        series[metric] = {ReplicaId(replica): [_point(value)] for replica, value in values.items()}
    own: dict[str, Any] = {"model": {"idle_timeout_s": 60.0, **(model or {})}, "sizes": dict(sizes or {})}
    if placement is not None:
        own["placement"] = dict(placement)
    return SimpleNamespace(
        app_name="app",
        deployment_name=name,
        current_num_replicas=replicas if up is None else up,
        config=_config(json.dumps(own if kwargs is None else kwargs)),
        total_queued_requests=queued,
        target_num_replicas=replicas,
        raw_metrics=series or None,
    )


@cache
def _config(kwargs: str) -> SimpleNamespace:
    """Serve's autoscaling_config, the same object as long as it is the same."""
    return SimpleNamespace(policy=SimpleNamespace(policy_kwargs=json.loads(kwargs)))


@dataclass(frozen=True)
class ReplicaId:
    """Serve's ReplicaID."""

    unique_id: str


def _point(value: float) -> SimpleNamespace:
    return SimpleNamespace(timestamp=0.0, value=value)


def placed(model: str, rank: int, *needs: Mapping[str, float]) -> dict[str, Any]:
    """A deployment's placement, as `build` hands it over."""
    return {"model": model, "rank": rank, "needs": [dict(bundle) for bundle in needs]}


@dataclass
class Deployment:
    """One model on `Server`, or one of its variants. metrics: what its replicas report, by metric and replica."""

    model: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    placement: Mapping[str, Any] | None = None
    target: int = 0
    running: int = 0
    queued: float = 0
    unfinished: float = 0
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


class Server:
    """Serve, which does what the policy decides in its own way; tests say when processes come and go."""

    def __init__(self, world: World, policy: ResidencyPolicy, **models: Deployment) -> None:
        self.world = world
        self.policy = policy
        self.models = models

    def step(self, seconds: float = STEP_S) -> dict[str, int]:
        """Lets time pass, and asks the policy once: its answer."""
        self.world.now += seconds
        decided = self.world.ask(self.policy, *(self._context(name) for name in self.models))
        for name, replicas in decided.items():
            own = self.models[name]
            own.target = _serves_target(own, replicas)
            # Serve counts no replica that is stopping, nor what it reports.
            own.running = min(own.running, own.target)
        return decided

    def start(self, name: str) -> None:
        """The replicas' processes are there; they cannot answer yet."""
        assert self.models[name].target > 0
        self.world.alive[name] = self.models[name].target

    def up(self, name: str) -> None:
        self.start(name)
        self.models[name].running = self.models[name].target
        self.models[name].queued = 0
        self.step()

    def die(self, name: str) -> None:
        """Its processes are gone, for whatever reason."""
        del self.world.alive[name]
        self.world.reports = [r for r in self.world.reports if (r.deployment or r.model) != name or r.failure]
        self.models[name].running = 0

    def down(self, name: str) -> None:
        """A model that was decided down has drained."""
        assert self.models[name].target == 0
        self.die(name)
        self.step()

    def _context(self, name: str) -> SimpleNamespace:
        own = self.models[name]
        metrics: dict[str, dict[str, float]] = {}
        if own.running:
            metrics = {**own.metrics, UNFINISHED: {f"{name} r0": own.unfinished}}
        return context(
            name,
            replicas=own.target,
            up=own.running,
            queued=own.queued,
            metrics=metrics,
            model=own.model,
            sizes=own.sizes,
            placement=own.placement,
        )


def _serves_target(own: Deployment, decided: int) -> int:
    """What Serve makes of a decision: who is waited for without a replica gets one and is not ended, and nobody goes
    from several replicas to none in one step."""
    if own.running == 0 and own.queued > 0:
        return max(1, own.target)
    return max(1, decided) if own.target > 1 else decided


def reserves(mb: float) -> dict[str, dict[str, float]]:
    """Metrics of a model that takes that much."""
    return {MEMORY: {"r0": mb}}


def server_of(world: World, policy: ResidencyPolicy | None = None, **models: Deployment) -> Server:
    return Server(world, policy or ResidencyPolicy(), **models)


def server_with_one(world: World, model: Deployment | None = None) -> Server:
    """Model a, up, with nothing to do; and asked about long enough for its reports to have settled."""
    server = server_of(world, a=model or Deployment())
    a = server.models["a"]
    a.queued = 1
    server.step()
    server.up("a")
    server.step(2 * SETTLE_S)
    assert (a.target, a.running) == (1, 1)
    return server
