"""The Serve policy: translates what Serve and the board say into the pure decision's terms, and its answer back.

It lives in Serve's controller, which builds it once and calls it about ten times a second: it imports little, never
blocks and never raises.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Hashable, Mapping
from dataclasses import replace
from typing import Any

from deployments import clock, memory
from deployments.residency import descriptions, scaling
from deployments.residency.board import Report, Row, Table
from deployments.residency.decision import decide, idle_limit_s
from deployments.residency.demand import Decision, Demand, Model
from deployments.residency.room import Node
from deployments.residency.variants import Choice, Group, Known, Placer
from deployments.residency.watch import Seen, Watch
from deployments.residency.wishes import Wishes

logger = logging.getLogger("ray.serve.llm_manager")

UNFINISHED = "unfinished_requests"
MEMORY = "memory_mb"
NODE_TOTAL = "node_total_mb"
NODE_FREE = "node_free_mb"
KEEP_ALIVE = "keep_alive_s"
KEEP_ALIVE_AT = "keep_alive_at"
"""Keys under which a replica reports: requests that it has not finished, what it and its node have of memory, and the
last request's own idle time, with when that came."""

RESTART_S = 1.5
"""Seconds in which a policy that takes over from another one decides nothing: reports are on their way."""
GIVE_UP_S = 1.0
"""Seconds after which Serve has asked a replica to end: one that is gone before that has failed, for Serve."""
NO_PROCESS_S = 5.0
"""Seconds after which a replica that was never seen to have a process is taken to have failed."""
STARTS = 3
"""Times that a model is started, if its process ends each time and does not say why: its node went, or the kernel took
the memory."""


class ResidencyPolicy:
    """Serve's application-level autoscaling policy.

    Each model's own settings come with its deployments, one for each placement, in
    `autoscaling_config.policy.policy_kwargs`: `model` (Model), `sizes` (Sizes), and `placement`, with the name of the
    first placement's deployment (`model`), the `rank` in order of preference, and what a replica `needs` of Ray, by
    bundle; without a placement it is a model's only one, that can be anywhere. A deployment without kwargs is left as
    it is.
    """

    def __init__(
        self,
        max_concurrent_models: int = 3,
        max_swap_wait_s: float = 30,
        memory_limit: float = 0.9,
        memory_low_water: float = 0.05,
        memory_high_water: float = 0.1,
    ) -> None:
        """max_concurrent_models: the cap; the environment's MAX_CONCURRENT_MODELS comes before it.
        max_swap_wait_s: how long a model waits for its turn while all others are in use.
        memory_limit: what models may reserve on a node together. memory_low_water: free memory under which idle models
        are unloaded, until memory_high_water is free. Each a fraction of the node's memory up to 1, and MB above.
        Raises: ValueError."""
        self._cap = int(os.environ.get("MAX_CONCURRENT_MODELS") or max_concurrent_models)
        if self._cap < 1:
            raise ValueError("max_concurrent_models must be at least 1")
        if memory_limit <= 0:
            raise ValueError("memory_limit must be above 0")
        if min(memory_low_water, memory_high_water) < 0:
            raise ValueError("memory_low_water and memory_high_water must be at least 0")
        self._turn_s = max_swap_wait_s
        self._limit = memory_limit
        self._low_water, self._high_water = memory_low_water, memory_high_water
        self._watch: Watch | None = None
        self._known = Known()
        self._placer: Placer | None = None
        self._resting: set[str] = set()
        self._rows: dict[str, Row] = {}
        self._short: set[str] = set()  # nodes that fell under the low-water mark
        self._quiet_until: float | None = None
        self._told: dict[Hashable, int] = {}  # what Serve was told the last time
        self._unborn: dict[str, float] = {}  # deployments that were given up before they were up, and since when

    def __call__(self, contexts: Mapping[Hashable, Any]) -> tuple[dict[Hashable, int], dict[Hashable, Any]]:
        """Replicas for each deployment that is to change, and no state for Serve to keep.

        Serve starts a deployment without replicas for any request that waits, whatever is decided, unless the decision
        does not mention it.
        """
        try:
            return self._decide(contexts, clock.time()), {}
        except Exception:
            # An exception here would stop the controller's loop for every application on the cluster.
            logger.exception("The residency decision failed; everything stays as it is.")
            return {}, {}

    def _decide(self, contexts: Mapping[Hashable, Any], now: float) -> dict[Hashable, int]:
        if self._known.read(contexts):
            self._resting.clear()
            for name in self._rows.keys() - self._known.models.keys():
                del self._rows[name]
        if not self._known.models:
            return {}
        seen = self._look(next(iter(contexts.values())).app_name, now)
        if seen is None:
            return {}
        if self._placer is None or seen.resources != self._placer.nodes:
            self._placer = Placer(seen.resources)
            self._resting.clear()
        news = _News(seen, now, self._known.models)
        groups = {name: self._pinned(group, news) for name, group in self._awake(contexts, news).items()}
        choices = {name: self._placer.choose(group, self._row(name).deployment) for name, group in groups.items()}
        models = {name: group.model for name, group in groups.items()}
        demand = {name: self._demand(choice, news) for name, choice in choices.items()}
        nodes = self._nodes(news)
        decisions = decide(models, demand, cap=self._cap, now=now, turn_s=self._turn_s, nodes=nodes)
        changes: dict[Hashable, int] = {}
        for name, decision in decisions.items():
            self._note(groups[name], demand[name], decision, now)
            changes |= self._changes(choices[name], demand[name], decision, now)
        self._told = changes
        if groups or news.wishes.done:
            self._publish(news, demand, changing=bool(changes))
        return changes

    def _pinned(self, group: Group, news: _News) -> Group:
        """The model as operators want it."""
        row = self._row(group.name)
        news.wishes.pin(group.name, row)
        return group if row.pinned is None else replace(group, model=replace(group.model, pinned=row.pinned))

    def _changes(self, choice: Choice, seen: Demand, decision: Decision, now: float) -> dict[Hashable, int]:
        """Replicas of the model's deployments that are to have others."""
        changes: dict[Hashable, int] = {}
        for variant, replicas in choice.changes(decision).items():
            changes[variant.key] = replicas
            if replicas:
                self._unborn.pop(variant.name, None)
            elif variant is choice.up and seen.loading and not self._row(choice.group.name).was_up:
                self._unborn[variant.name] = now
            if self._told.get(variant.key) != replicas:  # Serve does not do everything at once
                logger.info(f"Model {variant.name}: {variant.replicas} -> {replicas} ({decision.reason}).")
        return changes

    def _awake(self, contexts: Mapping[Hashable, Any], news: _News) -> dict[str, Group]:
        """The models that a decision is about: all but those that were at rest the last time, and of which there is
        nothing new. What one that is down and wanted by nobody is told of has no part in any decision."""
        stirred = {*news.seen.reports, *news.wishes.models, *self._known.owners(news.seen.processes)}
        self._resting = {
            name for name in self._resting if name not in stirred and not self._known.wanted(name, contexts)
        }
        return {name: self._known.group(name, contexts) for name in self._known.models if name not in self._resting}

    def _publish(self, news: _News, demand: Mapping[str, Demand], *, changing: bool) -> None:
        assert self._watch is not None
        for name, seen in demand.items():
            row = self._rows[name]
            if seen.rests and not row.replicas and row.waiting_since is None:
                self._resting.add(name)
            changing = changing or row.waiting or row.wish is not None or seen.leaving
        table = Table(self._watch.life, self._cap, self._rows)
        unborn = frozenset(name for name, since in self._unborn.items() if news.now - since >= GIVE_UP_S)
        self._watch.publish(table, news.wishes.done, news.heard, unborn, changing=changing)

    def _row(self, name: str) -> Row:
        if name not in self._rows:
            self._rows[name] = Row()
        return self._rows[name]

    def _look(self, application: str, now: float) -> Seen | None:
        """What the watch has seen; None as long as nothing is to be decided."""
        if self._watch is None:
            descriptions.share()
            self._watch = Watch(application)
            self._watch.start()
        seen = self._watch.seen
        if seen is not None and self._quiet_until is None:
            known = self._watch.restored.rows.items()
            self._rows = {name: row for name, row in known if name in self._known.models}
            self._quiet_until = now + RESTART_S if any(row.replicas for row in self._rows.values()) else now
        return None if self._quiet_until is None or now < self._quiet_until else seen

    def _demand(self, choice: Choice, news: _News) -> Demand:
        group, now = choice.group, news.now
        row, model = self._row(group.name), group.model
        row.deployment, row.placements = choice.chosen.name, dict(choice.why_not)
        row.queued = group.queued
        row.unfinished = sum(group.latest(UNFINISHED).values())
        row.replicas, row.running = choice.replicas, choice.chosen.context.current_num_replicas
        reports = news.seen.reports.get(group.name, ())
        processes = choice.processes(news.seen.processes)
        self._follow(model, row, reports, processes > 0, now)
        self._weigh(row, choice, reports, news)
        leaving = _leaving(row, processes > 0, news.seen)
        failed = not choice.moving and _failed(row, processes > 0, now)
        lost = failed and _lost(row)
        if failed and not (lost or row.was_up):
            row.failure = row.failure or "its process ended while it was starting"
        asked = news.wishes.asked(group.name, model, row, leaving=leaving, failed=failed and not lost)
        paused = row.replicas > 0 and (choice.moving or (not row.granted and row.reserved_mb > 0))
        row.paused_since = (row.paused_since or now) if paused and not failed else None
        since = (row.paused_since or row.last_used) if row.replicas else (row.waiting_since or now)
        return Demand(
            queued=row.queued,
            unfinished=row.unfinished,
            replicas=row.replicas,
            last_used=since,
            up_since=row.up_since,
            leaving=leaving,
            failed=failed,
            lost=lost,
            loading=row.replicas > 0 and row.up_since is None and not failed,
            memory_mb=row.reserved_mb,
            nodes=() if choice.moving else tuple(report.node for report in reports if not report.failure),
            asked=asked,
            held=row.held,
            keep_alive_s=row.keep_alive_s,
            paused=paused,
            ended_at=row.ended_at,
            moving=choice.moving,
            processes=processes,
            hosts=choice.hosts,
            enough=row.enough,
            enough_since=row.enough_since,
            coming_s=(row.load_s or 0) if row.running < row.replicas else 0,
        )

    def _follow(self, model: Model, row: Row, reports: tuple[Report, ...], process: bool, now: float) -> None:
        """The clocks of a model."""
        for report in reports:
            if report.failure and report.replica != row.failed_replica:
                row.failure, row.failed_replica = report.failure, report.replica
        if row.replicas == 0:
            row.started_at = row.up_since = row.keep_alive_s = None
            row.was_up = row.saw_process = False
            row.enough, row.enough_since = 0, None
            waits = row.queued > 0 or row.wish or (model.min_replicas > 0 and not row.held)
            row.waiting_since = (row.waiting_since or now) if waits else None
            return
        row.waiting_since = None
        row.saw_process = row.saw_process or process
        if row.started_at is None:  # Serve started it, or a policy that left no table
            row.started_at = row.last_used = now
            row.granted = True
        if row.running == 0:
            row.up_since = None
        elif row.up_since is None:
            row.up_since = row.last_used = now
            if not row.was_up:
                row.load_s = now - row.started_at
            row.was_up, row.granted, row.lost = True, True, 0
        if row.up_since is not None:
            row.failure = None  # another replica's, if any
            # While it loads, requests that join one call are not counted.
            needed = scaling.needed(model, row.queued + row.unfinished)
            row.enough, row.enough_since = scaling.enough(needed, row.replicas, (row.enough, row.enough_since), now)
        if row.queued > 0 or row.unfinished > 0:
            row.last_used = now

    def _weigh(self, row: Row, choice: Choice, reports: tuple[Report, ...], news: _News) -> None:
        """What the model takes of memory, and what its requests said of how long it is to stay."""
        group, sizes = choice.group, choice.chosen.sizes
        measured = choice.chosen.latest(MEMORY)
        if row.kind != sizes.kind:
            row.kind, row.peak_mb, row.load_s = sizes.kind, None, None
        row.measured_mb = max(measured.values(), default=0)
        if row.measured_mb:
            row.peak_mb = max(row.peak_mb or 0, row.measured_mb)
        row.load_s = row.load_s if row.load_s is not None else sizes.load_s
        own = [report for report in reports if report.deployment in ("", choice.chosen.name)]
        needed = next((report.need_mb for report in own if report.need_mb is not None), None)
        known = (sizes.memory_mb, row.peak_mb, needed, sizes.estimate_mb)
        row.reserved_mb = next((mb for mb in known if mb is not None), 0)
        for replica, at in group.latest(KEEP_ALIVE_AT).items():
            if at > row.keep_alive_at:
                row.keep_alive_at = at
                row.keep_alive_s = group.latest(KEEP_ALIVE).get(replica)
        totals, frees = group.latest(NODE_TOTAL), group.latest(NODE_FREE)
        nodes = {report.replica: report.node for report in reports}
        for replica, total in totals.items():
            if (node := nodes.get(replica)) and replica in frees:
                news.memory[node] = memory.Memory(total, frees[replica])
        if row.replicas and row.granted and not choice.moving:  # what is reserved for its replicas, and not taken yet
            for report in (report for report in reports if not report.failure):
                missing = max(0.0, row.reserved_mb - measured.get(report.replica, 0))
                news.promised[report.node] = news.promised.get(report.node, 0) + missing

    def _nodes(self, news: _News) -> dict[str, Node]:
        """Memory of each node, as the pure decision wants it."""
        seen = news.seen
        if seen.here:
            news.memory[seen.here[0]] = seen.here[1]
        nodes = {}
        for name, total_mb in seen.nodes.items():
            measured = news.memory.get(name)
            if measured is None:
                nodes[name] = Node(memory.share(self._limit, total_mb))
                continue
            low = memory.share(self._low_water, measured.total_mb)
            high = max(low, memory.share(self._high_water, measured.total_mb))
            if measured.free_mb < low:
                self._short.add(name)
            elif measured.free_mb >= high:
                self._short.discard(name)
            nodes[name] = Node(
                limit_mb=memory.share(self._limit, measured.total_mb),
                free_mb=measured.free_mb - low - news.promised.get(name, 0),
                short_mb=high - measured.free_mb if name in self._short else 0,
            )
        return nodes

    def _note(self, group: Group, seen: Demand, decision: Decision, now: float) -> None:
        """Keeps the decision, and what follows from it."""
        row = self._rows[group.name]
        if decision.replicas and (not row.replicas or (seen.moving and decision.granted)):
            row.started_at, row.ended_at = now, None
            row.started_why = decision.reason
            row.last_used = now
            row.held = False
            row.was_up = row.saw_process = False
            row.granted = row.reserved_mb > 0
            row.failure = row.paused_since = None
        else:
            row.granted = row.granted or decision.granted
            if row.replicas and not decision.replicas:
                if not seen.lost:
                    row.lost = 0
                elif (row.ended_at or 0) < (row.started_at or 0):  # Serve may have to be told more than once
                    row.lost += 1
                    row.auto_done = False
                row.ended_at, row.ended_why = now, decision.reason
        row.waiting = seen.loading or (decision.replicas == 0 and (seen.queued > 0 or seen.asked == "up"))
        if decision.refused and not row.refused:
            logger.warning(f"Model {group.name} cannot be started: {decision.reason}.")
        row.replicas, row.reason, row.refused = decision.replicas, decision.reason, decision.refused
        if seen.asked == "auto":
            row.auto_done = decision.replicas > 0 or decision.refused
        limit = idle_limit_s(group.model, row.keep_alive_s)
        row.idle_limit_s = None if group.model.stays or limit == float("inf") else limit


class _News:
    """What one call of the policy is told, and what it has to say."""

    def __init__(self, seen: Seen, now: float, models: Container[str]) -> None:
        self.seen = seen
        self.now = now
        self.memory: dict[str, memory.Memory] = {}
        self.promised: dict[str, float] = {}
        self.wishes = Wishes(seen.wishes, models, now)
        self.heard = [report for reports in seen.reports.values() for report in reports if report.failure]


def _leaving(row: Row, process: bool, seen: Seen) -> bool:
    """Whether a process of a model that is to be down may still be there."""
    return row.replicas == 0 and (process or (row.ended_at is not None and seen.at <= row.ended_at))


def _failed(row: Row, process: bool, now: float) -> bool:
    if row.replicas == 0 or row.up_since is not None or process or row.started_at is None:
        return False
    return row.saw_process or now - row.started_at > NO_PROCESS_S


def _lost(row: Row) -> bool:
    """Whether a start that failed is to be tried again."""
    return row.saw_process and not row.was_up and row.failure is None and row.lost < STARTS - 1
