"""The routes that tell what there is."""

from __future__ import annotations

import httpx

from tests.e2e.serving import Serving

APPLICATIONS = ()


def test_root_names_the_server(serving: Serving) -> None:
    root = httpx.get(serving.url + "/").json()
    assert root["message"] == "LLM-Manager API Server"
    assert root["models_url"] == "/v1/models"
    assert {"version", "docs_url", "console_url"} <= set(root)


def test_all_models_are_listed_running_or_not(serving: Serving) -> None:
    listing = httpx.get(serving.url + "/v1/models").json()
    assert listing["object"] == "list"
    cards = {card["id"]: card for card in listing["data"]}
    assert set(cards) == {"smollm2-135m", "org/echo", "slow", "twins", "asleep", "idle", "broken", "base"}
    card = cards["smollm2-135m"]
    assert card["object"] == "model"
    assert card["aliases"] == ["gpt-3.5-turbo"]
    assert card["parent"] is None
    assert card["permission"] == []
    assert cards["asleep"]["status"] == "stopped"
    assert httpx.get(serving.url + "/v1/models").json()["data"][0]["created"] == card["created"]


def test_name_with_a_slash_and_an_alias_lead_to_a_card(serving: Serving) -> None:
    assert httpx.get(serving.url + "/v1/models/org/echo").json()["id"] == "org/echo"
    card = httpx.get(serving.url + "/v1/models/parrot").json()
    assert (card["id"], card["root"]) == ("parrot", "org/echo")


def test_health_says_what_runs(serving: Serving) -> None:
    health = httpx.get(serving.url + "/health").json()
    assert health["manager_initialized"] is True
    assert health["models_count"] == 8
    assert health["models"] == health["running_models"] >= 1
    assert {"status", "timestamp", "engines", "issues"} <= set(health)


def test_pinned_replicas_are_up(serving: Serving) -> None:
    assert serving.statuses()["twins"] == "running"
    assert len(serving.replicas("main", "twins")) == 2
