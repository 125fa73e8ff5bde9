"""The devices of a cluster that answers as a test wants it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from deployments.devices.reading import Cpu, Failed, Machine
from deployments.errors import UpstreamTimeout
from deployments.memory import Memory
from deployments.placement import HEAD
from ingress import devices
from ingress.devices import Devices, Nodes

HERE = Machine(Cpu(2, Memory(100, 50), load=1, utilization=50))
THERE = Machine(Cpu(4, Memory(200, 50), load=1, utilization=50))


class Cluster:
    """here is node `a`. Nodes answer what `answers` holds for them; one that it does not hold is slow."""

    here = "a"

    def __init__(self) -> None:
        self.listed = [listed("a", head=True), listed("b"), listed("c")]
        self.answers: dict[str, Machine | Exception] = {"b": THERE, "c": THERE}
        self.asked: list[str] = []

    def nodes(self) -> Sequence[Mapping[str, Any]]:
        return self.listed

    def ask(self, node_id: str) -> str:
        self.asked.append(node_id)
        return node_id

    def answered(self, asked: Sequence[str], within_s: float) -> Sequence[str]:
        return [node for node in asked if node in self.answers]

    def result(self, asked: str) -> Machine:
        answer = self.answers[asked]
        if isinstance(answer, Exception):
            raise answer
        return answer


def listed(node: str, *, alive: bool = True, head: bool = False) -> dict[str, Any]:
    return {
        "NodeID": node,
        "Alive": alive,
        "NodeManagerAddress": "10.0.0.1",
        "NodeManagerHostname": f"host-{node}",
        "Resources": {HEAD: 1.0} if head else {},
        "DeathReasonMessage": None if alive else "health check failed",
    }


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(devices, "time", clock)
    return clock


def read(nodes: Nodes) -> dict[str, Machine | str]:
    """What each node answers, or why it does not."""
    return {n.node_id: n.machine.error if isinstance(n.machine, Failed) else n.machine for n in nodes.read()}


def test_this_node_is_read_here_and_the_others_are_asked() -> None:
    cluster = Cluster()
    assert read(Nodes(cluster, lambda: HERE)) == {"a": HERE, "b": THERE, "c": THERE}
    assert cluster.asked == ["b", "c"]
    assert [node.head for node in Nodes(cluster, lambda: HERE).read()] == [True, False, False]


def test_node_that_fails_says_why_and_spoils_nothing() -> None:
    cluster = Cluster()
    cluster.answers["b"] = RuntimeError("Traceback\nImportError: no such module")
    assert read(Nodes(cluster, lambda: HERE)) == {
        "a": HERE,
        "b": "RuntimeError: ImportError: no such module",
        "c": THERE,
    }


def test_slow_node_is_offline_and_its_late_answer_is_taken(clock: Clock) -> None:
    cluster = Cluster()
    del cluster.answers["b"]
    nodes = Nodes(cluster, lambda: HERE)
    for _ in range(3):
        assert read(nodes) == {"a": HERE, "b": "No answer within 3 s.", "c": THERE}
    assert cluster.asked.count("b") == 1, "a node that hangs does not gather tasks"
    cluster.answers["b"] = THERE
    assert read(nodes)["b"] == THERE
    assert cluster.asked.count("b") == 1
    read(nodes)
    assert cluster.asked.count("b") == 2


def test_answer_that_is_too_late_says_nothing_of_now(clock: Clock) -> None:
    cluster = Cluster()
    del cluster.answers["b"]
    nodes = Nodes(cluster, lambda: HERE)
    read(nodes)
    clock.now += devices.LATE_S
    read(nodes)
    assert cluster.asked.count("b") == 2


def test_dead_node_is_shown_for_a_while_if_it_was_seen_alive(clock: Clock) -> None:
    cluster = Cluster()
    nodes = Nodes(cluster, lambda: HERE)
    read(nodes)
    cluster.listed[1:] = [listed("b", alive=False), listed("old", alive=False)]
    assert read(nodes) == {"a": HERE, "b": "The node is dead: health check failed"}
    assert cluster.asked.count("b") == 1
    clock.now += devices.DEAD_SHOWN_S
    assert read(nodes) == {"a": HERE}


async def test_all_who_ask_within_a_moment_share_a_reading() -> None:
    cluster = Cluster()
    told = Devices(Nodes(cluster, lambda: HERE).read)
    first = await told.info()
    assert await told.info() == first
    assert cluster.asked == ["b", "c"]
    assert (first["success"], first["message"]) == (True, "3 of 3 nodes answer.")
    assert first["devices"]["cpu"]["info"]["cpu_count"] == 10
    assert [node["host_name"] for node in first["nodes"]] == ["host-a", "host-b", "host-c"]


async def test_control_service_that_hangs_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "ANSWER_S", 0.05)
    goes_on = threading.Event()
    monkeypatch.setattr(Cluster, "nodes", lambda _: goes_on.wait(10))
    with pytest.raises(UpstreamTimeout):
        await Devices(Nodes(Cluster(), lambda: HERE).read).info()
    goes_on.set()
