from __future__ import annotations

import re

import pytest

from deployments.metrics.names import METRICS, Metric


def test_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_name_follows_prometheus_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"llm_manager_[a-z_]+", metric.full_name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.description.endswith(".")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_labels_are_of_low_cardinality(metric: Metric) -> None:
    assert set(metric.labels) <= {"model", "path", "status", "event", "reason", "answered"}
