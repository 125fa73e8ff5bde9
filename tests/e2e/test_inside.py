"""Models inside others' replicas: adapters of a base, and models that share a pool's process."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("adapters", "pools")

CHAT = "/v1/chat/completions"


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}], **more}


def ask(url: str, model: str, **more: Any) -> str:
    answer = httpx.post(url + CHAT, json=body(model, **more), timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    return str(answer.json()["choices"][0]["message"]["content"])


def models(url: str) -> dict[str, dict[str, Any]]:
    told = httpx.get(f"{url}/api/models", timeout=30).json()["models"]
    return {model["name"]: model for model in told}


def statuses(url: str, *names: str) -> list[str]:
    told = models(url)
    return [told[name]["status"] for name in names]


def post(url: str) -> httpx.Response:
    return httpx.post(url, timeout=60)


@pytest.fixture
def pool(serving: Serving) -> str:
    """Nothing is loaded at first."""
    url = f"{serving.url}/pools"
    assert post(f"{url}/api/models/stop-all").status_code == 200
    return url


def test_models_of_a_pool_share_one_process(serving: Serving, pool: str) -> None:
    assert [ask(pool, name) for name in ("p1", "org/p2")] == ["hello hello hello "] * 2
    assert statuses(pool, "p1", "org/p2", "p3") == ["running", "running", "stopped"]
    assert serving.models_with_processes("pools") == {"pool--many"}
    told = models(pool)["p1"]
    assert (told["pool"], told["engine"], told["placement"]) == ("many", "echo", "pool--many")


def test_swap_inside_a_pool_takes_the_least_recently_used_and_no_new_process(serving: Serving, pool: str) -> None:
    ask(pool, "p1")
    (before,) = serving.replicas("pools", "pool--many")
    for name in ("org/p2", "p1", "p3"):
        ask(pool, name)
    wait_for("what is shown", lambda: statuses(pool, "p1", "org/p2", "p3") == ["running", "stopped", "running"], 5)
    assert serving.replicas("pools", "pool--many") == [before]


def test_busy_model_of_a_pool_stays(pool: str) -> None:
    """p1 has been used least recently when p3 comes, and is still writing."""
    with httpx.stream("POST", pool + CHAT, json=body("p1", max_tokens=100, stream=True), timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        for name in ("org/p2", "p3"):
            ask(pool, name)
        wait_for("what is shown", lambda: statuses(pool, "p1", "org/p2", "p3") == ["running", "stopped", "running"], 5)
        rest = "\n".join(lines)
    assert rest.count("hello") == 100
    assert rest.rstrip().endswith("[DONE]")


def test_model_of_a_pool_is_started_and_stopped_like_any_other(serving: Serving, pool: str) -> None:
    started = post(f"{pool}/api/models/p3/start")
    assert (started.status_code, started.json()["success"]) == (200, True)
    assert statuses(pool, "p1", "org/p2", "p3") == ["stopped", "stopped", "running"]
    assert post(f"{pool}/api/models/p3/start").status_code == 200
    (before,) = serving.replicas("pools", "pool--many")
    assert post(f"{pool}/api/models/p3/stop").json()["success"] is True
    assert statuses(pool, "p3") == ["stopped"]
    assert post(f"{pool}/api/models/p3/stop").status_code == 200
    assert serving.replicas("pools", "pool--many") == [before]
    assert ask(pool, "p3") == "hello hello hello "


def test_pool_counts_against_the_cap_with_what_it_can_hold(serving: Serving, pool: str) -> None:
    """The cap is 3, the pool holds 2: beside it there is room for one."""
    for name in ("p1", "own1", "own2"):
        ask(pool, name)
    wait_for("the pool made room", lambda: serving.models_with_processes("pools") == {"own1", "own2"}, 15)
    ask(pool, "p1")
    assert len(serving.models_with_processes("pools")) <= 2


def test_failure_of_one_model_of_a_pool_says_why_and_leaves_the_others(pool: str) -> None:
    ask(pool, "mini", temperature=0)
    answer = httpx.post(pool + CHAT, json=body("broken"), timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_load_failed")
    assert "Traceback" not in answer.text
    wait_for("what is shown", lambda: statuses(pool, "mini", "broken") == ["running", "failed"], 5)
    assert models(pool)["broken"]["failure_reason"]


def test_idle_model_of_a_pool_is_unloaded_and_its_process_stays(serving: Serving, pool: str) -> None:
    ask(pool, "p1")
    ask(pool, "p3", keep_alive=0)
    wait_for("p3 is unloaded", lambda: statuses(pool, "p1", "p3") == ["running", "stopped"], 10)
    assert serving.models_with_processes("pools") == {"pool--many"}


def test_random_requests_to_a_pool_all_succeed(pool: str) -> None:
    failures: list[str] = []

    def client(seed: int) -> None:
        for i in range(8):
            name = ("p1", "org/p2", "p3")[(seed + i * (seed + 1)) % 3]
            try:
                assert ask(pool, name) == "hello hello hello "
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Adapters ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(serving: Serving) -> str:
    """A base with two replicas, each with room for two of its three adapters."""
    url = f"{serving.url}/adapters"
    wait_for("both replicas", lambda: models(url)["base"]["replicas"] == 2, 60)
    return url


def test_adapters_are_models_with_a_parent(adapted: str) -> None:
    cards = httpx.get(f"{adapted}/v1/models", timeout=30).json()["data"]
    assert {card["id"]: card["parent"] for card in cards} == {
        "base": None,
        "poet": "base",
        "org/clerk": "base",
        "chef": "base",
    }
    card = httpx.get(f"{adapted}/v1/models/org/clerk", timeout=30).json()
    assert (card["id"], card["root"], card["parent"]) == ("org/clerk", "base", "base")


def test_base_and_adapters_answer_each_in_its_own_way(adapted: str) -> None:
    answers = {name: ask(adapted, name) for name in ("base", "poet", "org/clerk", "chef")}
    assert answers["base"] == "hello hello hello "
    assert len(set(answers.values())) == 4, answers


def test_adapter_is_loaded_when_asked_and_shown_as_any_model(adapted: str) -> None:
    for name in ("poet", "org/clerk", "chef"):
        assert post(f"{adapted}/api/models/{name}/stop").status_code == 200
    assert statuses(adapted, "base", "poet") == ["running", "stopped"]
    ask(adapted, "poet")
    wait_for("poet is shown", lambda: statuses(adapted, "poet", "chef") == ["running", "stopped"], 5)
    told = models(adapted)["poet"]
    assert (told["parent"], told["replicas"], told["pool"]) == ("base", 1, None)


def test_requests_go_where_the_adapter_is(adapted: str) -> None:
    """Thirty requests one after another, more than leases last: none loads it a second time."""
    for name in ("poet", "org/clerk", "chef"):
        post(f"{adapted}/api/models/{name}/stop")
    for _ in range(30):
        ask(adapted, "chef", max_tokens=20)
    wait_for("chef is shown", lambda: models(adapted)["chef"]["status"] == "running", 5)
    assert models(adapted)["chef"]["replicas"] == 1


def test_base_and_adapter_write_at_the_same_time(adapted: str) -> None:
    with (
        httpx.stream("POST", adapted + CHAT, json=body("base", max_tokens=40, stream=True), timeout=60) as one,
        httpx.stream("POST", adapted + CHAT, json=body("poet", max_tokens=40, stream=True), timeout=60) as two,
    ):
        first, second = one.iter_lines(), two.iter_lines()
        next(first), next(second)
        assert "".join(first).rstrip().endswith("[DONE]")
        assert "".join(second).rstrip().endswith("[DONE]")
