"""What the policy must ask others for, asked in a thread of its own: Serve's controller never waits."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psutil

from deployments import clock, memory
from deployments.residency.board import Board, Report, Row, Table, Wish, encode

logger = logging.getLogger("ray.serve.llm_manager")

LOOK_S = 0.1
IDLE_LOOK_S = 0.5
"""Seconds between looks, while something is about to change and while nothing is."""
NODES_S = 2.0
Resources = Mapping[str, float]
"""Of a node, by Ray's names."""

_NAMESPACE = "serve"  # of Serve's actors
_ACTOR = "SERVE_REPLICA::"  # Serve names a replica's actor SERVE_REPLICA::application#deployment#id


@dataclass(frozen=True)
class Seen:
    """How it was when the look began, at `at`.

    processes: of replicas, by deployment. reports: of living replicas, and last words of dead ones, by model. nodes:
    memory in MB of each that is alive, by its id. resources: what Ray says that each has. here: the controller's own
    node, and what is free there.
    """

    at: float
    processes: Mapping[str, int] = field(default_factory=dict)
    wishes: tuple[Wish, ...] = ()
    reports: Mapping[str, tuple[Report, ...]] = field(default_factory=dict)
    nodes: Mapping[str, float] = field(default_factory=dict)
    resources: Mapping[str, Resources] = field(default_factory=dict)
    here: tuple[str, memory.Memory] | None = None


class Watch:
    """Looks from `start` on, and publishes what the policy has to say.

    seen: None before the first look. life: names this life of Serve's controller; it may be restarted in it.
    restored: the table of the policy before this one in this life; of an earlier one only what it had measured.
    """

    def __init__(
        self,
        application: str,
        board: Board | None = None,
        actors: Callable[[], list[str]] | None = None,
        nodes: Callable[[], tuple[str, Mapping[str, Resources]]] | None = None,
        life: Callable[[], tuple[str, float]] | None = None,
        kill: Callable[[str], None] | None = None,
    ) -> None:
        """actors: the names of all living actors. nodes: this node's id, and the resources of each that is alive. life:
        what names this process's actor, and since when it runs. kill: ends the actor of that name. All may block;
        default: Ray's."""
        self._application = application
        self._board = board or Board(application)
        self._actors = actors or _living_actors
        self._nodes = nodes or _living_nodes
        self._life = life or _own_actor
        self._kill = kill or _kill
        self._unborn: frozenset[str] = frozenset()
        self._nodes_at = float("-inf")
        self._here = ""
        self._resources: Mapping[str, Resources] = {}
        self._table: Table | None = None
        self._told: Table | None = None
        self._published = b""
        self._done: list[str] = []
        self._heard: list[Report] = []
        self._hurry = threading.Event()
        self.seen: Seen | None = None
        self.life = ""
        self.restored = Table()

    def start(self) -> None:
        threading.Thread(target=_run, args=(weakref.ref(self),), name="residency-watch", daemon=True).start()

    def publish(
        self, table: Table, done: list[str], heard: list[Report], unborn: frozenset[str], *, changing: bool
    ) -> None:
        """The table goes out at the next look, and after it the wishes that are done and the last words that were heard
        are taken down. unborn: deployments whose replicas have never been up and are not wanted any more. changing:
        whether a model is about to come up or go."""
        self._table = table
        self._unborn = unborn
        self._done.extend(done)
        self._heard.extend(heard)
        (self._hurry.set if changing else self._hurry.clear)()

    def pause(self) -> None:
        """Until the next look is due."""
        time.sleep(LOOK_S)
        self._hurry.wait(IDLE_LOOK_S - LOOK_S)

    def look(self) -> None:
        now = clock.time()
        if self.seen is None:
            self._take_over()
        # A replica that is not alive now, and has left a report before, is dead.
        left = self._board.reports()
        living = [name.removeprefix(_ACTOR).split("#") for name in self._actors() if name.startswith(_ACTOR)]
        ours = [(parts[1], parts[2]) for parts in living if len(parts) == 3 and parts[0] == self._application]
        wishes = self._board.wishes()
        reports: dict[str, tuple[Report, ...]] = {}
        replicas = {replica for _, replica in ours}
        for report in left:
            if report.replica in replicas or report.failure:
                reports[report.model] = (*reports.get(report.model, ()), report)
            else:
                self._board.withdraw(report)
        if now - self._nodes_at > NODES_S:
            self._here, self._resources = self._nodes()
            self._nodes_at = now
        machine = memory.machine()
        self.seen = Seen(
            at=now,
            processes=Counter(deployment for deployment, _ in ours),
            wishes=wishes,
            reports=reports,
            nodes={**{node: _memory_mb(has) for node, has in self._resources.items()}, self._here: machine.total_mb},
            resources=self._resources,
            here=(self._here, machine),
        )
        for deployment, replica in ours:
            if deployment in self._unborn:
                self._end(deployment, replica)
        self._tell()

    def _end(self, deployment: str, replica: str) -> None:
        """Serve asks a replica to end by itself and waits, for as long as an answer may take. One that is still
        starting, or waits for a node, does not hear it; and nobody has a request there."""
        logger.info(f"Model {deployment}: its start is given up.")
        with contextlib.suppress(ValueError):  # it is gone
            self._kill(f"{_ACTOR}{self._application}#{deployment}#{replica}")

    def _take_over(self) -> None:
        self.life, began_at = self._life()
        self.restored = self._board.table() or Table()
        if self.restored.life != self.life:
            rows = {
                name: Row(kind=row.kind, peak_mb=row.peak_mb, load_s=row.load_s)
                for name, row in self.restored.rows.items()
            }
            self.restored = Table(self.life, rows=rows)
            self._board.fulfil([wish.id for wish in self._board.wishes() if wish.made_at < began_at])

    def _tell(self) -> None:
        table, done, heard = self._table, self._done[:], self._heard[:]
        if table is None:
            return
        if table is not self._told:
            encoded = encode(table)
            if encoded != self._published:
                self._board.publish(encoded)
                self._published = encoded
            self._told = table
        self._board.fulfil(done)
        del self._done[: len(done)]
        for report in heard:
            self._board.withdraw(report)
        del self._heard[: len(heard)]


def _run(watched: weakref.ref[Watch]) -> None:
    """Ends with the object: Serve makes a new policy for every configuration."""
    blind = False
    while watch := watched():
        try:
            watch.look()
            blind = False
        except Exception:
            if not blind:  # Ray's control service may be away for a while
                logger.exception("What the residency policy needs to know cannot be read.")
            blind = True
        watch.pause()
        del watch


def _living_actors() -> list[str]:
    import ray

    return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]


def _kill(name: str) -> None:
    import ray

    ray.kill(ray.get_actor(name, namespace=_NAMESPACE), no_restart=True)


def _living_nodes() -> tuple[str, dict[str, Resources]]:
    import ray

    living = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return ray.get_runtime_context().get_node_id(), living


def _memory_mb(resources: Resources) -> float:
    """Ray does not say how much memory a node has, only what it lends: that is what was free when the node came."""
    return (resources.get("memory", 0) + resources.get("object_store_memory", 0)) / memory.MB


def _own_actor() -> tuple[str, float]:
    import ray

    return str(ray.get_runtime_context().get_actor_id()), psutil.Process().create_time()
