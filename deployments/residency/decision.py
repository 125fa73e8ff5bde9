"""Which models are up, and why: plain data in, plain data out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from deployments.residency.demand import Decision, Demand, Model
from deployments.residency.room import Claim, Load, Need, Node, Room
from deployments.residency.scaling import scaled

BACK_OFF_S = 10.0
"""Seconds in which a model that did not start is not tried again, unless an operator starts it."""

END_S = 10.0
"""Seconds that a process without requests may take to end."""

METRICS_INTERVAL_S = 0.25
SETTLE_S = 0.75
"""Seconds that a replica's report may lag behind its requests: no model is unloaded sooner after its last sign of
use. (Reports leave every METRICS_INTERVAL_S, the controller reads them ten times a second; a request that slips
through is not lost: Serve drains the replica.)"""


_NO_DEMAND = Decision(0, "no demand")


def decide(
    models: Mapping[str, Model],
    demand: Mapping[str, Demand],
    *,
    cap: int,
    now: float,
    turn_s: float = math.inf,
    nodes: Mapping[str, Node] | None = None,
) -> dict[str, Decision]:
    """Replicas for each model, with the reason.

    Its places under `cap`, and the memory that a model reserves on one of `nodes`, are taken from the decision to start
    it until its last process is gone. A model that is used, or was within SETTLE_S, stays. A waiting model takes what
    is free, else the room of the least recently used idle models, if there is enough. Where that is not so, one that
    has waited for `turn_s` takes the room of those that have been up longest, if for `turn_s` too: their requests are
    finished, new ones wait for their own turn; if that takes longer than `turn_s`, it counts on others too. Until
    there is room for it, no other model takes any of that. Higher `priority` waits less and goes later; each `turn_s`
    of waiting counts as one. `pinned`, and models with `min_replicas`, go for nobody.
    """
    return _Round(models, demand, cap, now, turn_s, nodes or {}).decide()


def idle_limit_s(model: Model, keep_alive_s: float | None) -> float:
    """Seconds without a request after which the model is unloaded; may be inf. keep_alive_s: the last request's own."""
    if keep_alive_s is not None:
        return keep_alive_s if keep_alive_s >= 0 else math.inf
    return model.idle_timeout_s or math.inf


@dataclass
class _Round:
    models: Mapping[str, Model]
    demand: Mapping[str, Demand]
    cap: int
    now: float
    turn_s: float
    nodes: Mapping[str, Node]
    decisions: dict[str, Decision] = field(default_factory=dict)
    overdue: str | None = None  # has waited for its turn and still has no room: nobody overtakes it

    def decide(self) -> dict[str, Decision]:
        self.idle: list[str] = []
        waiting: list[str] = []
        for name, model in self.models.items():
            seen = self.demand[name]
            own = _decide_alone(model, seen, self.now)
            if seen.paused and (seen.wanted or model.stays) and (own is None or own.replicas):
                own = Decision(seen.replicas, "waits for memory")
                waiting.append(name)
            if own:
                self.decisions[name] = own
            else:
                (self.idle if seen.replicas else waiting).append(name)
        self.idle.sort(key=self._eviction_order)
        waiting.sort(key=self._start_order)
        up = [name for name, d in self.decisions.items() if d.replicas and self.demand[name].replicas]
        self.busy = [name for name in up if not self.models[name].stays and not self.demand[name].paused]
        self.busy.sort(key=lambda name: (self.models[name].priority, self.demand[name].up_since or self.now))
        self.lasting = self._lasting_room([name for name in up if self.models[name].stays])
        self.room = self._room()
        self._go_under_the_cap()
        self._give_memory_back()
        for name in waiting:
            self.decisions[name] = self._wait(name)
        self._grow()
        self.decisions.update({name: self._stay(name) for name in self.idle})
        return self.decisions

    def _eviction_order(self, name: str) -> tuple[bool, int, float]:
        seen = self.demand[name]
        return seen.loading, self.models[name].priority, seen.last_used

    def _start_order(self, name: str) -> tuple[bool, bool, float, float]:
        model, seen = self.models[name], self.demand[name]
        turns = self._waited_s(name) // self.turn_s if self.turn_s > 0 else 0
        return not model.min_replicas, _starts_by_itself(seen), -(model.priority + turns), seen.last_used

    def _waited_s(self, name: str) -> float:
        return max(0.0, self.now - self.demand[name].last_used)

    def _room(self) -> Room:
        room = Room(self.cap, self.nodes)
        idle = set(self.idle)
        taken = [name for name, seen in self.demand.items() if seen.replicas or seen.leaving]
        for name in sorted(taken, key=lambda name: not self.demand[name].nodes):  # guesses come last
            seen = self.demand[name]
            stays = seen.replicas and (name in idle or self.decisions[name].replicas)
            (room.hold if stays or self._ends_late(seen) else room.let_go)(name, _load(self.models[name], seen))
        return room

    def _ends_late(self, seen: Demand) -> bool:
        return seen.leaving and seen.ended_at is not None and self.now - seen.ended_at >= max(self.turn_s, END_S)

    def _lasting_room(self, staying: Sequence[str]) -> Room:
        """The room if only those were up that are never unloaded, as far as it is known where they are."""
        room = Room(self.cap, {name: Node(node.limit_mb) for name, node in self.nodes.items()})
        for name in staying:
            load = _load(self.models[name], self.demand[name])
            known = load.replicas if len(self.nodes) == 1 else len(load.nodes)
            room.hold(name, replace(load, replicas=known))
        return room

    def _go_under_the_cap(self) -> None:
        while self.idle and self.room.is_over:
            self._evict(self.idle[0], f"over the cap of {self.cap}")

    def _give_memory_back(self) -> None:
        for node, state in self.nodes.items():
            missing = state.short_mb - self.room.going_mb(node)
            for name in list(self.idle) if missing > 0 else []:
                if missing > 0 and (mb := self.room.where(name).get(node, 0)):
                    self._evict(name, f"memory is short: {state.short_mb:,.0f} MB are to be given back")
                    missing -= mb

    def _evict(self, name: str, reason: str) -> None:
        (self.idle if name in self.idle else self.busy).remove(name)
        self.room.end(name)
        self.decisions[name] = Decision(0, reason)

    def _wait(self, name: str) -> Decision:
        """What becomes of a model that is to be up and is not, or has a place and no memory."""
        seen = self.demand[name]
        claim = self._claim(self.models[name], seen)
        if why := self._refusal(seen, claim):
            return Decision(seen.replicas, why, refused=True)
        if seen.leaving:
            return Decision(0, "waits: its last process is still ending")
        if (need := self.room.best(claim, now=True)) is not None:
            return self._start(name, claim, need)
        if self._promise(claim):
            return Decision(seen.replicas, "waits for room that is being freed")
        if _starts_by_itself(seen):
            return Decision(0, "no room to start it by itself", refused=True)
        victims = self._victims(name, claim)
        if not victims:
            return self._wait_for_a_turn(name, claim)
        for victim in victims:
            self._evict(victim, f"{'made room' if victim in self.idle else 'its turn is over'} for {name}")
        self._promise(claim)
        return Decision(seen.replicas, f"waits for {', '.join(victims)} to end")

    def _promise(self, claim: Claim) -> bool:
        """Whether there will be room: nobody after it is given that."""
        need = self.room.best(claim, now=False)
        if need is not None:
            self.room.take(claim.places, need, now=False)
        return need is not None

    def _claim(self, model: Model, seen: Demand) -> Claim:
        """What it waits for. A paused model has its place, and its processes are where they are."""
        if not seen.paused:
            return Claim(model.places, self.room.ways(seen.memory_mb, seen.hosts))
        if seen.moving:
            return Claim(0, self.room.ways(seen.memory_mb, seen.hosts))
        known = [node for node in seen.nodes if node in self.nodes]
        if not known:
            return Claim(0, self.room.ways(seen.memory_mb * seen.replicas, seen.hosts))
        where = [*known, *known[:1] * seen.replicas][: seen.replicas]
        return Claim(0, [{node: seen.memory_mb * where.count(node) for node in where}])

    def _wait_for_a_turn(self, name: str, claim: Claim) -> Decision:
        """One that is overdue has a claim on what it lacks, on the node that could give most, if it could get it."""
        ahead = self.overdue
        if self._waited_s(name) >= self.turn_s:
            able = [way for way in claim.ways if self.room.would_fit(claim.places, way, [*self.idle, *self.busy])]
            if able:
                self.room.take(claim.places, max(able, key=self.lasting.free_mb), now=False)
                self.overdue = ahead or name
        seen = self.demand[name]
        if ahead:
            return Decision(seen.replicas, f"waits: it is {ahead}'s turn")
        if not self.room.has_places(claim.places):
            return Decision(
                seen.replicas, f"waits: {_shortage(claim.places, self.room.free_places, self.cap, 'in use')}"
            )
        free = max(0.0, *(self.room.free_mb(way) for way in claim.ways))
        return Decision(
            seen.replicas, f"waits: it needs {seen.memory_mb:,.0f} MB of memory, and {free:,.0f} MB are free"
        )

    def _start(self, name: str, claim: Claim, need: Need) -> Decision:
        model, seen = self.models[name], self.demand[name]
        self.room.take(claim.places, need, now=True)
        if seen.moving:
            return Decision(1, "moves: no node can hold it any more where it was", granted=True)
        if seen.paused:
            return Decision(seen.replicas, "loads", granted=True)
        replicas = self._as_many_as_fit(name, 1, scaled(model, seen, self.now))
        if seen.queued:
            return Decision(replicas, "requested")
        if seen.asked:
            return Decision(replicas, "started with the server" if seen.asked == "auto" else "started by an operator")
        return Decision(replicas, "min_replicas")

    def _grow(self) -> None:
        """More replicas of models in use, as far as there is room."""
        for name, decision in self.decisions.items():
            seen = self.demand[name]
            if 0 < seen.replicas < decision.replicas:
                replicas = self._as_many_as_fit(name, seen.replicas, decision.replicas)
                self.decisions[name] = replace(decision, replicas=replicas)

    def _as_many_as_fit(self, name: str, replicas: int, wanted: int) -> int:
        seen = self.demand[name]
        one = Claim(self.models[name].places_to_grow, self.room.ways(seen.memory_mb, seen.hosts))
        while replicas < wanted and (need := self.room.best(one, now=True)) is not None:
            self.room.take(one.places, need, now=True)
            replicas += 1
        return replicas

    def _stay(self, name: str) -> Decision:
        """What becomes of an idle model that nobody took the room of: a load that nobody waits for goes on."""
        seen = self.demand[name]
        if not seen.loading:
            return Decision(scaled(self.models[name], seen, self.now), "idle")
        if not seen.paused:
            return Decision(seen.replicas, "loads")
        claim = self._claim(self.models[name], seen)
        if why := self._refusal(seen, claim):
            return Decision(seen.replicas, why, refused=True)
        if (need := self.room.best(claim, now=True)) is not None:
            return self._start(name, claim, need)
        return Decision(seen.replicas, "waits for memory")

    def _refusal(self, seen: Demand, claim: Claim) -> str | None:
        """Why there will never be room, if so."""
        if claim.places > self.cap:
            return f"it takes {claim.places} places, and there are {self.cap}"
        if not self.lasting.has_places(claim.places):
            held = "held by models that are never unloaded"
            return _shortage(claim.places, self.lasting.free_places, self.cap, held)
        if any(self.lasting.would_fit(0, way) for way in claim.ways):
            return None
        nodes = {node for way in claim.ways for node in way}
        limit = max(self.nodes[node].limit_mb for node in nodes)
        most = max(self.lasting.free_mb([node]) for node in nodes)
        held = f" beside {limit - most:,.0f} MB of models that are never unloaded" if most < limit else ""
        return f"it needs {seen.memory_mb:,.0f} MB of memory, and the limit is {limit:,.0f} MB{held}"

    def _victims(self, name: str, claim: Claim) -> Sequence[str]:
        """The models that go for `name`: as few as are needed, or none if that does not help."""
        if found := self._enough(claim, self.idle):
            return found
        over = [candidate for candidate in self.busy if self._turn_is_over(candidate, name)]
        return self._enough(claim, [*self.idle, *over]) if over else ()

    def _enough(self, claim: Claim, candidates: Sequence[str]) -> Sequence[str]:
        """The first of the candidates whose end leaves room in one of the ways: that with the fewest of them."""
        found = [self._enough_for(claim.places, way, candidates) for way in claim.ways]
        first = {name: i for i, name in enumerate(candidates)}
        return min(filter(None, found), key=lambda gone: (len(gone), [first[name] for name in gone]), default=())

    def _enough_for(self, places: int, need: Need, candidates: Sequence[str]) -> Sequence[str]:
        if not self.room.would_fit(places, need, candidates):
            return ()
        victims: list[str] = []
        for candidate in candidates:
            if self.room.would_fit(places, need, victims):
                break
            gives_memory = not need.keys().isdisjoint(self.room.where(candidate))
            if gives_memory or not self.room.has_places(places, victims):
                victims.append(candidate)
        for victim in reversed(victims[:-1]):  # one whose room the later ones give too
            rest = [v for v in victims if v != victim]
            if self.room.would_fit(places, need, rest):
                victims = rest
        return victims

    def _turn_is_over(self, candidate: str, name: str) -> bool:
        own, other, seen = self.models[candidate], self.models[name], self.demand[candidate]
        wait_s = self.turn_s * (1 + max(0, own.priority - other.priority))
        if self._waited_s(name) < wait_s:
            return False
        return seen.failed if seen.up_since is None else self.now - seen.up_since >= max(wait_s, own.min_resident_s)


def _starts_by_itself(seen: Demand) -> bool:
    return seen.asked == "auto" and not seen.queued


def _shortage(places: int, free: int, cap: int, taken: str) -> str:
    """Why there are fewer places than it takes."""
    if places == 1:
        return f"all {cap} places are {taken}"
    return f"it takes {places} places, and {cap - max(0, free)} of {cap} are {taken}"


def _load(model: Model, seen: Demand) -> Load:
    """What it takes; a paused model has not taken its memory yet."""
    processes = max(1, seen.replicas, seen.processes)
    kept = model.places_of(seen.replicas or processes)
    return Load(
        replicas=max(processes, len(seen.nodes)),
        mb=0 if seen.paused else seen.memory_mb,
        nodes=seen.nodes,
        places=kept,
        ending_places=model.places_of(processes) - kept,
    )


def _decide_alone(model: Model, seen: Demand, now: float) -> Decision | None:
    """What needs no look at other models; None for one that waits and one that may go."""
    if seen.replicas == 0:
        waits = seen.queued > 0 or seen.asked in ("up", "auto") or (model.min_replicas > 0 and not seen.held)
        return None if waits else _NO_DEMAND
    if seen.asked == "down":
        return Decision(0, "stopped by an operator")
    if seen.lost:
        return Decision(0, "its process was lost while it was starting, and it is tried again")
    replicas = scaled(model, seen, now)
    if seen.wanted:
        return Decision(replicas, "in use")
    quiet_s = now - seen.last_used
    if quiet_s <= SETTLE_S:
        return Decision(replicas, "just used")
    if seen.moving and not model.stays:
        return Decision(0, "no node can hold it any more")
    if seen.failed and quiet_s >= BACK_OFF_S:
        return Decision(0, "did not start")
    if model.stays:
        return Decision(replicas, "pinned" if model.pinned else "min_replicas")
    if seen.loading:
        return None
    if seen.up_since is not None and now - seen.up_since < model.min_resident_s:
        return Decision(replicas, f"up for less than {model.min_resident_s:g} s")
    limit_s = idle_limit_s(model, seen.keep_alive_s)
    return Decision(0, f"idle for {limit_s:g} s") if limit_s <= quiet_s else None
