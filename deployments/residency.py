"""Which models are up: a pure decision, and the Serve policy that asks for it.

`decide` takes plain data and returns plain data. `ResidencyPolicy` is the application's `autoscaling_policy`:
Serve's controller builds it once and calls it about ten times a second; it only translates. It lives in the
controller, so it imports little, never blocks and never raises.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.processes import ReplicaProcesses

logger = logging.getLogger("ray.serve.llm_manager")

BACK_OFF_S = 10.0
"""Seconds in which a model that did not start is not tried again, whoever asks."""

METRICS_INTERVAL_S = 0.25
SETTLE_S = 0.75
"""Seconds that a replica's report may lag behind its requests: no model is unloaded sooner after its last sign of
use. (Reports leave every METRICS_INTERVAL_S, the controller reads them ten times a second; a request that slips
through is not lost: Serve drains the replica.)"""

UNFINISHED = "unfinished_requests"
"""Key under which a model replica reports the requests it has not finished."""


@dataclass(frozen=True)
class Model:
    """What the configuration says about a model's residency."""

    idle_timeout_s: float = 0
    min_replicas: int = 0
    max_replicas: int = 1
    target_ongoing_requests: float = 32
    pinned: bool = False
    priority: int = 0
    min_resident_s: float = 0

    @property
    def stays(self) -> bool:
        return self.pinned or self.min_replicas > 0


@dataclass(frozen=True)
class Demand:
    """What is seen of a model now.

    queued: requests that wait for a replica. unfinished: requests that replicas have not finished. replicas: decided
    on before, up or not. last_used: clock of the last sign of use; of a model that is down and waited for, since when.
    up_since: clock since when it can answer. leaving: whether a process of it is still ending. failed: whether it was
    to start and has no process.
    """

    queued: float = 0
    unfinished: float = 0
    replicas: int = 0
    last_used: float = 0
    up_since: float | None = None
    leaving: bool = False
    failed: bool = False

    @property
    def wanted(self) -> bool:
        return self.queued > 0 or self.unfinished > 0


@dataclass(frozen=True)
class Decision:
    replicas: int
    reason: str


def decide(
    models: Mapping[str, Model], demand: Mapping[str, Demand], *, cap: int, now: float, turn_s: float = math.inf
) -> dict[str, Decision]:
    """Replicas for each model, with the reason.

    A place under `cap` is taken from the decision to start a model until its last process is gone. A model that is
    used, or was within SETTLE_S, stays. A waiting model takes a free place, else the place of the least recently used
    idle one. Where all are in use, one that has waited for `turn_s` takes the place of the one that has been up
    longest, if that has been up for `turn_s` too: its requests are finished, new ones wait for their own turn.
    Higher `priority` waits less and goes later. `pinned`, and models with `min_replicas`, never go.
    """
    decisions: dict[str, Decision] = {}
    idle: list[str] = []
    waiting: list[str] = []
    for name, model in models.items():
        if own := _decide_alone(model, demand[name], now):
            decisions[name] = own
        else:
            (idle if demand[name].replicas else waiting).append(name)
    idle.sort(key=lambda name: (models[name].priority, demand[name].last_used))
    busy = [name for name, d in decisions.items() if d.replicas and demand[name].replicas and not models[name].stays]
    busy.sort(key=lambda name: (models[name].priority, demand[name].up_since or now))
    waiting.sort(key=lambda name: (-models[name].priority, demand[name].last_used))

    up = len(idle) + sum(decision.replicas > 0 for decision in decisions.values())
    going = {n for n in models if _goes(demand[n], decisions.get(n))}
    while up > cap and idle:
        excess = idle.pop(0)
        decisions[excess] = Decision(0, f"over the cap of {cap}")
        going.add(excess)
        up -= 1
    free = cap - up - len(going)  # places to take now
    soon = cap - up  # places to take once what goes is gone
    for name in waiting:
        if demand[name].leaving:
            decisions[name] = Decision(0, "waits: its last process is still ending")
            continue
        if free > 0:
            decisions[name] = Decision(_wanted_replicas(models[name], demand[name]), "requested")
            free, soon = free - 1, soon - 1
            continue
        if soon > 0:
            soon -= 1
            decisions[name] = Decision(0, "waits for a place that is being freed")
            continue
        victim, why = _victim(name, idle, busy, models, demand, now, turn_s)
        if victim is None:
            decisions[name] = Decision(0, f"waits: all {cap} places are in use")
        else:
            decisions[victim] = Decision(0, f"{why} {name}")
            decisions[name] = Decision(0, f"waits for {victim} to end")
    decisions.update({name: Decision(demand[name].replicas, "idle") for name in idle})
    return decisions


def _decide_alone(model: Model, seen: Demand, now: float) -> Decision | None:
    """What needs no look at other models; None for one that waits and one that may go."""
    quiet_s = now - seen.last_used
    if seen.replicas == 0 and model.min_replicas == 0:
        return None if seen.queued > 0 else Decision(0, "no demand")
    if seen.wanted:
        return Decision(_wanted_replicas(model, seen), "in use")
    if quiet_s <= SETTLE_S:
        return Decision(max(seen.replicas, model.min_replicas), "just used")
    if seen.failed and quiet_s >= BACK_OFF_S and model.min_replicas == 0:
        return Decision(0, "did not start")
    if model.stays:
        return Decision(max(1, model.min_replicas), "pinned" if model.pinned else "min_replicas")
    if seen.up_since is not None and now - seen.up_since < model.min_resident_s:
        return Decision(seen.replicas, f"up for less than {model.min_resident_s:g} s")
    if 0 < model.idle_timeout_s <= quiet_s:
        return Decision(0, f"idle for {model.idle_timeout_s:g} s")
    return None


def _goes(seen: Demand, decision: Decision | None) -> bool:
    """Whether a model that is to be down still takes its place."""
    down = seen.replicas == 0 if decision is None else decision.replicas == 0
    return down and (seen.replicas > 0 or seen.leaving)


def _victim(
    name: str,
    idle: list[str],
    busy: list[str],
    models: Mapping[str, Model],
    demand: Mapping[str, Demand],
    now: float,
    turn_s: float,
) -> tuple[str | None, str]:
    """The model that goes for `name`, taken off its list, and why."""
    if idle:
        return idle.pop(0), "made room for"
    for candidate in busy:
        up_since = demand[candidate].up_since
        wait_s = turn_s * (1 + max(0, models[candidate].priority - models[name].priority))
        since = max(demand[name].last_used, math.inf if up_since is None else up_since)
        if now - since >= max(wait_s, models[candidate].min_resident_s):
            busy.remove(candidate)
            return candidate, "its turn is over for"
    return None, ""


def _wanted_replicas(model: Model, seen: Demand) -> int:
    """Enough for the load; never fewer than are up, so that a busy model does not lose one."""
    needed = math.ceil((seen.queued + seen.unfinished) / model.target_ongoing_requests)
    return min(model.max_replicas, max(1, model.min_replicas, seen.replicas, needed))


class ResidencyPolicy:
    """Serve's application-level autoscaling policy.

    Each model's own settings come with its deployment, in `autoscaling_config.policy.policy_kwargs`; a deployment
    without them is left as it is.
    """

    def __init__(self, max_concurrent_models: int = 3, max_swap_wait_s: float = 30) -> None:
        """max_concurrent_models: the cap; the environment's MAX_CONCURRENT_MODELS comes before it.
        max_swap_wait_s: how long a model waits for its turn while all others are in use."""
        self._cap = int(os.environ.get("MAX_CONCURRENT_MODELS") or max_concurrent_models)
        if self._cap < 1:
            raise ValueError("max_concurrent_models must be at least 1")
        self._turn_s = max_swap_wait_s
        self._processes = ReplicaProcesses()
        self._last_used: dict[Hashable, float] = {}
        self._waiting_since: dict[Hashable, float] = {}
        self._up_since: dict[Hashable, float] = {}

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
        ours = {key: c for key, c in contexts.items() if c.config.policy.policy_kwargs}
        names = {c.deployment_name: key for key, c in ours.items()}
        models = {c.deployment_name: Model(**c.config.policy.policy_kwargs) for c in ours.values()}
        demand = {name: self._demand(key, ours[key], now) for name, key in names.items()}
        decisions = decide(models, demand, cap=self._cap, now=now, turn_s=self._turn_s)
        changes = {name: d for name, d in decisions.items() if d.replicas != demand[name].replicas}
        for name, decision in changes.items():
            logger.info(f"Model {name}: {demand[name].replicas} -> {decision.replicas} ({decision.reason}).")
        return {names[name]: decision.replicas for name, decision in changes.items()}

    def _demand(self, key: Hashable, context: Any, now: float) -> Demand:
        queued = context.total_queued_requests or 0
        series = (context.raw_metrics or {}).get(UNFINISHED, {}).values()
        unfinished = sum(points[-1].value for points in series if points)
        replicas = context.target_num_replicas
        process = self._processes.has(context.app_name, context.deployment_name)
        if replicas == 0:
            self._up_since.pop(key, None)
            # Its clock is the time since when it waits, so that the longest waiting comes first.
            if queued > 0:
                since = self._waiting_since.setdefault(key, now)
            else:
                self._waiting_since.pop(key, None)
                since = now
            self._last_used.pop(key, None)
            return Demand(queued=queued, last_used=since, leaving=process)
        self._waiting_since.pop(key, None)
        if context.current_num_replicas > 0:
            self._up_since.setdefault(key, now)
        else:
            self._up_since.pop(key, None)
        if queued > 0 or unfinished > 0 or key not in self._last_used:
            self._last_used[key] = now
        up_since = self._up_since.get(key)
        failed = up_since is None and not process
        return Demand(queued, unfinished, replicas, self._last_used[key], up_since, failed=failed)
