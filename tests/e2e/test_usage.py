"""What requests took, seen from outside: two ingress replicas, one keeper, and the engines' own answers beside ours."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics.names import METRICS, PREFIX
from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("usage",)

CHAT = "/v1/chat/completions"
STORED_S = 10.0
SHOWN_S = 30.0  # Ray tells its agents every ten seconds


@pytest.fixture(scope="module")
def api(serving: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serving.url + "/usage", timeout=60) as client:
        yield client


def chat(tokens: int = 4, **more: Any) -> dict[str, Any]:
    return {"model": "org/a", "max_tokens": tokens, "messages": [{"role": "user", "content": "one two three"}], **more}


def totals(api: httpx.Client, **asked: str) -> dict[str, Any]:
    answer = api.get("/api/usage", params={"range": "1h", **asked})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["totals"]
    return found


def grown(api: httpx.Client, before: dict[str, Any], requests: int, **asked: str) -> dict[str, int]:
    """By how much the totals have grown, once so many more requests are stored."""
    wait_for(
        f"{requests} more records", lambda: totals(api, **asked)["requests"] >= before["requests"] + requests, STORED_S
    )
    now = totals(api, **asked)
    names = ("requests", "errors", "prompt_tokens", "completion_tokens")
    return {name: now[name] - before[name] for name in names}


def by(api: httpx.Client, group: str, **asked: str) -> Counter[Any]:
    """Requests of each group."""
    groups = api.get("/api/usage", params={"range": "1h", "group_by": group, **asked}).json()["usage"]
    return Counter({one[group]: one["requests"] for one in groups})


def families(api: httpx.Client) -> dict[str, Metric]:
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def shape(stream: str) -> str:
    """Without what differs from one answer to the next."""
    return re.sub(r'"(id|created|system_fingerprint)": ("[^"]*"|\d+)', r'"\1": 0', stream)


def test_stream_without_a_question_for_usage_is_the_engines_but_for_the_hidden_event(api: httpx.Client) -> None:
    before = totals(api)
    plain = shape(api.post(CHAT, json=chat(stream=True)).text)
    asked = shape(api.post(CHAT, json=chat(stream=True, stream_options={"include_usage": True})).text)
    events = [event for event in asked.split("\n\n") if '"choices": []' in event]
    assert len(events) == 1
    assert plain == asked.replace(events[0] + "\n\n", "")
    assert grown(api, before, 2) == {"requests": 2, "errors": 0, "prompt_tokens": 6, "completion_tokens": 8}


def test_each_kind_of_request_is_counted_once_whichever_ingress_replica_has_it(api: httpx.Client) -> None:
    before, here = totals(api), by(api, "replica")
    bodies = [
        (CHAT, chat()),
        (CHAT, chat(model="first", stream=True)),
        ("/v1/completions", {"model": "org/a", "prompt": "one two three", "max_tokens": 4, "stream": True}),
        ("/v1/embeddings", {"model": "vectors", "input": "one two three"}),
        (CHAT, chat(messages=[])),
    ] * 6
    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda one: api.post(one[0], json=one[1]).status_code, bodies))
    assert sorted(statuses) == [200] * 24 + [400] * 6
    assert grown(api, before, 30) == {"requests": 30, "errors": 6, "prompt_tokens": 72, "completion_tokens": 72}
    assert len(by(api, "replica") - here) == 2, "both ingress replicas"
    by_path = {g["path"] for g in api.get("/api/usage", params={"model": "first", "group_by": "path"}).json()["usage"]}
    assert by_path >= {CHAT, "/v1/completions"}


def test_client_who_leaves_is_counted_with_what_he_got(api: httpx.Client) -> None:
    before, statuses = totals(api, model="slow"), by(api, "status", model="slow")
    with api.stream("POST", CHAT, json=chat(200, model="slow", stream=True)) as answer:
        lines = (line for line in answer.iter_lines() if line)
        for _ in range(5):
            next(lines)
    added = grown(api, before, 1, model="slow")
    assert added["errors"] == 1
    assert 3 <= added["completion_tokens"] < 200
    assert by(api, "status", model="slow") - statuses == {499: 1}


def test_keeper_that_is_killed_loses_nothing(api: httpx.Client, serving: Serving) -> None:
    before = totals(api)
    api.post(CHAT, json=chat())
    (keeper,) = serving.replicas("usage", "Keeper")
    keeper.kill()
    for _ in range(8):
        assert api.post(CHAT, json=chat()).status_code == 200
    wait_for("the next keeper", lambda: api.get("/api/usage").status_code == 200, 60)
    assert grown(api, before, 9)["requests"] == 9


def test_throughput_shows_the_last_moments(api: httpx.Client) -> None:
    before = totals(api)
    api.post(CHAT, json=chat())
    grown(api, before, 1)
    told = api.get("/api/metrics/throughput?range=5m").json()
    assert told["success"] is True
    points = told["models"]["org/a"]
    assert {after["time"] - before["time"] for before, after in pairwise(points)} == {told["bucket_s"]}
    assert sum(point["tokens_per_s"] for point in points) > 0


def test_log_of_each_ingress_replica_is_a_line_of_json_a_request(serving: Serving, api: httpx.Client) -> None:
    began = time.time()
    api.post(
        CHAT, json=chat(stream=True), headers={"x-request-id": f"logged-{began}", "authorization": "Bearer s3cr3t"}
    )

    def written() -> list[str]:
        files = serving.serve_logs().glob("requests_usage_*.log")
        return [line for file in files for line in file.read_text().splitlines()]

    wait_for("the line", lambda: any(f"logged-{began}" in line for line in written()), STORED_S)
    lines = [json.loads(line) for line in written()]
    (line,) = [line for line in lines if line["request_id"] == f"logged-{began}"]
    assert (line["model"], line["path"], line["status"]) == ("org/a", CHAT, 200)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 4)
    assert line["total_ms"] >= line["ttft_ms"] >= line["queue_ms"] >= 0
    assert not [text for text in written() if "one two three" in text or "s3cr3t" in text]


def test_metrics_of_the_cluster_are_on_one_page(api: httpx.Client) -> None:
    api.post(CHAT, json=chat(stream=True))

    def requests() -> float:
        found = families(api).get(f"{PREFIX}requests")
        samples = found.samples if found else []
        return sum(s.value for s in samples if s.labels["model"] == "org/a" and s.labels["application"] == "usage")

    wait_for("requests on the page", requests, SHOWN_S)
    before = requests()
    for _ in range(3):
        api.post(CHAT, json=chat())
    wait_for("three more", lambda: requests() >= before + 3, SHOWN_S)


def test_every_metric_is_there_with_its_type_but_those_that_nothing_has_counted(api: httpx.Client) -> None:
    uncounted = {"cached_tokens_total", "cache_hits_total"}  # the echo engine has no cache
    expected = {m.full_name.removesuffix("_total"): m.kind for m in METRICS if m.name not in uncounted}
    wait_for("all metrics", lambda: expected.keys() <= families(api).keys(), SHOWN_S)
    found = families(api)
    assert {name: found[name].type for name in expected} == expected
    resident = {
        s.labels["model"]: s.value for s in found[f"{PREFIX}resident"].samples if s.labels["application"] == "usage"
    }
    assert resident["org/a"] in (0, 1)
    starts = {
        (s.labels["model"], s.labels["reason"]) for s in found[f"{PREFIX}swaps"].samples if s.labels["event"] == "start"
    }
    assert ("vectors", "requested") in starts or ("org/a", "requested") in starts
    assert [s.value for s in found[f"{PREFIX}scraped_nodes"].samples if s.labels["answered"] == "yes"] == [1]


@pytest.mark.parametrize(
    ("path", "param"), [("/api/usage?range=x", "range"), ("/api/metrics/throughput?range=-1h", "range")]
)
def test_bad_range_is_a_400_that_names_it(api: httpx.Client, path: str, param: str) -> None:
    answer = api.get(path)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["success"] is False
