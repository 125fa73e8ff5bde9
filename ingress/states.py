"""What state each model is in and why: what Serve's controller sees of its replicas, and what the policy decided."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from deployments.residency.board import Board, Report, Row, Table
from ingress import details
from ingress.catalog import Entry
from ingress.shared import Shared

TTL_S = 0.1
PATIENCE_S = 3.0
"""Seconds after which what was last known is shown: Serve's controller may just be restarted."""

logger = logging.getLogger("ray.serve.llm_manager")


class State(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True)
class Loading:
    """How far a start is. last_seconds: what the last one took, None if there was none."""

    phase: str
    seconds: float
    last_seconds: float | None

    def __str__(self) -> str:
        last = "" if self.last_seconds is None else f"; the last start took {self.last_seconds:.0f} s"
        return f"{self.phase}, {self.seconds:.0f} s so far{last}"

    @property
    def retry_after_s(self) -> int:
        if self.last_seconds is None:
            return 10
        return min(60, max(1, math.ceil(self.last_seconds - self.seconds)))


@dataclass(frozen=True)
class ModelState:
    """deployment: the placement that serves it or will, as far as that is decided, and placements: why not the others.
    reason: the policy's, for its being up or down. has_place: whether it is up or was started. refused: whether there
    will be no room for it. backing_off: whether a failed model is not tried again yet. lost: whether its start was
    lost, which Serve must forget before there is another one. gone: whether newer settings have it no more. nodes:
    addresses of those where it has processes. pinned: what an operator said, None if nothing. Times are seconds since
    1970."""

    state: State
    failure_reason: str | None = None
    deployment: str = ""
    placements: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    has_place: bool = False
    refused: bool = False
    backing_off: bool = False
    lost: bool = False
    gone: bool = False
    replicas: int = 0
    pending: int = 0
    running: int = 0
    loaded_at: float | None = None
    last_used_at: float | None = None
    unloads_at: float | None = None
    memory_mb: float = 0
    needs_mb: float | None = None
    context_length: int | None = None
    loading: Loading | None = None
    nodes: tuple[str, ...] = ()
    pinned: bool | None = None


STOPPED = ModelState(State.STOPPED)


@dataclass(frozen=True)
class Replicas:
    """A deployment as Serve sees it."""

    state: State = State.STOPPED
    failure_reason: str | None = None
    running: int = 0


def replicas_of(trigger: str, message: str, replicas: Mapping[str, int]) -> Replicas:
    """From Serve's DeploymentStatusOverview: why its status is what it is, the message to that, and how many replicas
    are in which state."""
    if running := replicas.get("RUNNING"):
        return Replicas(State.RUNNING, running=running)
    if trigger == "REPLICA_STARTUP_FAILED":
        return Replicas(State.FAILED, failure_reason(message))
    if any(replicas.get(state) for state in ("STARTING", "UPDATING", "RECOVERING", "PENDING_MIGRATION")):
        return Replicas(State.STARTING)
    if replicas.get("STOPPING"):
        return Replicas(State.STOPPING)
    return Replicas()


def failure_reason(message: str) -> str:
    """The last line of the trace that Serve reports: the exception itself."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown"


def state_of(seen: Replicas, row: Row, reports: tuple[Report, ...], now: float) -> ModelState:
    state = seen.state
    explained = row.failure or any(report.failure for report in reports)
    lost = state is State.FAILED and bool(row.replicas or row.lost) and not explained
    if lost or (state is State.STOPPED and (row.waiting or row.replicas)):
        state = State.STARTING
    elif state is State.STOPPED and row.failure:
        state = State.FAILED
    up = state is State.RUNNING
    idle = up and not row.queued and not row.unfinished and row.idle_limit_s is not None
    return ModelState(
        state=state,
        failure_reason=(seen.failure_reason or row.failure) if state is State.FAILED else None,
        deployment=row.deployment,
        placements=row.placements,
        reason=row.reason,
        has_place=row.replicas > 0,
        refused=row.refused,
        backing_off=state is seen.state is State.FAILED,
        lost=lost,
        replicas=seen.running,
        pending=math.ceil(row.queued),  # Serve's figure is an average of the last moment
        running=math.ceil(row.unfinished),
        loaded_at=row.up_since if up else None,
        last_used_at=row.last_used or None,
        unloads_at=row.last_used + row.idle_limit_s if idle and row.idle_limit_s is not None else None,
        memory_mb=row.measured_mb * seen.running if up else 0,
        needs_mb=row.reserved_mb or None,
        context_length=next((r.context_length for r in reports if r.context_length is not None), None),
        loading=_loading(row, reports, now) if state is State.STARTING else None,
        nodes=_nodes(report.address for report in reports if not report.failure) if _has_processes(state) else (),
        pinned=row.pinned,
    )


def _has_processes(state: State) -> bool:
    return state in (State.STARTING, State.RUNNING, State.STOPPING)


def _nodes(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({address for address in addresses if address}))


def _loading(row: Row, reports: tuple[Report, ...], now: float) -> Loading:
    since = (row.started_at if row.replicas else row.waiting_since) or now
    if row.replicas:
        phase = next((report.phase for report in reports if not report.failure), "starting its process")
    else:
        phase = row.reason
    return Loading(phase, max(0.0, now - since), row.load_s)


def member_state(host: ModelState, shown: Sequence[Mapping[str, Any]], now: float) -> ModelState:
    """A model inside others' replicas. host: those. shown: the model in each of them, as `deployments.shelf.Shown`,
    with the `address` of its node."""
    known = replace(
        host,
        state=State.STOPPED,
        failure_reason=None,
        reason="" if host.state is State.RUNNING else host.reason,
        backing_off=False,
        replicas=0,
        loaded_at=None,
        unloads_at=None,
        last_used_at=max((one["last_used"] for one in shown if one["last_used"]), default=None),
        pending=sum(one["waiting"] for one in shown),
        running=sum(one["running"] for one in shown),
        memory_mb=0,
        needs_mb=None,
        loading=None,
        nodes=(),
    )
    phases: dict[str, list[Mapping[str, Any]]] = {}
    for one in shown if host.state in (State.RUNNING, State.STARTING) else ():
        phases.setdefault(one["phase"], []).append(one)
    if up := phases.get("up"):
        since = min(one["since"] for one in up)
        nodes = _nodes(one.get("address", "") for one in up)
        return replace(known, state=State.RUNNING, replicas=len(up), loaded_at=since, reason="loaded", nodes=nodes)
    if coming := [*phases.get("loading", ()), *phases.get("waiting", ())]:
        loading = Loading(coming[0]["phase"], max(0.0, now - coming[0]["since"]), coming[0]["load_s"])
        nodes = _nodes(one.get("address", "") for one in coming)
        return replace(known, state=State.STARTING, loading=loading, reason=coming[0]["phase"], nodes=nodes)
    if leaving := phases.get("leaving"):
        nodes = _nodes(one.get("address", "") for one in leaving)
        return replace(known, state=State.STOPPING, reason="finishes its requests", nodes=nodes)
    if failed := phases.get("failed"):
        return replace(known, state=State.FAILED, failure_reason=failed[0]["failure"], backing_off=True)
    if host.state is State.FAILED:
        return replace(known, state=State.FAILED, failure_reason=host.failure_reason, backing_off=host.backing_off)
    return known


@dataclass(frozen=True)
class Reading:
    """Everything that is known of an application's models, by their deployments' names. members: of each, what is
    shown of the models inside its replicas, by their names. cap: None without a policy of ours."""

    states: Mapping[str, ModelState]
    cap: int | None = None
    members: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]] = field(default_factory=dict)

    def of(self, deployment_name: str, member: str | None = None) -> ModelState:
        state = self.states.get(deployment_name, STOPPED)
        if member is None:
            return state
        return member_state(state, self.members.get(deployment_name, {}).get(member, ()), time.time())

    def of_entry(self, entry: Entry) -> ModelState:
        return self.of(entry.deployment_name, entry.member)


class States:
    """Reads all states at once; callers within TTL_S share one reading, and get the last one if there is none."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        """read: may block."""
        self._shared = Shared(read, TTL_S)
        self._last: Reading | None = None

    async def all(self, max_age_s: float | None = None) -> Reading:
        """Raises what the reading raised, if there was none before it.

        max_age_s: how old it may be; default TTL_S.
        """
        try:
            self._last = await asyncio.wait_for(self._shared.get(max_age_s), PATIENCE_S)
        except Exception as error:
            if self._last is None:
                raise
            logger.warning(f"The states of the models cannot be read: {error!r}")
        return self._last

    def expire(self) -> None:
        """Something has changed: who asks from now on sees it."""
        self._shared.expire()

    async def of(self, deployment_name: str, max_age_s: float | None = None) -> ModelState:
        return (await self.all(max_age_s)).of(deployment_name)

    async def of_entry(self, entry: Entry, max_age_s: float | None = None) -> ModelState:
        return (await self.all(max_age_s)).of_entry(entry)


def read(app_name: str, board: Board, variants: Mapping[str, Sequence[str]]) -> Reading:
    """variants: the deployments of each model or pool, by the first one's name."""
    table = board.table() or Table()
    reports: dict[str, list[Report]] = {}
    for report in board.reports():
        reports.setdefault(report.model, []).append(report)
    seen = {}
    for name, told in details.deployments(app_name).items():
        replicas = Counter(_word(replica["state"]) for replica in told["replicas"])
        seen[name] = replicas_of(_word(told["status_trigger"]), told["message"], replicas)
    now = time.time()
    states = {}
    for name, own in variants.items():
        row = table.row(name)
        placed = together({v: seen[v] for v in own if v in seen}, row.deployment or name)
        state = state_of(placed, row, tuple(reports.get(name, ())), now)
        # While Serve builds an application anew it names none of its deployments.
        states[name] = replace(state, gone=bool(seen) and seen.keys().isdisjoint(own))
    members = {name: _members(own) for name, own in reports.items()}
    return Reading(states, table.cap or None, members)


def _word(told: Any) -> str:
    """Of Serve's enumerations, or their words."""
    return str(getattr(told, "value", told))


def together(seen: Mapping[str, Replicas], chosen: str) -> Replicas:
    """A model at all its placements, by deployment: the furthest state counts. A failure counts where the model is to
    be: it may have left the others because of that."""
    order = [State.RUNNING, State.FAILED, State.STARTING, State.STOPPING, State.STOPPED]
    counted = [one for name, one in seen.items() if name == chosen or one.state is not State.FAILED]
    best = min(counted, key=lambda one: order.index(one.state), default=Replicas())
    return replace(best, running=sum(one.running for one in seen.values()))


def _members(reports: Sequence[Report]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for report in reports:
        for name, shown in report.members.items():
            found.setdefault(name, []).append({**shown, "address": report.address})
    return found
