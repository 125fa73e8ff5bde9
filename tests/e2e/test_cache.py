"""The result cache through real Serve: two ingress replicas, one keeper."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("cached",)

CHAT = "/v1/chat/completions"


def new() -> dict[str, Any]:
    """A request that nobody has made before."""
    content = f"hello {uuid.uuid4().hex}"
    return {"model": "a", "temperature": 0, "max_tokens": 3, "messages": [{"role": "user", "content": content}]}


def ask(serving: Serving, body: dict[str, Any], path: str = CHAT, **headers: str) -> httpx.Response:
    answer = httpx.post(f"{serving.url}/cached{path}", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def said(answer: httpx.Response) -> str:
    return answer.headers["x-cache"]


def stats(serving: Serving) -> dict[str, Any]:
    answer = httpx.get(f"{serving.url}/cached/api/cache/stats", timeout=30)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()["stats"]
    return told


@contextmanager
def asking(serving: Serving, body: dict[str, Any], count: int) -> Iterator[list[Future[httpx.Response]]]:
    """So many clients at the same time."""
    with ThreadPoolExecutor(count) as pool:
        yield [pool.submit(ask, serving, body) for _ in range(count)]


def test_second_answer_is_the_first_one(serving: Serving) -> None:
    body = new()
    first, *more = [ask(serving, body) for _ in range(6)]
    assert (said(first), {said(answer) for answer in more}) == ("miss", {"hit"})
    assert {answer.content for answer in more} == {first.content}
    assert {answer.headers["content-type"] for answer in more} == {first.headers["content-type"]}
    assert all(0 <= int(answer.headers["age"]) < 60 for answer in more)
    ids = [answer.headers["x-request-id"] for answer in (first, *more)]
    assert len(set(ids)) == len(ids)
    assert said(ask(serving, {**body, "user": "another"})) == "hit"
    assert ask(serving, {**body, "model": "alias"}).json()["model"] == "alias"


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_stream_is_replayed_byte_by_byte(serving: Serving, options: dict[str, Any]) -> None:
    body = {**new(), "stream": True, **options}
    first, second = ask(serving, body), ask(serving, body)
    assert (said(first), said(second)) == ("miss", "hit")
    assert second.content == first.content
    assert second.content.endswith(b"data: [DONE]\n\n")
    for header in ("content-type", "cache-control", "x-accel-buffering"):
        assert second.headers[header] == first.headers[header]
    assert said(ask(serving, {**body, "stream": False})) == "miss"


def test_embeddings_are_kept_whatever_they_say(serving: Serving) -> None:
    body = {"model": "vectors", "input": [uuid.uuid4().hex, "x"]}
    first, second = (ask(serving, body, "/v1/embeddings") for _ in range(2))
    assert (said(first), said(second)) == ("miss", "hit")
    assert second.json() == first.json()


def test_cache_is_gone_past_where_the_request_says_so(serving: Serving) -> None:
    body = new()
    assert said(ask(serving, body, **{"cache-control": "no-store"})) == "miss"
    first = ask(serving, body)
    assert said(first) == "miss"
    second = ask(serving, body, **{"cache-control": "no-cache"})
    assert said(second) == "miss"
    third = ask(serving, body)
    assert (said(third), third.json()["id"]) == ("hit", second.json()["id"])
    for other in ({**body, "temperature": 0.7}, {**body, "n": 2}):
        assert [said(ask(serving, other)) for _ in range(2)] == ["miss", "miss"]
    assert "x-cache" not in ask(serving, {**body, "model": "off"}).headers


def test_hit_does_not_wake_its_model(serving: Serving) -> None:
    body = new()
    ask(serving, body)
    stopped = httpx.post(f"{serving.url}/cached/api/models/a/stop", timeout=60)
    assert stopped.status_code == 200
    assert said(ask(serving, body)) == "hit"
    assert serving.statuses("/cached")["a"] == "stopped"


def test_one_computes_and_the_others_wait_for_it(serving: Serving) -> None:
    body = {**new(), "model": "slow", "max_tokens": 20}
    with asking(serving, body, 8) as asked:
        answers = [one.result() for one in asked]
    assert len({answer.content for answer in answers}) == 1
    assert sorted(said(answer) for answer in answers) == ["hit"] * 7 + ["miss"]


def test_if_who_computes_hangs_up_the_next_one_does(serving: Serving) -> None:
    body = {**new(), "model": "slow", "max_tokens": 20, "stream": True}
    with httpx.stream("POST", f"{serving.url}/cached{CHAT}", json=body, timeout=60) as leader:
        pieces = leader.iter_bytes()  # kept: httpx hangs up when nobody holds it
        next(pieces)
        before = stats(serving)["misses"]
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, serving, body) for _ in range(3)]
            leader.close()
            answers = [one.result() for one in asked]
    assert stats(serving)["misses"] == before + 1
    assert sorted(said(answer) for answer in answers) == ["hit", "hit", "miss"]
    assert len({answer.content for answer in answers}) == 1


def test_answers_are_counted_and_cleared(serving: Serving) -> None:
    body = new()
    ask(serving, body)
    vectors = {"model": "vectors", "input": "cleared"}
    ask(serving, vectors, "/v1/embeddings")
    told = stats(serving)
    assert told["models"]["a"]["entries"] > 0
    assert 0 < told["bytes"] < told["max_bytes"] == 256 * 2**20
    clear = f"{serving.url}/cached/api/cache/clear"
    cleared = httpx.post(clear, params={"model": "alias"}, timeout=30).json()
    assert (cleared["success"], cleared["cleared"]) == (True, told["models"]["a"]["entries"])
    assert said(ask(serving, body)) == "miss"
    assert said(ask(serving, vectors, "/v1/embeddings")) == "hit"
    assert httpx.post(clear, params={"model": "nobody"}, timeout=30).status_code == 404
    assert httpx.post(clear, timeout=30).json()["cleared"] > 0
    assert stats(serving)["entries"] == 0


def test_while_the_keeper_is_away_all_compute_and_then_it_is_used_again(serving: Serving) -> None:
    body = new()
    assert [said(ask(serving, body)) for _ in range(2)] == ["miss", "hit"]
    with asking(serving, {**body, "model": "slow", "max_tokens": 40}, 4) as asked:
        wait_for("one computes", lambda: stats(serving)["models"].get("slow", {}).get("misses"), 10)
        (keeper,) = serving.replicas("cached", "Keeper")
        keeper.kill()
        keeper.wait(10)
        assert [said(ask(serving, body)) for _ in range(3)] == ["miss"] * 3
        assert {one.result().status_code for one in asked} == {200}
    wait_for("it is used again", lambda: said(ask(serving, body)) == "hit", 60)
