"""Which deployments Serve takes for changed, as its controller reads them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from ray.serve._private.build_app import build_app
    from ray.serve._private.config import DeploymentConfig
    from ray.serve.autoscaling_policy import default_autoscaling_policy

    from ingress import described
    from ingress.app import build

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from within Serve, at its own fields

A, B = {"name": "a"}, {"name": "b"}
P, Q = {"name": "p", "pool": "few"}, {"name": "q", "pool": "few"}


def told(*models: dict[str, Any], **args: Any) -> dict[str, DeploymentConfig]:
    """What is known of each deployment of such an application, by its name."""
    application = build({"models": [{"engine": "echo", **model} for model in models], **args})
    found = {}
    for deployment in build_app(application, name="app").deployments:
        described = deployment._deployment_config
        described.version = "the application's"  # as Serve does
        found[deployment.name] = DeploymentConfig.from_proto_bytes(described.to_proto_bytes())
    return found


def changed(before: dict[str, DeploymentConfig], after: dict[str, DeploymentConfig]) -> set[str]:
    """Deployments of both, and those that only one of them has."""
    return {
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or before[name].version != after[name].version
    }


def test_same_settings_change_nothing() -> None:
    assert changed(told(A, P), told(A, P)) == set()


def test_everything_changes_with_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    before = told(A, P)
    monkeypatch.setattr(described, "version", lambda _: "another")
    assert changed(before, told(A, P)) == before.keys()


@pytest.mark.parametrize(
    ("after", "models"),
    [
        ([A, {**B, "engine_args": {"interval_ms": 9}}], {"b"}),
        ([A, {**B, "aliases": ["second"]}], {"b"}),
        ([A, B, {"name": "c"}], {"c"}),
        ([A], {"b"}),
    ],
)
def test_change_of_a_model_is_its_own_and_the_ingress(after: list[dict[str, Any]], models: set[str]) -> None:
    assert changed(told(A, B), told(*after)) == models | {"Ingress", "Keeper"}


@pytest.mark.parametrize(
    "setting",
    [
        {"idle_timeout_s": 9},
        {"pinned": True},
        {"priority": 3},
        {"max_replicas": 2},
        {"target_ongoing_requests": 5},
        {"auto_start": True},
        {"auto_load": False},
        {"max_queued_requests": 7},
        {"cache": {"enabled": True}},
    ],
)
def test_models_processes_stay_when_what_changes_is_not_theirs(setting: dict[str, Any]) -> None:
    assert changed(told(A, B), told({**A, **setting}, B)) == {"Ingress", "Keeper"}


def test_change_of_a_placement_leaves_the_others() -> None:
    placed = {**A, "placements": [{"resources": {"left": 1}}, {}]}
    other = {**A, "placements": [{"resources": {"left": 1}}, {"engine_args": {"interval_ms": 9}}]}
    assert changed(told(placed), told(other)) == {"a~1", "Ingress", "Keeper"}


def test_pool_is_its_models() -> None:
    assert changed(told(A, P, Q), told(A, P, {**Q, "engine_args": {"interval_ms": 9}})) == {
        "pool--few",
        "Ingress",
        "Keeper",
    }


def test_what_serve_is_told_beside_the_version_stays_as_it_was() -> None:
    described = told({**A, "max_replicas": 3}, request_timeout_s=70)["a"]
    assert described.graceful_shutdown_timeout_s == 80
    assert described.autoscaling_config.max_replicas == 3
    assert described.autoscaling_config.policy.policy_kwargs["model"]["max_replicas"] == 3


def test_next_ingress_is_up_before_the_last_one_goes_unless_nodes_may_not_hold_both() -> None:
    assert told(A)["Ingress"].max_surge_percent == 100
    assert told(A, ingress_replicas_per_node=1)["Ingress"].max_surge_percent == 0


def test_description_names_serves_own_code_and_does_not_hold_it() -> None:
    for described in (told(A)["a"], told({**A, "affinity": "session"})["a"]):
        router = described.request_router_config
        path = router.request_router_class.replace(":", ".")
        assert f"{router.get_request_router_class().__module__}.".startswith("ray.serve.")
        assert path.endswith(router.get_request_router_class().__name__)
        assert described.autoscaling_config.policy.get_policy() is default_autoscaling_policy
        assert len(described.to_proto_bytes()) < 3000
