"""Which requests run, over two ingress replicas: listed, cancelled, remembered; models that are pinned; the history."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("activity",)

CHAT = "/v1/chat/completions"
Row = dict[str, Any]


@pytest.fixture(scope="module")
def api(serving: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serving.url + "/activity", timeout=60) as client:
        yield client


def body(model: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "one two"}], **more}


def ask(api: httpx.Client, model: str, tokens: int = 2, id_: str = "") -> httpx.Response:
    return api.post(CHAT, json=body(model, tokens), headers={"x-request-id": id_ or uuid.uuid4().hex})


def listed(api: httpx.Client, **query: Any) -> dict[str, Any]:
    answer = api.get("/api/requests", params=query)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def running(api: httpx.Client, **query: Any) -> dict[str, Row]:
    """By the client's id."""
    return {row["request_id"]: row for row in listed(api, **query)["running"]}


def ended(api: httpx.Client, id_: str) -> Row:
    def look() -> Row | None:
        return next((row for row in listed(api)["recent"] if row["request_id"] == id_), None)

    found = wait_for(f"{id_} has ended", look, 10)
    assert found
    return found


def cancel(api: httpx.Client, id_: str) -> httpx.Response:
    return api.post(f"/api/requests/{id_}/cancel")


@contextmanager
def stream(api: httpx.Client, model: str = "slow", tokens: int = 1000) -> Iterator[tuple[str, Iterator[str]]]:
    """The id, and the lines after the first token."""
    id_ = uuid.uuid4().hex
    with api.stream("POST", CHAT, json=body(model, tokens, stream=True), headers={"x-request-id": id_}) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        yield id_, lines


def idle(api: httpx.Client, model: str) -> bool:
    return bool(api.get(f"/api/models/{model}").json()["model"]["running_requests"] == 0)


def model(api: httpx.Client, name: str) -> Row:
    told: Row = api.get(f"/api/models/{name}").json()["model"]
    return told


def test_requests_of_all_replicas_are_listed_as_they_go(api: httpx.Client) -> None:
    with ExitStack() as stack:
        ids = [stack.enter_context(stream(api))[0] for _ in range(8)]
        for _ in range(6):  # whichever replica is asked
            found = running(api)
            assert found.keys() >= set(ids), "a request whose first token has come is there"
        rows = [found[id_] for id_ in ids]
        assert {row["state"] for row in rows} == {"running"}
        assert len({row["replica"] for row in rows}) == 2
        assert [row["began_at"] for row in rows] == sorted(row["began_at"] for row in rows)
        before = rows[0]["completion_tokens"]
        wait_for("more tokens", lambda: running(api)[ids[0]]["completion_tokens"] > before + 10, 10)
        rate = wait_for("the rate", lambda: listed(api)["tokens_per_second"].get("slow", 0) > 100, 15)
        assert rate
    wait_for("no one runs", lambda: not running(api), 5)
    assert {ended(api, id_)["state"] for id_ in ids} == {"cancelled"}, "their clients have left"


def test_those_that_have_ended_say_how(api: httpx.Client) -> None:
    done, failed = uuid.uuid4().hex, uuid.uuid4().hex
    assert ask(api, "slow", 3, done).status_code == 200
    assert ended(api, done).items() >= {"state": "done", "status": 200, "completion_tokens": 3}.items()
    answer = api.post("/v1/embeddings", json={"model": "slow", "input": "x"}, headers={"x-request-id": failed})
    assert answer.status_code == 400
    assert ended(api, failed).items() >= {"state": "failed", "status": 400, "model": "slow"}.items()
    times = [row["began_at"] + row["total_ms"] / 1000 for row in listed(api)["recent"]]
    assert times == sorted(times, reverse=True)
    assert {row["model"] for row in listed(api, model="slow")["recent"]} == {"slow"}
    assert len(listed(api, limit=1)["recent"]) == 1


def test_cancelled_stream_ends_with_an_error_and_so_does_the_engine(api: httpx.Client) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(stream(api)) for _ in range(6)]
        for id_, _ in streams:  # at this replica or at the other one
            assert cancel(api, id_).json()["success"] is True
        for _, lines in streams:
            events = [line for line in lines if line]
            assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "request_cancelled"
            assert "data: [DONE]" not in events
        wait_for("the engine rests", lambda: idle(api, "slow"), 5)
        assert {ended(api, id_)["state"] for id_, _ in streams} == {"cancelled"}


def test_cancelled_answer_in_one_piece_is_an_error(api: httpx.Client) -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = [uuid.uuid4().hex for _ in range(4)]
        asked = [pool.submit(ask, api, "slow", 1000, id_) for id_ in ids]
        wait_for("they run", lambda: running(api).keys() >= set(ids), 10)
        for id_ in ids:
            assert cancel(api, id_).status_code == 200
        answers = [one.result(10) for one in asked]
    assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(499, "request_cancelled")}
    wait_for("the engine rests", lambda: idle(api, "slow"), 5)


def test_request_that_waits_for_its_model_is_cancelled_too(api: httpx.Client) -> None:
    with ThreadPoolExecutor(2) as pool:
        ids = [uuid.uuid4().hex for _ in range(2)]
        asked = [pool.submit(ask, api, "loads", 2, id_) for id_ in ids]
        wait_for("they wait", lambda: running(api, model="loads").keys() >= set(ids), 10)
        assert {running(api)[id_]["state"] for id_ in ids} == {"waiting"}
        for id_ in ids:
            assert cancel(api, running(api)[id_]["id"]).status_code == 200, "by its own id"
        answers = [one.result(10) for one in asked]
    assert {a.json()["error"]["code"] for a in answers} == {"request_cancelled"}
    assert {ended(api, id_)["state"] for id_ in ids} == {"cancelled"}


def test_cancel_of_what_does_not_run_says_so(api: httpx.Client) -> None:
    answer = cancel(api, "nobody")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "request_not_found"


def test_killed_keeper_loses_no_request(serving: Serving, api: httpx.Client) -> None:
    ids = [uuid.uuid4().hex for _ in range(12)]
    with stream(api) as (longer, _):
        for id_ in ids[:6]:
            ask(api, "slow", 2, id_)
        for keeper in serving.replicas("activity", "Keeper"):
            keeper.kill()
        for id_ in ids[6:]:
            ask(api, "slow", 2, id_)
        wait_for("the keeper answers", lambda: api.get("/api/requests").status_code == 200, 30)
        wait_for("all are told", lambda: {r["request_id"] for r in listed(api)["recent"]} >= set(ids), 10)
        wait_for("what runs too", lambda: longer in running(api), 10)
        assert cancel(api, longer).status_code == 200


def test_pinned_model_stays_under_pressure_until_it_is_unpinned(api: httpx.Client) -> None:
    """The cap is 3."""
    assert ask(api, "p").status_code == 200
    assert api.post("/api/models/p/pin").json()["success"] is True
    assert model(api, "p")["pinned"] is True
    for name in ("slow", "q", "r", "slow", "q", "r"):
        assert ask(api, name).status_code == 200
        assert model(api, "p")["status"] == "running"
    assert model(api, "p")["reason"] == "pinned"
    assert api.post("/api/models/p/unpin").status_code == 200
    assert model(api, "p")["pinned"] is False
    for name in ("slow", "q", "r"):
        ask(api, name)
    wait_for("p makes room", lambda: model(api, "p")["status"] == "stopped", 20)


def test_rows_say_on_which_nodes_the_model_is(api: httpx.Client) -> None:
    ask(api, "slow")
    addresses = [node["address"] for node in api.get("/api/devices/info").json()["nodes"]]
    assert model(api, "slow")["nodes"] == addresses
    assert api.post("/api/models/slow/stop").status_code == 200
    assert model(api, "slow")["nodes"] == []


def test_history_tells_a_swap_and_its_reason(serving: Serving, api: httpx.Client) -> None:
    def history(**query: str) -> Row:
        told: Row = api.get("/api/history", params=query).json()
        return told

    def evicted(name: str) -> list[Row]:
        states = [one for one in history()["residency"] if one["model"] == name and one["state"] == "running"]
        return [one for one in states if one["reason"].startswith("made room for")]

    for name in ("slow", "q", "r", "p"):  # the cap is 3
        assert ask(api, name, 20).status_code == 200
    swap = wait_for("the swap", lambda: evicted("slow"), 10)[-1]
    assert swap["until"] - swap["from"] > 1
    told = wait_for("points", lambda: (h := history())["models"].get("slow") and h, 10)
    assert told["step_s"] <= 5
    series = told["models"]["slow"]
    assert {len(points) for points in series.values()} == {len(told["times"])}
    assert max(value or 0 for value in series["memory_mb"]) > 10
    assert max(value or 0 for value in series["tokens_per_s"]) > 1
    (node,) = told["nodes"].values()
    assert 0 < max(value or 0 for value in node["memory_used_mb"]) < node["memory_total_mb"]
    assert history(range="24h")["step_s"] == 60
    assert api.get("/api/history", params={"range": "2d"}).status_code == 400
    for keeper in serving.replicas("activity", "Keeper"):
        keeper.kill()
    wait_for("it is kept", lambda: api.get("/api/history").status_code == 200 and swap in evicted("slow"), 30)
