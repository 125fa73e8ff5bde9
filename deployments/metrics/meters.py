"""Tells Ray what was measured; each node's agent shows it to Prometheus, a few seconds later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.metrics.names import Metric

APPLICATION = "application"


@dataclass(frozen=True)
class Sample:
    """value: by how much a counter grows, where a gauge stands, what a histogram observes. labels: in the order of the
    metric's."""

    metric: Metric
    value: float
    labels: tuple[str, ...]


class Meters(Protocol):
    def tell(self, samples: Iterable[Sample]) -> None: ...


class RayMeters:
    """Only in a process of Ray's."""

    def __init__(self, application: str, metrics: Iterable[Metric]) -> None:
        self._of = {metric: _made(metric, application) for metric in metrics}

    def tell(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            meter, metric = self._of[sample.metric], sample.metric
            tags = dict(zip(metric.labels, sample.labels, strict=True))
            if metric.kind == "gauge":
                meter.set(sample.value, tags=tags)
            elif metric.kind == "histogram":
                meter.observe(sample.value, tags=tags)
            elif sample.value > 0:
                meter.inc(sample.value, tags=tags)


def _made(metric: Metric, application: str) -> Any:
    from ray.util import metrics

    keys = (APPLICATION, *metric.labels)
    if metric.kind == "histogram":
        made = metrics.Histogram(metric.full_name, metric.description, list(metric.buckets), keys)
    else:
        kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
        made = kind(metric.full_name, metric.description, keys)
    return made.set_default_tags({APPLICATION: application})
