"""Grafana's dashboard asks for nothing that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deployments.metrics.names import METRICS, SAMPLES, Metric

FILE = Path(__file__).parents[2] / "k8s" / "grafana" / "llm-manager.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
VARIABLES = [one["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]

_GROUPING = re.compile(r"\b(by|without)\s*\([^)]*\)")
_SELECTOR = re.compile(r"\{([^}]*)\}")
_WORD = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*(?!\w*\s*\()")


def metrics_in(query: str) -> set[str]:
    """Names in a query that are neither functions nor labels."""
    bare = re.sub(r"\[[^]]*\]", "", _SELECTOR.sub("", _GROUPING.sub("", query)))
    return set(_WORD.findall(bare))


def labels_in(query: str) -> set[str]:
    groups = [word for found in _GROUPING.finditer(query) for word in _WORD.findall(found[0].partition("(")[2])]
    selectors = [part.partition("=")[0].strip() for found in _SELECTOR.findall(query) for part in found.split(",")]
    return {*groups, *selectors}


@pytest.mark.parametrize("query", [target["expr"] for target in TARGETS])
def test_query_uses_metrics_and_labels_that_there_are(query: str) -> None:
    used = metrics_in(query)
    assert len(used) >= 1
    assert used <= SAMPLES
    known = {label for metric in METRICS if used & set(metric.samples) for label in metric.labels}
    assert labels_in(query) <= known | {"application", "le"}


def test_variables_are_labels_of_a_metric_that_is_always_there() -> None:
    assert VARIABLES == [
        "label_values(llm_manager_resident, application)",
        "label_values(llm_manager_resident, model)",
    ]
    assert "llm_manager_resident" in SAMPLES


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_on_the_dashboard(metric: Metric) -> None:
    assert any(metrics_in(target["expr"]) & set(metric.samples) for target in TARGETS)


def test_panels_do_not_share_ids_or_places() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_reading_of_queries_tells_metrics_from_functions_and_labels() -> None:
    query = 'histogram_quantile(0.5, sum by (le, model) (rate(a_bucket{b="c",d=~"e"}[$__rate_interval]))) / f_total'
    assert metrics_in(query) == {"a_bucket", "f_total"}
    assert labels_in(query) == {"le", "model", "b", "d"}
