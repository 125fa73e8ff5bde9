"""The first placement that the cluster can hold wins; when its node goes, the next. A real second node joins."""

from __future__ import annotations

from typing import Any

import httpx

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("hasty", "placed")

CHAT = "/v1/chat/completions"
BODY = {"model": "picky", "max_tokens": 2, "messages": [{"role": "user", "content": "hello"}]}


def model(serving: Serving, name: str, prefix: str = "/placed") -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(f"{serving.url}{prefix}/api/models/{name}", timeout=30).json()["model"]
    return told


def ask(serving: Serving) -> None:
    answer = httpx.post(f"{serving.url}/placed{CHAT}", json=BODY, timeout=60)
    assert answer.status_code == 200, answer.text


def test_model_runs_at_the_first_placement_that_there_is_and_moves_on_when_its_node_goes(serving: Serving) -> None:
    ask(serving)
    told = model(serving, "picky")
    assert told["placement"] == "picky~2"
    assert told["not_placed"] == {"picky": "no node has apple_silicon: 1", "picky~1": "no node has GPU: 1"}

    with serving.joined({"apple_silicon": 1}) as node:
        wait_for(
            "the node is seen",
            lambda: model(serving, "picky")["not_placed"]["picky"] != told["not_placed"]["picky"],
            60,
        )
        ask(serving)
        assert model(serving, "picky")["placement"] == "picky~2", "a running model is not moved"
        assert httpx.post(f"{serving.url}/placed/api/models/picky/stop", timeout=60).status_code == 200
        ask(serving)
        assert model(serving, "picky")["placement"] == "picky"
        assert any("placed:picky" in " ".join(process.cmdline()) for process in node.children(recursive=True))

    wait_for("it moves on", lambda: model(serving, "picky")["placement"] == "picky~2", 60)
    ask(serving)
    assert model(serving, "picky")["status"] == "running"


def test_model_that_no_node_can_hold_says_what_is_missing_and_can_be_stopped(serving: Serving) -> None:
    url = f"{serving.url}/hasty"
    answer = httpx.post(f"{url}{CHAT}", json={**BODY, "model": "hopeful"}, timeout=60)
    assert answer.status_code == 503, answer.text
    assert "no node has GPU: 1, accelerator_type:H100" in model(serving, "hopeful", "/hasty")["not_placed"]["hopeful"]
    assert httpx.post(f"{url}/api/models/hopeful/stop", timeout=30).status_code == 200
    assert model(serving, "hopeful", "/hasty")["status"] == "stopped"
