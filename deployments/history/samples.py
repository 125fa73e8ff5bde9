"""How models and nodes stand at a moment, and what moments make together. Plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deployments.memory import Memory
from deployments.residency.board import Report, Table


class Figures(NamedTuple):
    """Of a model. waiting: requests for a replica. running: requests that replicas have not finished."""

    tokens_per_s: float = 0
    waiting: float = 0
    running: float = 0
    memory_mb: float = 0


class NodeMemory(NamedTuple):
    used_mb: float
    total_mb: float


@dataclass(frozen=True)
class Sample:
    """at: seconds since 1970, a whole step. models: by public name, those of which there is anything to say. nodes: by
    address."""

    at: int
    models: Mapping[str, Figures] = field(default_factory=dict)
    nodes: Mapping[str, NodeMemory] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {"models": self.models, "nodes": self.nodes}

    @classmethod
    def of(cls, at: int, plain: Mapping[str, Any]) -> Sample:
        models = {name: Figures(*figures) for name, figures in plain["models"].items()}
        return cls(at, models, {address: NodeMemory(*memory) for address, memory in plain["nodes"].items()})


def taken(
    at: int,
    table: Table,
    reports: Iterable[Report],
    public: Mapping[str, str],
    rates: Mapping[str, float],
    nodes: Mapping[str, Memory],
) -> Sample:
    """public: each model's name, by that of its row. rates: tokens per second, by public name. Of a model inside a
    pool's processes the memory is the pool's."""
    models = {model: Figures(tokens_per_s=rate) for model, rate in rates.items()}
    for name, model in public.items():
        row = table.row(name)
        rate = rates.get(model, 0)
        models[model] = Figures(rate, round(row.queued, 2), row.unfinished, round(row.measured_mb * row.running, 1))
    for report in reports:
        for name, shown in report.members.items():
            own = models.get(name, Figures())
            waiting, running = own.waiting + shown.get("waiting", 0), own.running + shown.get("running", 0)
            models[name] = own._replace(waiting=waiting, running=running)
    used = {a: NodeMemory(round(m.total_mb - m.free_mb, 1), round(m.total_mb, 1)) for a, m in nodes.items()}
    return Sample(at, {model: figures for model, figures in models.items() if any(figures)}, used)


def mean(at: int, samples: Sequence[Sample]) -> Sample:
    """One sample for several; at least one."""
    names = {name for sample in samples for name in sample.models}
    addresses = {address for sample in samples for address in sample.nodes}
    models = {name: _mean([sample.models.get(name, Figures()) for sample in samples]) for name in names}
    nodes = {}
    for address in addresses:
        seen = [sample.nodes[address] for sample in samples if address in sample.nodes]
        nodes[address] = NodeMemory(round(sum(m.used_mb for m in seen) / len(seen), 1), seen[-1].total_mb)
    return Sample(at, models, nodes)


def _mean(several: Sequence[Figures]) -> Figures:
    return Figures(*(round(sum(values) / len(several), 2) for values in zip(*several, strict=True)))


def series(
    samples: Iterable[Sample], times: Sequence[int], meant: Callable[[str], bool] = lambda _: True
) -> dict[str, Any]:
    """`models` and `nodes` as `/api/history` tells them: a list for each figure, None where there is no sample.

    meant: models that are told.
    """
    found = {sample.at: sample for sample in samples}
    seen = [found.get(at) for at in times]
    names = sorted({name for sample in seen if sample for name in sample.models if meant(name)})
    addresses = sorted({address for sample in seen if sample for address in sample.nodes})
    models = {}
    for name in names:
        points = [sample and sample.models.get(name, Figures()) for sample in seen]
        models[name] = {figure: [point and getattr(point, figure) for point in points] for figure in Figures._fields}
    nodes = {}
    for address in addresses:
        memory = [sample.nodes.get(address) if sample else None for sample in seen]
        total_mb = [one.total_mb for one in memory if one][-1]
        nodes[address] = {"memory_used_mb": [one and one.used_mb for one in memory], "memory_total_mb": total_mb}
    return {"models": models, "nodes": nodes}
