from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from deployments.config import ModelConfig
from ingress import system
from ingress.catalog import Catalog
from ingress.leases import RETRY_AFTER_S
from ingress.states import ModelState, Reading, State

NOW = 1_800_000_000.25
CATALOG = Catalog(
    [
        ModelConfig(name="org/a", source="owner/a", engine="mlx"),
        ModelConfig(name="b", engine="echo"),
        ModelConfig(name="c", engine="echo"),
    ]
)
UP = ModelState(State.RUNNING)


def health(models: Mapping[str, ModelState]) -> dict[str, Any]:
    return plain(system.health(CATALOG, Reading(models), []))


def status(models: Mapping[str, ModelState], cap: int | None = 3) -> dict[str, Any]:
    return plain(system.status(CATALOG, Reading(models, cap)))


def plain(body: dict[str, Any]) -> dict[str, Any]:
    """As the client gets it."""
    sent: dict[str, Any] = json.loads(json.dumps(body))
    return sent


# Health --------------------------------------------------------------------------------------------------------------

CONTRACT = {
    *("status", "timestamp", "manager_initialized", "engines", "models", "models_count", "running_models", "issues"),
}


@pytest.mark.parametrize("state", State)
def test_health_has_every_field_of_the_contract_in_every_state(state: State) -> None:
    told = health(dict.fromkeys(("org--a", "b", "c"), ModelState(state, "bad")))
    assert told.keys() >= CONTRACT
    assert told["manager_initialized"] is True
    assert told["engines"].keys() == {"mlx", "echo"}
    assert all(engine.keys() >= {"status", "loaded_models"} for engine in told["engines"].values())
    assert isinstance(told["timestamp"], int)
    assert abs(told["timestamp"] - time.time()) < 60


def test_server_with_nothing_loaded_is_healthy() -> None:
    told = health({})
    assert (told["status"], told["issues"]) == ("healthy", [])
    assert (told["models"], told["running_models"], told["models_count"]) == (0, 0, 3)
    assert told["engines"] == {
        "mlx": {"status": "healthy", "loaded_models": 0},
        "echo": {"status": "healthy", "loaded_models": 0},
    }


@pytest.mark.parametrize("state", [State.STOPPED, State.STARTING, State.STOPPING])
def test_model_that_comes_or_goes_is_no_issue_and_does_not_run(state: State) -> None:
    told = health({"org--a": ModelState(state, reason="waits: all 3 places are in use"), "b": UP})
    assert (told["status"], told["issues"], told["running_models"]) == ("healthy", [], 1)


def test_running_models_are_counted_by_engine() -> None:
    told = health({"org--a": UP, "b": UP, "c": UP})
    assert (told["models"], told["running_models"], told["models_count"]) == (3, 3, 3)
    assert {name: engine["loaded_models"] for name, engine in told["engines"].items()} == {"mlx": 1, "echo": 2}


def test_failed_model_degrades_the_server_and_says_why() -> None:
    told = health({"org--a": ModelState(State.FAILED, "ValueError: no weights"), "b": UP})
    assert (told["status"], told["issues"]) == ("degraded", ["org/a: ValueError: no weights"])
    assert told["running_models"] == 1


def test_refused_model_degrades_the_server_and_says_why() -> None:
    told = health({"b": ModelState(State.STARTING, refused=True, reason="it needs 9 MB of memory")})
    assert (told["status"], told["issues"]) == ("degraded", ["b: it needs 9 MB of memory"])


def test_failed_model_that_is_refused_too_is_one_issue() -> None:
    assert len(health({"b": ModelState(State.FAILED, "bad", refused=True)})["issues"]) == 1


def test_states_that_cannot_be_read_degrade_the_server_and_no_field_is_missing() -> None:
    issues = ["The models' states cannot be read."]
    told = system.health(CATALOG, None, issues)
    assert told.keys() >= CONTRACT
    assert (told["status"], told["issues"]) == ("degraded", issues)
    assert (told["models"], told["models_count"]) == (0, 3)


# Status --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_status_has_every_field_of_the_contract_in_every_state(state: State) -> None:
    told = status(dict.fromkeys(("org--a", "b", "c"), ModelState(state, loaded_at=NOW)))
    assert told.keys() >= {
        *("initialized", "total_engines", "registered_models", "loaded_models", "max_concurrent_models"),
        *("models", "engines"),
    }
    for model in told["models"]:
        assert model.keys() >= {"name", "engine_type", "status", "loaded_at", "memory_usage", "context_length"}
    assert told["initialized"] is True
    assert (told["total_engines"], told["registered_models"]) == (2, 3)


def test_status_of_a_running_model_in_as_words() -> None:
    up = ModelState(State.RUNNING, loaded_at=NOW, memory_mb=2.1 * 1024, context_length=32768)
    told = status({"org--a": up})
    assert told["models"][0] == {
        "name": "org/a",
        "engine_type": "mlx",
        "status": "loaded",
        "loaded_at": "2027-01-15T08:00:00+00:00",
        "memory_usage": "2.1GB",
        "context_length": 32768,
    }
    assert told["loaded_models"] == 1


def test_status_of_a_model_that_is_not_up() -> None:
    told = status({"b": ModelState(State.FAILED, "bad")})
    assert [model["status"] for model in told["models"]] == ["stopped", "failed", "stopped"]
    assert told["models"][1]["loaded_at"] is None
    assert told["models"][1]["memory_usage"] == "0.0GB"
    assert told["loaded_models"] == 0


def test_memory_of_an_engine_is_its_models_together() -> None:
    up = ModelState(State.RUNNING, memory_mb=1536)
    engines = status({"b": up, "c": up})["engines"]
    assert engines == {
        "mlx": {"status": "healthy", "memory_usage": "0.0GB"},
        "echo": {"status": "healthy", "memory_usage": "3.0GB"},
    }


@pytest.mark.parametrize("cap", [3, None])
def test_cap_is_the_policys(cap: int | None) -> None:
    assert status({}, cap)["max_concurrent_models"] == cap


# restart-autostart ---------------------------------------------------------------------------------------------------


def test_restart_of_all_is_a_success_that_names_them() -> None:
    answer = system.restarted({"org/a": "", "b": ""})
    assert answer.status_code == 200
    assert json.loads(bytes(answer.body)) == {
        "success": True,
        "message": "2 auto_start models were restarted.",
        "started_models": ["org/a", "b"],
        "failed_models": {},
    }


def test_restart_of_none_is_a_success() -> None:
    told = json.loads(bytes(system.restarted({}).body))
    assert (told["success"], told["started_models"], told["failed_models"]) == (True, [], {})


def test_restart_that_fails_for_one_is_an_error_that_tells_of_each() -> None:
    answer = system.restarted({"org/a": "", "b": "no weights"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == str(RETRY_AFTER_S)
    message = "1 of 2 auto_start models could not be started."
    assert json.loads(bytes(answer.body)) == {
        "success": False,
        "message": message,
        "started_models": ["org/a"],
        "failed_models": {"b": "no weights"},
        "error": {"message": message, "type": "server_error", "param": None, "code": "model_load_failed"},
    }
