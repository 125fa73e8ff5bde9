"""Places and memory: what models take of them, and what is free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Need = Mapping[str, float]
"""MB by node, to be taken together."""


@dataclass(frozen=True)
class Node:
    """A machine's memory for models, in MB.

    limit_mb: what models may reserve there together. free_mb: what may be newly taken there now, as measured, less
    what replicas that are known to be there still will take; it counts only while one of our models is there, since
    nobody else can be asked to go. short_mb: what is to be given back because the machine runs short.
    """

    limit_mb: float = math.inf
    free_mb: float = math.inf
    short_mb: float = 0


@dataclass(frozen=True)
class Load:
    """What a model takes: `mb` for each replica, on `nodes` as far as they are known, and places. ending_places: those
    of replicas that are going while the model stays."""

    replicas: int
    mb: float = 0
    nodes: tuple[str, ...] = ()
    places: int = 1
    ending_places: int = 0


@dataclass(frozen=True)
class Claim:
    """What a model waits for: places, unless it has them (0), and memory in one of these ways."""

    places: int
    ways: Sequence[Need]


class _Free:
    """Places, and MB of each node: what may be reserved, what is measured, and how many models are there."""

    def __init__(self, cap: int, nodes: Mapping[str, Node]) -> None:
        self.places = cap
        self.reservable = {name: node.limit_mb for name, node in nodes.items()}
        self.measured = {name: node.free_mb for name, node in nodes.items()}
        self.models = dict.fromkeys(nodes, 0)

    def reserve(self, node: str, mb: float, unmeasured_mb: float) -> None:
        self.reservable[node] -= mb
        self.measured[node] -= unmeasured_mb
        self.models[node] += 1

    def memory(self, node: str, given_mb: float = 0, given: int = 0) -> float:
        """What is free on the node, if so many models give so much."""
        reservable = self.reservable[node] + given_mb
        return reservable if self.models[node] == given else min(reservable, self.measured[node] + given_mb)


class Room:
    """What is free now, and what will be once everything that goes is gone. Without nodes, memory has no bound."""

    def __init__(self, cap: int, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._now, self._soon = _Free(cap, nodes), _Free(cap, nodes)
        self._where: dict[str, dict[str, float]] = {}
        self._places: dict[str, int] = {}
        self._going = dict.fromkeys(nodes, 0.0)

    def hold(self, model: str, load: Load) -> None:
        """A model that stays up. Of a replica that is not known to be anywhere, nothing is measured yet."""
        unmeasured = self._spread(model, load)
        self._places[model] = load.places
        self._now.places -= load.ending_places
        for free in (self._now, self._soon):
            free.places -= load.places
            for node, mb in self._where[model].items():
                free.reserve(node, mb, unmeasured.get(node, 0))

    def let_go(self, model: str, load: Load) -> None:
        """A model that is ending: it still takes what it takes."""
        unmeasured = self._spread(model, load)
        self._now.places -= load.places + load.ending_places
        for node, mb in self._where[model].items():
            self._now.reserve(node, mb, unmeasured.get(node, 0))
            self._soon.measured[node] += mb - unmeasured.get(node, 0)
            self._going[node] += mb - unmeasured.get(node, 0)

    def end(self, model: str) -> None:
        """A model that was held is to go."""
        self._soon.places += self._places[model]
        for node, mb in self._where[model].items():
            self._soon.reservable[node] += mb
            self._soon.measured[node] += mb
            self._soon.models[node] -= 1
            self._going[node] += mb

    def ways(self, mb: float, hosts: Sequence[str] = ()) -> Sequence[Need]:
        """All ways to take that much on one node, of the hosts if there are any."""
        nodes = [node for node in hosts if node in self._nodes] or self._nodes
        return [{node: mb} for node in nodes] if mb and nodes else [{}]

    def best(self, claim: Claim, *, now: bool) -> Need | None:
        """The way that fits and where most is free; `now`: that nobody before it waits for, too."""
        fitting = [
            way for way in claim.ways if self.would_fit(claim.places, way) and (not now or self._fits(claim, way))
        ]
        return max(fitting, key=self.free_mb, default=None)

    def take(self, places: int, need: Need, *, now: bool) -> None:
        """For a model that starts now, or is next once they are free."""
        for free in (self._now, self._soon) if now else (self._soon,):
            free.places -= places
            for node, mb in need.items():
                free.reserve(node, mb, mb)

    def would_fit(self, places: int, need: Need, victims: Sequence[str] = ()) -> bool:
        """Whether there would be that much, once all that goes is gone and the victims too."""
        if not self.has_places(places, victims):
            return False
        for node, mb in need.items():
            given = [self._where[victim][node] for victim in victims if node in self._where[victim]]
            if mb > self._soon.memory(node, sum(given), len(given)):
                return False
        return True

    def has_places(self, places: int, victims: Sequence[str] = ()) -> bool:
        """Whether so many places will be free, if the victims go too."""
        return places == 0 or self._soon.places + sum(self._places[victim] for victim in victims) >= places

    @property
    def free_places(self) -> int:
        """Places that will be free; below 0 where the cap was lowered."""
        return self._soon.places

    @property
    def is_over(self) -> bool:
        """Whether what stays up takes more places than there are."""
        return self._soon.places < 0

    def free_mb(self, nodes: Iterable[str]) -> float:
        """MB that will be free on each of the nodes."""
        return min((self._soon.memory(node) for node in nodes), default=math.inf)

    def where(self, model: str) -> Need:
        """MB that the model takes on each node."""
        return self._where[model]

    def going_mb(self, node: str) -> float:
        """MB that models which are ending will give back there."""
        return self._going[node]

    def _fits(self, claim: Claim, way: Need) -> bool:
        free = self._now
        return free.places >= claim.places and all(free.memory(node) >= mb for node, mb in way.items())

    def _spread(self, model: str, load: Load) -> dict[str, float]:
        """MB of replicas that are not known to be anywhere: they are taken to be where most is free."""
        found: dict[str, float] = {}
        unknown: dict[str, float] = {}
        self._where[model] = found
        if load.mb == 0 or not self._nodes:
            return unknown
        known = [node for node in load.nodes if node in self._nodes]
        for i in range(load.replicas):
            node = (
                known[i] if i < len(known) else max(self._nodes, key=lambda n: self._soon.memory(n) - found.get(n, 0))
            )
            found[node] = found.get(node, 0) + load.mb
            if i >= len(known):
                unknown[node] = unknown.get(node, 0) + load.mb
        return unknown
