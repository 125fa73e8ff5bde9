"""The terms of the decision: what is configured, what is seen, what is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Model:
    """What the configuration says about a model's residency.

    places: under the cap, that one replica takes; where it is one, all replicas together take it. downscale_delay_s:
    seconds for which fewer replicas must have been enough before it has fewer.
    """

    idle_timeout_s: float = 0
    min_replicas: int = 0
    max_replicas: int = 1
    target_ongoing_requests: float = 32
    pinned: bool = False
    priority: int = 0
    min_resident_s: float = 0
    auto_start: bool = False
    places: int = 1
    downscale_delay_s: float = 30

    @property
    def stays(self) -> bool:
        return self.pinned or self.min_replicas > 0

    @property
    def places_to_grow(self) -> int:
        """Under the cap, that one replica more takes."""
        return self.places if self.places > 1 else 0

    def places_of(self, replicas: int) -> int:
        """Under the cap, that so many replicas take."""
        return self.places + (replicas - 1) * self.places_to_grow if replicas else 0


@dataclass(frozen=True)
class Demand:
    """What is seen of a model now.

    queued: requests that wait for a replica. unfinished: requests that replicas have not finished. replicas: decided on
    before, up or not. last_used: clock of the last sign of use; of a model that is waited for and down, or paused:
    since when. up_since: clock since when it can answer. loading: whether it was started and cannot answer yet. failed:
    whether it was to start and has no process. lost: failed, and nobody said why: it is to be tried again. leaving:
    whether a process of it is still ending, and ended_at: clock since when, if known. memory_mb: what a replica
    reserves. nodes: where it has processes, one for each, as far as is known. asked: what an operator asked for and is
    not done yet; `auto` is a start that nobody has to make room for. held: whether an operator stopped it, and nobody
    has asked for it since. keep_alive_s: the last request's own idle time; negative is for ever. paused: whether it
    could load, and waits for its memory. moving: paused too, since no node can hold its replicas any more; it is to be
    started anew at another placement. processes: how many it has. hosts: nodes that can hold a replica; empty where any
    may. enough: replicas that were enough since `enough_since`, where that is fewer than it has. coming_s: what a start
    takes, while a replica is starting beside others.
    """

    queued: float = 0
    unfinished: float = 0
    replicas: int = 0
    last_used: float = 0
    up_since: float | None = None
    leaving: bool = False
    failed: bool = False
    lost: bool = False
    loading: bool = False
    memory_mb: float = 0
    nodes: tuple[str, ...] = ()
    asked: Literal["up", "down", "auto"] | None = None
    held: bool = False
    keep_alive_s: float | None = None
    paused: bool = False
    ended_at: float | None = None
    moving: bool = False
    processes: int = 0
    hosts: tuple[str, ...] = ()
    enough: int = 0
    enough_since: float | None = None
    coming_s: float = 0

    @property
    def wanted(self) -> bool:
        return self.queued > 0 or self.unfinished > 0 or self.asked == "up"

    @property
    def rests(self) -> bool:
        """Down, with nothing left of it and nobody who asks."""
        return not (self.replicas or self.processes or self.leaving or self.asked or self.wanted)


@dataclass(frozen=True)
class Decision:
    """refused: there will be no room for it, however long it waits. granted: one that was paused may load; one that was
    moving is started."""

    replicas: int
    reason: str
    refused: bool = False
    granted: bool = False
