"""What would be sent to a cluster, overlay by overlay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deployments.config import Settings
from deployments.metrics.names import METRICS
from tests.k8s import checks, kinds, serve_config
from tests.k8s.objects import EXAMPLES, K8S, Object, groups, of_kind, read, the

FRONTS = [one for path in EXAMPLES for one in read(path.read_text()) if one["kind"] != "Secret"]


def test_objects_are_without_a_mistake(objects: list[Object]) -> None:
    assert checks.mistakes(objects) == []


def test_there_is_everything(overlay: Path, objects: list[Object]) -> None:
    watching = {"PodMonitor", "PrometheusRule", "ConfigMap"} if overlay.name == "cuda" else set()
    assert {one["kind"] for one in objects} == watching | {
        *("Namespace", "RayService", "StatefulSet", "Service", "PersistentVolumeClaim"),
        *("NetworkPolicy", "PodDisruptionBudget"),
    }
    assert all(one["metadata"].get("namespace", "llm-manager") == "llm-manager" for one in objects)


def test_every_overlay_is_told_apart_by_its_models(overlay: Path, objects: list[Object]) -> None:
    settings = serve_config.settings_of(objects)
    own = yaml.safe_load((overlay / "models.yaml").read_text())["applications"][0]["args"]["models"]
    assert [model.name for model in settings.models] == [model["name"] for model in own]


def test_dashboard_is_the_one_in_the_repository(cuda: list[Object]) -> None:
    config_map = the(cuda, "ConfigMap", "llm-manager-dashboard")
    assert config_map["data"]["llm-manager.json"] == (K8S / "grafana" / "llm-manager.json").read_text()


def test_metrics_are_scraped_under_the_names_that_the_dashboard_has(cuda: list[Object]) -> None:
    (endpoint,) = the(cuda, "PodMonitor")["spec"]["podMetricsEndpoints"]
    (relabeling,) = endpoint["metricRelabelings"]
    pattern = re.compile(relabeling["regex"])
    for metric in METRICS:
        found = pattern.fullmatch(f"ray_{metric.full_name}")
        assert found is not None
        assert found.expand(relabeling["replacement"].replace("$", "\\")) == metric.full_name
    assert pattern.fullmatch("ray_node_gram_used") is None


def test_policy_lets_nobody_else_to_the_ports_that_command_a_cluster(objects: list[Object]) -> None:
    open_to_all = [
        port["port"]
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"].get("ingress", ())
        if "from" not in rule
        for port in rule["ports"]
    ]
    assert open_to_all == [8000]


def test_runbook_names_files_that_there_are_and_the_patience_of_pods(objects: list[Object]) -> None:
    text = (K8S / "README.md").read_text()
    named = re.findall(r"`((?:base|overlays|monitoring|grafana|examples)/[^ `]*)`", text)
    assert len(named) > 5
    assert [name for name in named if not list(K8S.glob(name.rstrip("/")))] == []
    waits = {
        group["template"]["spec"]["terminationGracePeriodSeconds"]
        for name, group in groups(the(objects, "RayService"))
        if name != "head"
    }
    assert re.findall(r"within (\d+) s", text) == [str(wait) for wait in waits]


# Examples ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_of_its_kinds_schema(path: Path) -> None:
    found = read(path.read_text())
    assert found
    assert [mistake for one in found for mistake in kinds.mistakes(one)] == []


def test_example_secrets_hold_nothing_real() -> None:
    values = [value for one in checks.SECRETS for value in one["stringData"].values()]
    assert len(values) >= 3
    assert all(value.startswith("replace-me") for value in values)


@pytest.mark.parametrize("front", FRONTS, ids=lambda one: one["kind"])
def test_what_stands_in_front_leads_to_the_service_and_waits_for_the_longest_answer(
    front: Object, objects: list[Object]
) -> None:
    settings = serve_config.settings_of(objects)
    service = f"{the(objects, 'RayService')['metadata']['name']}-serve-svc"
    backend, waits = _of_front(front, settings)
    assert backend == (service, serve_config.of(objects)["http_options"]["port"])
    assert waits
    assert min(waits) >= settings.load_wait_s + settings.request_timeout_s


def _of_front(front: Object, settings: Settings) -> tuple[tuple[str, int], list[float]]:
    """The service and port that it leads to, and the seconds that it waits."""
    (rule,) = front["spec"]["rules"]
    if front["kind"] == "HTTPRoute":
        (backend,) = rule["backendRefs"]
        return (backend["name"], backend["port"]), [float(t.removesuffix("s")) for t in rule["timeouts"].values()]
    notes = {key.rpartition("/")[2]: value for key, value in front["metadata"]["annotations"].items()}
    assert notes["proxy-buffering"] == notes["proxy-request-buffering"] == "off"
    assert float(notes["proxy-body-size"].removesuffix("m")) > settings.max_body_mb
    (path,) = rule["http"]["paths"]
    service = path["backend"]["service"]
    waits = [float(notes["proxy-read-timeout"]), float(notes["proxy-send-timeout"])]
    return (service["name"], service["port"]["number"]), waits
