"""Which models are up: a pure decision, and the Serve policy that asks for it.

`decide` takes plain data and returns plain data. `ResidencyPolicy` is the application's `autoscaling_policy`:
Serve's controller builds it once and calls it about ten times a second; it only translates. It is pickled into
the controller, so it imports little, never blocks and never raises.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger("ray.serve.llm_manager")

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


@dataclass(frozen=True)
class Demand:
    """What is seen of a model now.

    queued: requests that wait for a replica. unfinished: requests that replicas have not finished. replicas: decided
    on before, up or not. last_used: clock of the last sign of use.
    """

    queued: float = 0
    unfinished: float = 0
    replicas: int = 0
    last_used: float = 0

    @property
    def wanted(self) -> bool:
        return self.queued > 0 or self.unfinished > 0


@dataclass(frozen=True)
class Decision:
    replicas: int
    reason: str


def decide(models: Mapping[str, Model], demand: Mapping[str, Demand], *, cap: int, now: float) -> dict[str, Decision]:
    """Replicas for each model, with the reason.

    A model that is used, or was within SETTLE_S, stays. A waiting model takes a free place under `cap`, else the place
    of the least recently used idle one, else it waits. The longest waiting comes first. Models with `min_replicas`
    are always up and take places like others.
    """
    decisions: dict[str, Decision] = {}
    idle: list[str] = []
    waiting: list[str] = []
    for name, model in models.items():
        seen = demand[name]
        quiet_s = now - seen.last_used
        if seen.replicas == 0 and model.min_replicas == 0:
            if seen.queued > 0:
                waiting.append(name)
            else:
                decisions[name] = Decision(0, "no demand")
        elif seen.wanted:
            decisions[name] = Decision(_wanted_replicas(model, seen), "in use")
        elif quiet_s <= SETTLE_S:
            decisions[name] = Decision(max(seen.replicas, model.min_replicas), "just used")
        elif model.min_replicas > 0:
            decisions[name] = Decision(model.min_replicas, "min_replicas")
        elif 0 < model.idle_timeout_s <= quiet_s:
            decisions[name] = Decision(0, f"idle for {model.idle_timeout_s:g} s")
        else:
            idle.append(name)

    idle.sort(key=lambda name: demand[name].last_used)
    places = cap - len(idle) - sum(decision.replicas > 0 for decision in decisions.values())
    while places < 0 and idle:
        decisions[idle.pop(0)] = Decision(0, f"over the cap of {cap}")
        places += 1
    for name in sorted(waiting, key=lambda name: demand[name].last_used):
        if places > 0:
            places -= 1
        elif idle:
            decisions[idle.pop(0)] = Decision(0, f"made room for {name}")
        else:
            decisions[name] = Decision(0, f"waits: all {cap} places are in use")
            continue
        decisions[name] = Decision(_wanted_replicas(models[name], demand[name]), "requested")
    decisions.update({name: Decision(demand[name].replicas, "idle") for name in idle})
    return decisions


def _wanted_replicas(model: Model, seen: Demand) -> int:
    """Enough for the load; never fewer than are up, so that a busy model does not lose one."""
    needed = math.ceil((seen.queued + seen.unfinished) / model.target_ongoing_requests)
    return min(model.max_replicas, max(1, model.min_replicas, seen.replicas, needed))


class ResidencyPolicy:
    """Serve's application-level autoscaling policy.

    Each model's own settings come with its deployment, in `autoscaling_config.policy.policy_kwargs`; a deployment
    without them is left as it is.
    """

    def __init__(self, max_concurrent_models: int = 3) -> None:
        """max_concurrent_models: the cap; the environment's MAX_CONCURRENT_MODELS comes before it."""
        self._cap = int(os.environ.get("MAX_CONCURRENT_MODELS") or max_concurrent_models)
        if self._cap < 1:
            raise ValueError("max_concurrent_models must be at least 1")
        self._last_used: dict[Hashable, float] = {}
        self._waiting_since: dict[Hashable, float] = {}

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
        decisions = decide(models, demand, cap=self._cap, now=now)
        changes = {name: d for name, d in decisions.items() if d.replicas != demand[name].replicas}
        for name, decision in changes.items():
            logger.info(f"Model {name}: {demand[name].replicas} -> {decision.replicas} ({decision.reason}).")
        return {names[name]: decision.replicas for name, decision in changes.items()}

    def _demand(self, key: Hashable, context: Any, now: float) -> Demand:
        queued = context.total_queued_requests or 0
        series = (context.raw_metrics or {}).get(UNFINISHED, {}).values()
        unfinished = sum(points[-1].value for points in series if points)
        replicas = context.target_num_replicas
        if replicas == 0:
            # Not up: its clock is the time since when it waits, so that the longest waiting comes first.
            self._last_used.pop(key, None)
            if queued > 0:
                last_used = self._waiting_since.setdefault(key, now)
            else:
                self._waiting_since.pop(key, None)
                last_used = now
            return Demand(queued=queued, last_used=last_used)
        self._waiting_since.pop(key, None)
        if queued > 0 or unfinished > 0 or key not in self._last_used:
            self._last_used[key] = now
        return Demand(queued, unfinished, replicas, self._last_used[key])
