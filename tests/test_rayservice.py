"""serveConfigV2 is made of serve_config.yaml and what clusters have otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ingress.rayservice import COMMON, MADE, OWN, main, over, patch

PROJECT = Path(__file__).parents[1]
OVERLAYS = sorted(path.parent.relative_to(PROJECT) for path in PROJECT.glob(f"k8s/overlays/*/{OWN}"))

BASE = """
http_options: {host: 127.0.0.1, port: 8000}
applications:
  - name: llm-manager
    autoscaling_policy: {policy_kwargs: {max_concurrent_models: 3, memory_limit: 0.9}}
    args: {ingress_replicas: 1, models: [{name: example, engine: echo}]}
"""
SETTINGS = """
http_options: {host: 0.0.0.0}
applications: [{name: llm-manager, args: {ingress_replicas: 2}}]
"""
OVERLAY = "k8s/overlays/one"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / OVERLAY).mkdir(parents=True)
    (tmp_path / COMMON[0]).write_text(BASE)
    (tmp_path / COMMON[1]).write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def models(project: Path, *listed: dict[str, Any], name: str = "llm-manager") -> None:
    application = {"name": name, "args": {"models": list(listed)}}
    (project / OVERLAY / OWN).write_text(yaml.safe_dump({"applications": [application]}))


def test_later_layers_come_over_earlier_ones(project: Path) -> None:
    models(project, {"name": "ours", "engine": "echo"})
    assert main([OVERLAY]) == 0
    made = yaml.safe_load((project / OVERLAY / MADE).read_text())
    assert (made["kind"], made["metadata"]["name"]) == ("RayService", "llm-manager")
    assert yaml.safe_load(made["spec"]["serveConfigV2"]) == {
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "applications": [
            {
                "name": "llm-manager",
                "autoscaling_policy": {"policy_kwargs": {"max_concurrent_models": 3, "memory_limit": 0.9}},
                "args": {"ingress_replicas": 2, "models": [{"name": "ours", "engine": "echo"}]},
            }
        ],
    }


def test_mistake_is_told_with_its_file_and_nothing_is_written(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models(project, {"name": "ours", "engine": "eco"})
    assert main([OVERLAY]) == 2
    assert f"{OVERLAY}/{OWN}: models[0].engine: " in capsys.readouterr().err
    assert not (project / OVERLAY / MADE).exists()


def test_application_that_there_is_not_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models(project, {"name": "ours", "engine": "echo"}, name="llm-manger")
    assert main([OVERLAY]) == 2
    assert "'llm-manger' is none of llm-manager" in capsys.readouterr().err


def test_file_that_is_missing_or_empty_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([OVERLAY]) == 2
    (project / OVERLAY / OWN).write_text("# nothing\n")
    assert main([OVERLAY]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [OWN in error for error in errors] == [True, True]


def test_lists_and_values_are_replaced() -> None:
    assert over({"a": [1, 2], "b": 1, "c": {"d": 1}}, {"a": [3], "c": None, "e": 2}) == {
        "a": [3],
        "b": 1,
        "c": None,
        "e": 2,
    }


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_what_is_committed_is_what_is_made(overlay: Path) -> None:
    assert (PROJECT / overlay / MADE).read_text() == patch(PROJECT, overlay), "make manifests"


def test_there_are_overlays() -> None:
    assert [path.name for path in OVERLAYS] == ["cpu-demo", "cuda"]
