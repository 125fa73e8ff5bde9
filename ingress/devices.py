"""The devices of every node of the cluster: this one is read here, the others by a task of Ray's each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.devices import cluster, machine
from deployments.devices.cluster import Node
from deployments.devices.reading import Failed, Machine
from deployments.errors import UpstreamTimeout
from deployments.placement import HEAD
from ingress.shared import Shared

TTL_S = 1.0
NODE_S = 3.0
ANSWER_S = 5.0
"""Seconds for a node's answer, and for Ray's list of the nodes beside it."""
LATE_S = 10.0
"""Seconds for which an answer is waited for that did not come in time; an older one says nothing of now."""
DEAD_SHOWN_S = 600.0
"""Seconds that a node is shown offline after it was last seen alive, by those who look here."""


class Cluster(Protocol):
    """Its calls block."""

    @property
    def here(self) -> str:
        """This node's id."""

    def nodes(self) -> Sequence[Mapping[str, Any]]:
        """As `ray.nodes()` tells: the dead ones too."""

    def ask(self, node_id: str) -> Any:
        """A reading that has begun there."""

    def answered(self, asked: Sequence[Any], within_s: float) -> Sequence[Any]:
        """Those readings that end in time, well or badly."""

    def result(self, asked: Any) -> Machine:
        """Of a reading that has ended. Raises what it raised."""


class RayCluster:
    def __init__(self) -> None:
        self.here: str = ray.get_runtime_context().get_node_id()
        self._read = ray.remote(num_cpus=0, max_retries=0)(machine.read)

    def nodes(self) -> Sequence[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = ray.nodes()
        return found

    def ask(self, node_id: str) -> Any:
        return self._read.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote()

    def answered(self, asked: Sequence[Any], within_s: float) -> Sequence[Any]:
        done: list[Any] = ray.wait(list(asked), num_returns=len(asked), timeout=within_s)[0] if asked else []
        return done

    def result(self, asked: Any) -> Machine:
        read: Machine = ray.get(asked, timeout=NODE_S)
        return read


class Nodes:
    """Reads them all, once at a time. A node that does not answer is not asked over and over."""

    def __init__(self, ray_: Cluster, here: Callable[[], Machine] = machine.read) -> None:
        self._ray = ray_
        self._here = here
        self._asked: dict[str, tuple[float, Any]] = {}  # since when
        self._alive_at: dict[str, float] = {}

    def read(self) -> list[Node]:
        began = time.monotonic()
        listed = self._ray.nodes()
        alive = [node["NodeID"] for node in listed if node["Alive"]]
        self._alive_at.update(dict.fromkeys(alive, began))
        self._asked = {id_: self._ask(id_, began) for id_ in alive if id_ != self._ray.here}
        machines: dict[str, Machine | Failed] = {self._ray.here: self._here()}
        machines.update(self._others(began + NODE_S - time.monotonic()))
        return [_node(node, machines.get(node["NodeID"])) for node in listed if self._is_shown(node, began)]

    def _ask(self, id_: str, now: float) -> tuple[float, Any]:
        since, asked = self._asked.get(id_, (float("-inf"), None))
        return (since, asked) if now - since < LATE_S else (now, self._ray.ask(id_))

    def _others(self, within_s: float) -> dict[str, Machine | Failed]:
        answered = self._ray.answered([asked for _, asked in self._asked.values()], max(0.0, within_s))
        found: dict[str, Machine | Failed] = {}
        for id_, (_, asked) in list(self._asked.items()):
            if asked in answered:
                found[id_] = self._result(asked)
                del self._asked[id_]
            else:
                found[id_] = Failed(f"No answer within {NODE_S:g} s.")
        return found

    def _result(self, asked: Any) -> Machine | Failed:
        try:
            return self._ray.result(asked)
        except Exception as error:  # of the other node: its own matter
            lines = str(error).strip().splitlines()
            return Failed(f"{type(error).__name__}: {lines[-1] if lines else ''}")

    def _is_shown(self, node: Mapping[str, Any], now: float) -> bool:
        return bool(node["Alive"]) or now - self._alive_at.get(node["NodeID"], float("-inf")) < DEAD_SHOWN_S


def _node(listed: Mapping[str, Any], read: Machine | Failed | None) -> Node:
    """read: None of a dead node."""
    return Node(
        node_id=listed["NodeID"],
        address=listed["NodeManagerAddress"],
        host_name=listed["NodeManagerHostname"],
        head=HEAD in listed["Resources"],
        machine=read or Failed(f"The node is dead: {listed.get('DeathReasonMessage') or 'it is gone'}"),
    )


class Devices:
    """Of the cluster; who asks within TTL_S shares one reading."""

    def __init__(self, read: Callable[[], list[Node]]) -> None:
        """read: may block."""
        self._shared = Shared(read, TTL_S)

    async def info(self) -> dict[str, Any]:
        """Raises: UpstreamTimeout, if Ray does not even tell which nodes there are."""
        try:
            nodes = await asyncio.wait_for(self._shared.get(), ANSWER_S)
        except TimeoutError:
            raise UpstreamTimeout("Ray's control service does not answer.") from None
        online = sum(isinstance(node.machine, Machine) for node in nodes)
        return {
            "success": True,
            "message": f"{online} of {len(nodes)} nodes answer.",
            "devices": cluster.devices(nodes),
            "nodes": [cluster.node(node) for node in nodes],
        }
