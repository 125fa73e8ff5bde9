"""A model at its placements: one deployment of Serve's for each, and which of them is the model."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.placement import Bundle, hosts, lacking
from deployments.residency.demand import Decision, Model

BETTER = "a better placement is available"
NEXT_START = "the model moves there when it is started the next time"


@dataclass(frozen=True)
class Sizes:
    """What is known of a model before it is started, each None if it is not.

    memory_mb: what a replica reserves, as configured; 0 if it is not counted. estimate_mb: measured by an earlier
    server, or computed from the weights. load_s: what its start took an earlier server. kind: names what they are of.
    """

    kind: str = ""
    memory_mb: float | None = None
    estimate_mb: float | None = None
    load_s: float | None = None


@dataclass(frozen=True, eq=False)
class Variant:
    """A deployment: its name, Serve's key and figures of it, its place in the order of preference, and what each of its
    replicas takes of Ray's resources."""

    name: str
    key: Hashable
    context: Any
    rank: int
    needs: Sequence[Bundle]
    sizes: Sizes

    @property
    def replicas(self) -> int:
        """Decided on before."""
        replicas: int = self.context.target_num_replicas
        return replicas

    def latest(self, metric: str) -> dict[str, float]:
        """The last value that each replica reported, by the replica's id."""
        series = (self.context.raw_metrics or {}).get(metric) or {}
        return {getattr(r, "unique_id", r): points[-1].value for r, points in series.items() if points}


@dataclass(frozen=True)
class Group:
    """A model: its name, that of its first placement's deployment, and its variants in order of preference."""

    name: str
    model: Model
    variants: Sequence[Variant]

    @property
    def queued(self) -> float:
        return sum(variant.context.total_queued_requests or 0 for variant in self.variants)

    def latest(self, metric: str) -> dict[str, float]:
        return {replica: value for variant in self.variants for replica, value in variant.latest(metric).items()}


@dataclass(frozen=True)
class Choice:
    """The variant that is the model.

    up: the one that has its replicas, None if it is down. able: variants whose processes count: one that no node can
    hold has none that runs. why_not: what speaks against the others, by deployment. hosts: nodes that can hold a
    replica of the chosen one; empty where that is not known, or it takes several.
    """

    group: Group
    chosen: Variant
    up: Variant | None
    able: Sequence[Variant]
    why_not: Mapping[str, str]
    hosts: tuple[str, ...] = ()

    @property
    def moving(self) -> bool:
        """Whether its replicas are where no node can hold them any more."""
        return self.up is not None and self.up is not self.chosen

    @property
    def replicas(self) -> int:
        return self.up.replicas if self.up else 0

    def processes(self, living: Mapping[str, int]) -> int:
        return sum(living.get(variant.name, 0) for variant in self.able)

    def changes(self, decision: Decision) -> dict[Variant, int]:
        """Replicas of the variants that are to have others. One that is lost stays until its successor may start: so
        the model keeps its place."""
        wanted = {variant: 0 for variant in self.group.variants if variant is not self.chosen}
        if self.moving and decision.replicas and not decision.granted:
            wanted = {variant: 0 for variant in wanted if variant is not self.up}
        else:
            wanted[self.chosen] = decision.replicas
        return {variant: replicas for variant, replicas in wanted.items() if replicas != variant.replicas}


@dataclass(frozen=True)
class _Member:
    """What a deployment's configuration says of it: all of a Variant but its context."""

    key: Hashable
    name: str
    rank: int
    needs: Sequence[Bundle]
    sizes: Sizes


class Known:
    """The models of Serve's contexts, as they are configured: read when that changes, not ten times a second.

    models: what is configured of each, by the name of its first placement's deployment.
    """

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self._members: dict[str, list[_Member]] = {}
        self._owners: dict[str, str] = {}
        self._configs: dict[Hashable, Any] = {}

    def read(self, contexts: Mapping[Hashable, Any]) -> bool:
        """Whether anything is other than the last time. Raises TypeError, KeyError or ValueError where Serve's kwargs
        are not as agreed."""
        known = self._configs
        if len(contexts) == len(known) and all(known.get(key) is context.config for key, context in contexts.items()):
            return False
        models: dict[str, dict[int, Mapping[str, Any]]] = {}
        members: dict[str, list[_Member]] = {}
        for key, context in contexts.items():
            kwargs = context.config.policy.policy_kwargs
            if not kwargs:
                continue
            name = context.deployment_name
            placement = kwargs.get("placement") or {"model": name, "rank": 0, "needs": []}
            member = _Member(key, name, placement["rank"], placement["needs"], Sizes(**kwargs["sizes"]))
            members.setdefault(placement["model"], []).append(member)
            models.setdefault(placement["model"], {})[member.rank] = kwargs["model"]
        self.models = {name: Model(**ranks[min(ranks)]) for name, ranks in models.items()}
        self._members = {name: sorted(own, key=lambda member: member.rank) for name, own in members.items()}
        self._owners = {member.name: name for name, own in members.items() for member in own}
        self._configs = {key: context.config for key, context in contexts.items()}
        return True

    def group(self, name: str, contexts: Mapping[Hashable, Any]) -> Group:
        variants = [Variant(m.name, m.key, contexts[m.key], m.rank, m.needs, m.sizes) for m in self._members[name]]
        return Group(name, self.models[name], variants)

    def wanted(self, name: str, contexts: Mapping[Hashable, Any]) -> bool:
        """Whether it has replicas, or anybody waits for one."""
        own = (contexts[member.key] for member in self._members[name])
        return any(context.target_num_replicas or context.total_queued_requests for context in own)

    def owners(self, deployments: Iterable[str]) -> set[str]:
        """The models whose deployments these are."""
        return {self._owners[name] for name in deployments if name in self._owners}


class Placer:
    """Chooses among variants on nodes with these resources; without any, nothing is known of the cluster."""

    def __init__(self, nodes: Mapping[str, Bundle]) -> None:
        self.nodes = nodes
        self._known: dict[tuple[frozenset[tuple[str, float]], ...], tuple[str, tuple[str, ...]]] = {}

    def choose(self, group: Group, before: str) -> Choice:
        """The one that has replicas, as long as nodes can hold it, or no other one either; else the first that they can
        hold; else the first: an autoscaler may bring such a node.

        before: the deployment that was chosen the last time.
        """
        known = {variant.name: self._known_of(variant.needs) for variant in group.variants}
        lacks = {name: why for name, (why, _) in known.items()}
        able = [variant for variant in group.variants if not lacks[variant.name]]
        up = min(
            (variant for variant in group.variants if variant.replicas),
            key=lambda v: (bool(lacks[v.name]), v.name != before, not v.context.current_num_replicas, v.rank),
            default=None,
        )
        chosen = up if up and (up in able or not able) else (able or group.variants)[0]
        counted = able if chosen in able else [*able, chosen]
        return Choice(group, chosen, up, counted, _why_not(group, chosen, lacks), known[chosen.name][1])

    def _known_of(self, needs: Sequence[Bundle]) -> tuple[str, tuple[str, ...]]:
        """What the nodes lack for it, and those that can hold it."""
        if not needs or not self.nodes:
            return "", ()
        key = tuple(frozenset(bundle.items()) for bundle in needs)
        if key not in self._known:
            self._known[key] = lacking(needs, self.nodes.values()), hosts(needs, self.nodes)
        return self._known[key]


def _why_not(group: Group, chosen: Variant, lacks: Mapping[str, str]) -> dict[str, str]:
    reasons = {}
    for variant in group.variants:
        if why := lacks[variant.name]:
            reasons[variant.name] = why
        elif variant is not chosen:
            reasons[variant.name] = BETTER if variant.rank > chosen.rank else NEXT_START
    return reasons
