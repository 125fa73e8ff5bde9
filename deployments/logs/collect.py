"""The last words of replicas that were killed: they lie in files on their nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from deployments.logs import tail
from deployments.logs.batch import Source
from deployments.logs.tail import Tail

REST_BYTES = 8 * 2**20  # at a time
BORN_APART_S = 1.0  # between two readings of when the same process began, at most


class NodeGone(Exception):
    """The files cannot be read any more."""


@dataclass(frozen=True)
class Rest:
    """alive: whether the process is still there. batches: encoded. more: whether this is not all."""

    alive: bool
    batches: tuple[bytes, ...] = ()
    more: bool = False


class Collector(Protocol):
    async def collect(self, source: Source, offsets: Mapping[str, int]) -> Rest:
        """What the replica printed after the offsets. Raises: NodeGone."""


class RayCollector:
    """On the node of the replica, by a task of Ray's."""

    async def collect(self, source: Source, offsets: Mapping[str, int]) -> Rest:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        living = {node["NodeID"] for node in await asyncio.to_thread(ray.nodes) if node["Alive"]}
        here = ray.get_runtime_context().get_node_id()
        if source.node == here:
            return await asyncio.to_thread(rest, source, offsets)
        if source.node not in living:
            return await asyncio.to_thread(_of_another_life, source, offsets)
        there = NodeAffinitySchedulingStrategy(source.node, soft=False)
        answer: Rest = await ray.remote(num_cpus=0)(rest).options(scheduling_strategy=there).remote(source, offsets)
        return answer


def rest(source: Source, offsets: Mapping[str, int]) -> Rest:
    """On the replica's own node."""
    alive = _alive(source)
    tails = [Tail(path, offset) for path, offset in offsets.items()]
    batches: list[bytes] = []
    size = 0
    while size < REST_BYTES:
        seen = tail.read(tails, source, end=not alive)
        if seen.batch.empty:
            return Rest(alive, tuple(batches))
        batches.append(seen.batch.encode())
        size += len(batches[-1])
        for one in tails:
            one.confirm(seen.batch.files[one.path].end, seen.levels.get(one.path))
    return Rest(alive, tuple(batches), more=True)


def _of_another_life(source: Source, offsets: Mapping[str, int]) -> Rest:
    """The node may have been this machine, before the cluster was started again."""
    if not all(Path(path).exists() for path in offsets):
        raise NodeGone(source.node)
    return rest(source, offsets)


def _alive(source: Source) -> bool:
    try:
        process = psutil.Process(source.pid)
        return abs(process.create_time() - source.born) < BORN_APART_S and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
