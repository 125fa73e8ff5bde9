"""How many replicas a model's load needs: more at once, fewer slowly."""

from __future__ import annotations

import math

from deployments.residency.demand import Demand, Model


def needed(model: Model, requests: float) -> int:
    """Replicas for so many requests; at least one."""
    return min(model.max_replicas, max(1, model.min_replicas, math.ceil(requests / model.target_ongoing_requests)))


def scaled(model: Model, seen: Demand, now: float) -> int:
    """Replicas of a model that stays up: enough for its load, and fewer than it has only if those were enough for
    `downscale_delay_s`, and for what a start takes while one is coming."""
    kept = seen.replicas
    delay_s = model.downscale_delay_s + seen.coming_s
    if seen.enough_since is not None and now - seen.enough_since >= delay_s:
        kept = min(kept, seen.enough)
    return min(model.max_replicas, max(kept, needed(model, seen.queued + seen.unfinished)))


def enough(needed: int, replicas: int, before: tuple[int, float | None], now: float) -> tuple[int, float | None]:
    """The most replicas that were needed since there were more than that without a break, and since when.

    before: what it said the last time.
    """
    most, since = before
    if needed >= replicas:
        return 0, None
    if since is None or most >= replicas:  # it has just lost some: the next ones have their own time
        return needed, now
    return max(most, needed), since
