"""What one call of the residency policy takes of Serve's controller, on contexts of Serve's kind, without Serve."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.memory import MB
from deployments.residency import Model, ResidencyPolicy
from deployments.residency.board import Board, encode
from deployments.residency.policy import UNFINISHED
from deployments.residency.watch import Watch

APPLICATION = "scale"
UP = 20
BUSY_UP = 10
NODE_MB = 100_000
ROUNDS, QUICK_ROUNDS = 200, 50


@dataclass(frozen=True)
class Ticks:
    """Of one number of models: milliseconds of CPU time of a call, the median and the 99th percentile, when nothing
    happens and when UP models are up, half of them in use; and the bytes of the policy's table on the board."""

    models: int
    idle: tuple[float, float]
    busy: tuple[float, float]
    table_bytes: int


def ticks(models: int, *, quick: bool) -> Ticks:
    idle = _Controller(models, up=0)
    busy = _Controller(models, up=min(UP, models))
    rounds = QUICK_ROUNDS if quick else ROUNDS
    cost = [_cut([one.tick() for _ in range(rounds)]) for one in (idle, busy)]
    return Ticks(models, cost[0], cost[1], busy.table_bytes)


class _Store:
    """The board's store in memory."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        self._values[key] = value

    def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self._values if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        self._values.pop(key, None)


class _Controller:
    """Serve's controller, as far as the policy sees it. up: the models that are up."""

    def __init__(self, models: int, up: int) -> None:
        names = [f"model-{i:05d}" for i in range(models)]
        self._up = set(names[:up])
        self._configs = {name: _config() for name in names}
        self._store = _Store()
        self._policy = ResidencyPolicy(max_concurrent_models=UP)
        self._watch = Watch(
            APPLICATION,
            Board(APPLICATION, self._store),
            actors=lambda: [f"SERVE_REPLICA::{APPLICATION}#{name}#r0" for name in self._up],
            nodes=lambda: ("here", {f"node-{i}": {"memory": NODE_MB * MB} for i in range(4)}),
            life=lambda: ("life", time.time()),
        )
        self._policy._watch = self._watch
        self._watch.look()
        self._targets = dict.fromkeys(names, 0) | dict.fromkeys(self._up, 1)
        self.tick()

    def tick(self) -> float:
        """Milliseconds."""
        contexts: dict[Hashable, Any] = {name: self._context(name) for name in self._configs}
        began = time.process_time()
        changes, _ = self._policy(contexts)
        took = time.process_time() - began
        self._watch.look()
        assert not changes, "models come or go, which is not what is measured"
        return took * 1000

    @property
    def table_bytes(self) -> int:
        table = self._watch._table
        assert table is not None
        return len(encode(table))

    def _context(self, name: str) -> AutoscalingContext:
        up = name in self._up
        unfinished = float(up and int(name[-5:]) < BUSY_UP)
        return AutoscalingContext(
            deployment_id=None,
            deployment_name=name,
            app_name=APPLICATION,
            current_num_replicas=int(up),
            target_num_replicas=self._targets[name],
            running_replicas=[],
            total_num_requests=lambda: unfinished,
            total_queued_requests=lambda: 0.0,
            aggregated_metrics=lambda: {},
            raw_metrics=lambda: _metrics(unfinished) if up else {},
            capacity_adjusted_min_replicas=0,
            capacity_adjusted_max_replicas=1,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=None,
            config=self._configs[name],
        )


@dataclass(frozen=True)
class _Point:
    value: float


def _metrics(unfinished: float) -> Mapping[str, Any]:
    return {UNFINISHED: {"r0": [_Point(unfinished)]}}


def _config() -> AutoscalingConfig:
    kwargs = {"model": asdict(Model(idle_timeout_s=3600)), "sizes": {"kind": "echo", "memory_mb": 100.0}}
    return AutoscalingConfig(min_replicas=0, policy={"policy_kwargs": kwargs})


def _cut(values: list[float]) -> tuple[float, float]:
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def all_ticks(counts: tuple[int, ...], *, quick: bool) -> Iterator[Ticks]:
    for count in counts:
        yield ticks(count, quick=quick)
