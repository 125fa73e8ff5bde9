"""What operators do with models, against real Serve: start, stop, restart, look."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.serving import Serving, wait_for
from tests.e2e.test_residency import CHAT, body, chat, stream

APPLICATIONS = ("ops", "hasty")


class Ops:
    """The application /ops: `auto` (auto_start), `plain`, `lazy` (auto_load: false), `slow`, `loads` (in 4 s), `huge`,
    `broken`."""

    def __init__(self, serving: Serving) -> None:
        self.url = f"{serving.url}/ops"
        self.serving = serving

    def post(self, path: str, **query: str) -> httpx.Response:
        return httpx.post(f"{self.url}/api/models/{path}", params=query, timeout=90)

    def model(self, name: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/api/models/{name}", timeout=30).json()
        assert answer["success"] is True
        model: dict[str, Any] = answer["model"]
        return model

    def wait(self, name: str, status: str, deadline_s: float = 30) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            model = self.model(name)
            return model if model["status"] == status else None

        found = wait_for(f"{name} is {status}", look, deadline_s)
        assert found
        return found

    def processes(self, name: str) -> list[psutil.Process]:
        return self.serving.replicas("ops", name)


@pytest.fixture
def ops(serving: Serving) -> Iterator[Ops]:
    ops = Ops(serving)
    yield ops
    assert ops.post("stop-all").status_code == 200


def succeeded(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    assert told["success"] is True
    assert told["message"]
    return told


def failed(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert told["success"] is False
    assert told["error"]["code"] == code
    assert told["message"] == told["error"]["message"]
    return str(told["message"])


def test_start_and_stop_return_when_it_is_done_and_may_be_repeated(ops: Ops) -> None:
    for _ in range(2):
        succeeded(ops.post("plain/start"))
        assert ops.wait("plain", "running", 2)["replicas"] == 1
    for _ in range(2):
        succeeded(ops.post("plain/stop"))
        assert ops.processes("plain") == []
        ops.wait("plain", "stopped", 2)


def test_wish_without_waiting_is_a_202(ops: Ops) -> None:
    succeeded(ops.post("plain/start", wait="false"), 202)
    ops.wait("plain", "running")
    succeeded(ops.post("plain/stop", wait="false"), 202)
    ops.wait("plain", "stopped")
    assert "wait" in ops.post("plain/start", wait="maybe").json()["error"]["param"]


def test_unknown_model_is_a_404(ops: Ops) -> None:
    failed(ops.post("org/nope/start"), 404, "model_not_found")
    failed(ops.post("nope/stop"), 404, "model_not_found")
    failed(httpx.get(f"{ops.url}/api/models/nope"), 404, "model_not_found")


async def test_starts_join_one_start(ops: Ops) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        paths = [f"{ops.url}/api/models/loads/start"] * 5
        answers = await asyncio.gather(*(client.post(path) for path in paths))
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len(ops.processes("loads")) == 1


def test_start_that_cannot_succeed_says_why_and_may_be_tried_again(ops: Ops) -> None:
    for _ in range(2):  # an operator does not wait for the back-off
        assert "No safetensors found" in failed(ops.post("broken/start"), 503, "model_load_failed")
    assert "No safetensors found" in ops.wait("broken", "failed")["failure_reason"]


def test_request_for_a_failed_model_is_answered_at_once(ops: Ops) -> None:
    failed(ops.post("broken/start"), 503, "model_load_failed")
    ops.wait("broken", "failed")
    answer = httpx.post(ops.url + CHAT, json=body("broken"), timeout=30)
    assert answer.status_code == 503
    assert "No safetensors found" in answer.json()["error"]["message"]


def test_process_that_dies_while_it_loads_is_started_again(ops: Ops) -> None:
    succeeded(ops.post("loads/start", wait="false"), 202)
    wait_for("it loads", lambda: (ops.model("loads")["loading"] or {}).get("phase") == "loading", 20)
    (process,) = ops.processes("loads")
    process.kill()
    wait_for("another one", lambda: ops.processes("loads") not in ([], [process]), 30)
    ops.wait("loads", "running", 60)


def test_model_that_can_never_fit_is_refused_at_once_with_the_figures(ops: Ops) -> None:
    started = time.monotonic()
    answer = httpx.post(ops.url + CHAT, json=body("huge"), timeout=30)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "capacity"
    assert "needs 900,000,000 MB" in answer.json()["error"]["message"]
    assert "needs 900,000,000 MB" in failed(ops.post("huge/start"), 503, "model_load_failed")
    assert time.monotonic() - started < 10  # it would wait for minutes for a place
    assert ops.processes("huge") == []


async def test_stop_lets_answers_finish_and_the_next_request_wakes_the_model(ops: Ops) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        assert await stream(client, ops.url, "slow", 1) == 1
        long = asyncio.create_task(stream(client, ops.url, "slow", 60))  # 3 s
        await asyncio.to_thread(wait_for, "it runs", lambda: ops.model("slow")["running_requests"] == 1, 5)
        answer = await client.post(f"{ops.url}/api/models/slow/stop")
        succeeded(answer)
        assert long.done()
        assert await long == 60
        assert ops.processes("slow") == []
        assert await stream(client, ops.url, "slow", 1) == 1


def test_model_that_may_not_load_by_itself_answers_once_it_is_started(ops: Ops) -> None:
    assert httpx.post(ops.url + CHAT, json=body("lazy")).json()["error"]["code"] == "model_not_running"
    succeeded(ops.post("lazy/start"))
    chat(ops.url, "lazy")
    succeeded(ops.post("lazy/stop"))
    assert httpx.post(ops.url + CHAT, json=body("lazy")).json()["error"]["code"] == "model_not_running"


def test_all_are_stopped_and_only_the_auto_start_models_restarted(ops: Ops) -> None:
    succeeded(ops.post("plain/start"))
    told = succeeded(ops.post("restart-autostart"))
    assert told["started_models"] == ["auto"]
    assert told["failed_models"] == {}
    (before,) = ops.processes("auto")
    succeeded(ops.post("restart-autostart"))
    (after,) = ops.processes("auto")
    assert before.pid != after.pid
    assert ops.model("plain")["status"] == "running"
    assert set(succeeded(ops.post("stop-all"))["stopped_models"]) == {"auto", "plain"}
    models = httpx.get(f"{ops.url}/api/models").json()["models"]
    assert {m["name"]: m["status"] for m in models if m["status"] != "failed"}.items() >= {
        ("auto", "stopped"),
        ("plain", "stopped"),
    }
    assert not any(ops.processes(m["name"]) for m in models)


def test_table_tells_memory_times_and_use(ops: Ops) -> None:
    before = time.time()
    chat(ops.url, "plain")

    def look() -> dict[str, Any] | None:
        model = ops.model("plain")
        return model if model["memory_bytes"] > 20 * 2**20 and model["idle_seconds"] is not None else None

    model = wait_for("its memory is known, and the replica has said that it is idle", look, 10)
    assert model
    assert before - 1 < model["loaded_at"] <= model["last_used_at"] + 1 < time.time() + 2
    assert model["idle_seconds"] >= 0
    assert model["unloads_at"] == pytest.approx(model["last_used_at"] + 3600)
    status = httpx.get(f"{ops.url}/v1/system/status").json()
    assert status["max_concurrent_models"] == 4
    (told,) = [m for m in status["models"] if m["name"] == "plain"]
    assert (told["status"], told["engine_type"]) == ("loaded", "echo")
    assert told["memory_usage"].endswith("GB")


def test_changes_are_streamed_after_the_whole_table(ops: Ops) -> None:
    with httpx.stream("GET", f"{ops.url}/api/models/stream", timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: "))
        table = next(events)
        assert table["type"] == "models"
        assert len(table["models"]) == 7
        succeeded(ops.post("loads/start", wait="false"), 202)
        seen = []
        for event in events:
            assert event["type"] == "model"
            if event["model"]["name"] == "loads":
                seen.append(event["model"]["status"])
            if seen[-1:] == ["running"]:
                break
        assert seen[0] == "starting"


def test_load_that_takes_too_long_is_a_503_with_progress_and_goes_on(serving: Serving) -> None:
    """The application waits for 4 s, the model loads for 10."""
    url = f"{serving.url}/hasty"
    answer = httpx.post(url + CHAT, json=body("loads"), timeout=30)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_loading"
    assert error["loading"]["phase"]
    assert error["loading"]["seconds"] > 1
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    failed(httpx.post(f"{url}/api/models/loads/start", timeout=30), 503, "model_loading")
    wait_for("it is up", lambda: serving.statuses("/hasty")["loads"] == "running", 30)


async def test_load_goes_on_when_the_client_has_left(ops: Ops) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        request = asyncio.create_task(client.post(ops.url + CHAT, json=body("loads")))
        await asyncio.to_thread(wait_for, "its process", lambda: ops.processes("loads"), 30)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await asyncio.to_thread(ops.wait, "loads", "running")


@pytest.mark.parametrize(
    ("in_body", "headers"),
    [({"keep_alive": 0}, {}), ({"keep_alive": "1s"}, {}), ({}, {"x-keep-alive": "500ms"})],
)
def test_request_may_say_when_its_model_is_unloaded(
    ops: Ops, in_body: dict[str, object], headers: dict[str, str]
) -> None:
    answer = httpx.post(ops.url + CHAT, json={**body("plain"), **in_body}, headers=headers, timeout=60)
    assert answer.status_code == 200
    ops.wait("plain", "stopped", 10)


def test_keep_alive_is_checked(ops: Ops) -> None:
    answer = httpx.post(ops.url + CHAT, json={**body("plain"), "keep_alive": "soon"}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "keep_alive"


def test_wish_outlives_the_controller(serving: Serving, ops: Ops) -> None:
    """Serve's controller dies right after it; the policy with it. What was up stays up, and nothing else starts."""
    chat(ops.url, "plain")
    (before,) = ops.processes("plain")
    (controller,) = serving.named("ray::ServeController")
    controller.suspend()  # it cannot see the wish any more
    succeeded(ops.post("slow/start", wait="false"), 202)
    controller.kill()
    ops.wait("slow", "running", 60)
    assert [process.pid for process in ops.processes("plain")] == [before.pid]
    assert ops.processes("auto") == []
    chat(ops.url, "plain")


def test_wish_outlives_the_ingress(serving: Serving, ops: Ops) -> None:
    (ingress,) = serving.replicas("ops", "Ingress")
    succeeded(ops.post("loads/start", wait="false"), 202)
    ingress.kill()
    wait_for("the ingress is back", lambda: _answers(f"{ops.url}/health"), 30)
    ops.wait("loads", "running", 30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
