"""Alerts, judged by Prometheus itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.metrics.names import METRICS, SAMPLES
from deployments.metrics.residency import reason_of
from tests.k8s.objects import K8S, read
from tests.metrics.test_dashboard import labels_in

TESTS = Path(__file__).with_name("rules.yaml")
GROUPS: list[dict[str, Any]] = read((K8S / "monitoring" / "rules.yaml").read_text())[0]["spec"]["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
OTHERS = frozenset({"ray_node_gram_used", "ray_node_gram_available"})
"""Metrics of Ray."""
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package `prometheus` brings it")


def promtool(folder: Path, *arguments: str, groups: list[dict[str, Any]] = GROUPS) -> subprocess.CompletedProcess[str]:
    (folder / "made.yaml").write_text(yaml.safe_dump({"groups": groups}))
    shutil.copy(TESTS, folder)
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)


@needs_promtool
def test_expressions_are_prometheus_own(tmp_path: Path) -> None:
    done = promtool(tmp_path, "check", "rules", "made.yaml")
    assert (done.returncode, f"{len(RULES)} rules found" in done.stdout) == (0, True), done.stderr


@needs_promtool
def test_alerts_fire_where_they_must_and_nowhere_else(tmp_path: Path) -> None:
    done = promtool(tmp_path, "test", "rules", TESTS.name)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
@pytest.mark.parametrize("expression", ["vector(0) > 1", "vector(1)"], ids=["never", "always"])
def test_alert_that_says_nothing_is_noticed(tmp_path: Path, rule: dict[str, Any], expression: str) -> None:
    others = [one if one is not rule else {**one, "expr": expression} for one in RULES]
    done = promtool(tmp_path, "test", "rules", TESTS.name, groups=[{"name": "x", "rules": others}])
    assert done.returncode != 0
    assert rule["alert"] in done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_asks_for_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    used = set(re.findall(r"\b(?:llm_manager|ray)_\w+", rule["expr"]))
    assert used
    assert used <= SAMPLES | OTHERS
    known = {label for metric in METRICS if used & set(metric.samples) for label in metric.labels}
    if used & OTHERS:
        known |= {"pod", "GpuIndex"}
    assert labels_in(rule["expr"]) <= known | {"application", "le"}


def test_reasons_that_alerts_name_are_those_of_the_metric() -> None:
    said = {
        word for rule in RULES for words in re.findall(r'reason=~?"([^"]+)"', rule["expr"]) for word in words.split("|")
    }
    told = {reason_of(text) for text in ("did not start", "made room for b", "its turn is over")}
    assert said == told == {"failed", "evicted", "turn_over"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_runbook_has_a_section_for_the_alert(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (K8S.parent / path).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert anchor == rule["alert"].lower()
