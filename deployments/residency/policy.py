"""The Serve policy: translates what Serve and the board say into the pure decision's terms, and its answer back.

It lives in Serve's controller, which builds it once and calls it about ten times a second: it imports little, never
blocks and never raises.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Container, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deployments import memory
from deployments.residency.board import SUPERSEDED, Report, Row, Table, Wish
from deployments.residency.decision import Decision, Demand, Model, decide, idle_limit_s
from deployments.residency.room import Node
from deployments.residency.watch import Seen, Watch

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
NO_PROCESS_S = 5.0
"""Seconds after which a replica that was never seen to have a process is taken to have failed."""
ANSWERS = 64  # kept for each model: everybody who joined a start finds theirs


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


class ResidencyPolicy:
    """Serve's application-level autoscaling policy.

    Each model's own settings come with its deployment, in `autoscaling_config.policy.policy_kwargs`, as `model`
    (Model) and `sizes` (Sizes); a deployment without them is left as it is.
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
        self._rows: dict[str, Row] = {}
        self._short: set[str] = set()  # nodes that fell under the low-water mark
        self._quiet_until: float | None = None

    def __call__(self, contexts: Mapping[Hashable, Any]) -> tuple[dict[Hashable, int], dict[Hashable, Any]]:
        """Replicas for each deployment that is to change, and no state for Serve to keep.

        Serve starts a deployment without replicas for any request that waits, whatever is decided, unless the decision
        does not mention it.
        """
        try:
            return self._decide(contexts, time.time()), {}
        except Exception:
            # An exception here would stop the controller's loop for every application on the cluster.
            logger.exception("The residency decision failed; everything stays as it is.")
            return {}, {}

    def _decide(self, contexts: Mapping[Hashable, Any], now: float) -> dict[Hashable, int]:
        ours = {c.deployment_name: (key, c) for key, c in contexts.items() if c.config.policy.policy_kwargs}
        if not ours:
            return {}
        seen = self._look(next(iter(ours.values()))[1].app_name, now)
        if seen is None:
            return {}
        models = {name: Model(**c.config.policy.policy_kwargs["model"]) for name, (_, c) in ours.items()}
        sizes = {name: Sizes(**c.config.policy.policy_kwargs["sizes"]) for name, (_, c) in ours.items()}
        for name in set(self._rows) - set(ours):
            del self._rows[name]
        news = _News(seen, now, ours)
        demand = {n: self._demand(models[n], sizes[n], c, news) for n, (_, c) in ours.items()}
        nodes = self._nodes(news)
        decisions = decide(models, demand, cap=self._cap, now=now, turn_s=self._turn_s, nodes=nodes)
        changes = {}
        for name, decision in decisions.items():
            self._note(name, models[name], demand[name], decision, now)
            if decision.replicas != demand[name].replicas:
                changes[ours[name][0]] = decision.replicas
                logger.info(f"Model {name}: {demand[name].replicas} -> {decision.replicas} ({decision.reason}).")
        assert self._watch is not None
        changing = any(row.waiting or row.wish or demand[name].leaving for name, row in self._rows.items())
        table = Table(self._watch.life, self._cap, self._rows)
        self._watch.publish(table, news.done, news.heard, changing=changing or bool(changes))
        return changes

    def _look(self, application: str, now: float) -> Seen | None:
        """What the watch has seen; None as long as nothing is to be decided."""
        if self._watch is None:
            self._watch = Watch(application)
            self._watch.start()
        seen = self._watch.seen
        if seen is not None and self._quiet_until is None:
            self._rows = dict(self._watch.restored.rows)
            self._quiet_until = now + RESTART_S if any(row.replicas for row in self._rows.values()) else now
        return None if self._quiet_until is None or now < self._quiet_until else seen

    def _demand(self, model: Model, sizes: Sizes, context: Any, news: _News) -> Demand:
        name: str = context.deployment_name
        row, now = self._rows.setdefault(name, Row()), news.now
        row.queued = context.total_queued_requests or 0
        row.unfinished = sum(news.latest(context, UNFINISHED).values())
        row.replicas, row.running = context.target_num_replicas, context.current_num_replicas
        reports = news.seen.reports.get(name, ())
        process = name in news.seen.processes
        self._follow(model, row, reports, process, news)
        self._weigh(row, sizes, context, reports, news)
        asked = self._asked(name, model, row, process, news)
        failed = _failed(row, process, now)
        paused = row.replicas > 0 and not row.granted and row.reserved_mb > 0
        row.paused_since = (row.paused_since or now) if paused and not failed else None
        since = (row.paused_since or row.last_used) if row.replicas else (row.waiting_since or now)
        return Demand(
            queued=row.queued,
            unfinished=row.unfinished,
            replicas=row.replicas,
            last_used=since,
            up_since=row.up_since,
            leaving=_leaving(row, process, news.seen),
            failed=failed,
            loading=row.replicas > 0 and row.up_since is None and not failed,
            memory_mb=row.reserved_mb,
            nodes=tuple(report.node for report in reports if not report.failure),
            asked=asked,
            held=row.held,
            keep_alive_s=row.keep_alive_s,
            paused=paused,
            ended_at=row.ended_at,
        )

    def _follow(self, model: Model, row: Row, reports: tuple[Report, ...], process: bool, news: _News) -> None:
        """The clocks of a model."""
        now = news.now
        for report in reports:
            if report.failure and report.replica != row.failed_replica:
                row.failure, row.failed_replica = report.failure, report.replica
        if row.replicas == 0:
            row.started_at = row.up_since = row.keep_alive_s = None
            row.was_up = row.saw_process = False
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
            row.was_up, row.granted, row.failure = True, True, None
        if row.queued > 0 or row.unfinished > 0:
            row.last_used = now

    def _weigh(self, row: Row, sizes: Sizes, context: Any, reports: tuple[Report, ...], news: _News) -> None:
        """What the model takes of memory, and what its requests said of how long it is to stay."""
        measured = news.latest(context, MEMORY)
        if row.kind != sizes.kind:
            row.kind, row.peak_mb, row.load_s = sizes.kind, None, None
        row.measured_mb = max(measured.values(), default=0)
        if row.measured_mb:
            row.peak_mb = max(row.peak_mb or 0, row.measured_mb)
        row.load_s = row.load_s if row.load_s is not None else sizes.load_s
        needed = next((report.need_mb for report in reports if report.need_mb is not None), None)
        known = (sizes.memory_mb, row.peak_mb, needed, sizes.estimate_mb)
        row.reserved_mb = next((mb for mb in known if mb is not None), 0)
        for replica, at in news.latest(context, KEEP_ALIVE_AT).items():
            if at > row.keep_alive_at:
                row.keep_alive_at = at
                row.keep_alive_s = news.latest(context, KEEP_ALIVE).get(replica)
        totals, frees = news.latest(context, NODE_TOTAL), news.latest(context, NODE_FREE)
        nodes = {report.replica: report.node for report in reports}
        for replica, total in totals.items():
            if (node := nodes.get(replica)) and replica in frees:
                news.memory[node] = memory.Memory(total, frees[replica])
        if row.replicas and row.granted:  # what is reserved for its replicas, and not taken yet
            for report in (report for report in reports if not report.failure):
                missing = max(0.0, row.reserved_mb - measured.get(report.replica, 0))
                news.promised[report.node] = news.promised.get(report.node, 0) + missing

    def _asked(self, name: str, model: Model, row: Row, process: bool, news: _News) -> Any:
        """What is still to be done of what operators wish, and of `auto_start`."""
        shown = news.wishes.get(name, [])
        news.done += [wish.id for wish in shown if wish.id in row.answers]
        wishes = [wish for wish in shown if wish.id not in row.answers]
        if older := [wish for wish in wishes if wish.kind != wishes[-1].kind]:
            news.answer(row, older, f"{SUPERSEDED}: {wishes[-1].kind}")
        wishes = [wish for wish in wishes if wish.kind == wishes[-1].kind]  # one that joins is answered with the last
        if not wishes:
            row.wish = None
            if not model.auto_start or row.auto_done:
                return None
            row.auto_done = row.replicas > 0
            return None if row.auto_done else "auto"
        wish = wishes[-1]
        if row.wish != wish.id:
            row.wish, row.wish_at = wish.id, news.now
            row.refused = False
        row.auto_done = True
        if wish.kind == "stop":
            if row.replicas == 0:
                if not _leaving(row, process, news.seen):
                    row.held = True
                    news.answer(row, wishes)
                return None
            return "down"
        return self._start_asked(row, wishes, process, news)

    def _start_asked(self, row: Row, wishes: list[Wish], process: bool, news: _News) -> Any:
        if row.replicas == 0:
            if row.refused:
                news.answer(row, wishes, row.reason)
                return None
            return "up"
        began_before = row.started_at is not None and row.started_at < row.wish_at
        # One that was up is started again by Serve; that may fail too.
        failed = _failed(row, process, news.now) and (not row.was_up or row.failure is not None)
        if began_before and (wishes[-1].kind == "restart" or failed):
            return "down"
        if row.up_since is not None:
            news.answer(row, wishes)
            return None
        if failed:
            news.answer(row, wishes, row.failure or "its process ended while it was starting")
            return None
        return "up"

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

    def _note(self, name: str, model: Model, seen: Demand, decision: Decision, now: float) -> None:
        """Keeps the decision, and what follows from it."""
        row = self._rows[name]
        if decision.replicas and not row.replicas:
            row.started_at, row.ended_at = now, None
            row.last_used = now
            row.held = False
            row.granted = row.reserved_mb > 0
            row.failure = None
        elif row.replicas and not decision.replicas:
            row.ended_at = now
            if seen.failed and not row.failure:
                row.failure = "its process ended while it was starting"
        row.granted = row.granted or decision.granted
        row.waiting = seen.loading or (decision.replicas == 0 and (seen.queued > 0 or seen.asked == "up"))
        if decision.refused and not row.refused:
            logger.warning(f"Model {name} cannot be started: {decision.reason}.")
        row.replicas, row.reason, row.refused = decision.replicas, decision.reason, decision.refused
        if seen.asked == "auto":
            row.auto_done = decision.replicas > 0 or decision.refused
        limit = idle_limit_s(model, replace(seen, keep_alive_s=row.keep_alive_s))
        row.idle_limit_s = None if model.stays or limit == float("inf") else limit


class _News:
    """What one call of the policy is told, and what it has to say."""

    def __init__(self, seen: Seen, now: float, models: Container[str]) -> None:
        self.seen = seen
        self.now = now
        self.memory: dict[str, memory.Memory] = {}
        self.promised: dict[str, float] = {}
        self.done = [wish.id for wish in seen.wishes if wish.model not in models]
        self.heard = [report for reports in seen.reports.values() for report in reports if report.failure]
        self.wishes: dict[str, list[Wish]] = {}
        for wish in seen.wishes:
            self.wishes.setdefault(wish.model, []).append(wish)

    def latest(self, context: Any, metric: str) -> dict[str, float]:
        """The last value that each replica reported, by the replica's id."""
        series = (context.raw_metrics or {}).get(metric) or {}
        return {getattr(r, "unique_id", r): points[-1].value for r, points in series.items() if points}

    def answer(self, row: Row, wishes: list[Wish], problem: str = "") -> None:
        self.done += [wish.id for wish in wishes]
        row.answers = dict([*row.answers.items(), *((wish.id, problem) for wish in wishes)][-ANSWERS:])


def _leaving(row: Row, process: bool, seen: Seen) -> bool:
    """Whether a process of a model that is to be down may still be there."""
    return row.replicas == 0 and (process or (row.ended_at is not None and seen.at <= row.ended_at))


def _failed(row: Row, process: bool, now: float) -> bool:
    if row.replicas == 0 or row.up_since is not None or process or row.started_at is None:
        return False
    return row.saw_process or now - row.started_at > NO_PROCESS_S
