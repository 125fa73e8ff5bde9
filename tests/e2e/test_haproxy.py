"""The same behind HAProxy, where requests reach the ingress without Serve's own proxy."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.serving import Serving, application, free_port, wait_for
from tests.e2e.test_residency import CHAT, body, chat

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray brings HAProxy on Linux only")


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    ports = {name: str(free_port()) for name in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")}
    slow = {"interval_ms": 50}
    server = Serving(
        tmp_path_factory.mktemp("haproxy"),
        [
            application(
                "llm-manager",
                "/",
                [
                    {"name": "parrot", "engine": "echo"},
                    {"name": "idle", "engine": "echo", "engine_args": slow, "idle_timeout_s": 1},
                ],
                cap=2,
                max_body_mb=1,
                request_timeout_s=60,
                allow_without_keys=True,
            )
        ],
        # Serve keeps an ingress reachable for this long while load balancers learn that it goes.
        {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1", **ports},
    )
    server.start()
    try:
        server.wait_ready()
        yield server
        server.interrupt()
        assert server.wait_ended(60) == 0
        assert server.left_behind() == []
    finally:
        server.stop()


def test_model_loads_and_answers(haproxy: Serving) -> None:
    assert chat(haproxy.url, "parrot") == "hello " * 5


def test_stream_is_whole(haproxy: Serving) -> None:
    answer = httpx.post(haproxy.url + CHAT, json=body("parrot", tokens=500, stream=True), timeout=30)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.text.count('"content": "hello "') == 500
    assert answer.text.endswith("data: [DONE]\n\n")


def test_errors_and_request_id(haproxy: Serving) -> None:
    answer = httpx.post(haproxy.url + CHAT, json=body("nope"), headers={"x-request-id": "mine"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert httpx.post(haproxy.url + CHAT, content=b"x" * (2**20 + 1)).status_code == 413


def test_client_that_hangs_up_stops_the_engine(haproxy: Serving) -> None:
    """The answer would take 500 s; a model with an unfinished request is never unloaded.

    An answer in one piece is another matter: HAProxy 2.8 keeps the ingress's connection open when it was used before.
    """
    request = body("idle", tokens=10_000, stream=True)
    with httpx.stream("POST", haproxy.url + CHAT, json=request, timeout=30) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
    wait_for("idle is unloaded", lambda: haproxy.statuses()["idle"] == "stopped", 20)
    wait_for("its slot was given back", lambda: not haproxy.replicas("llm-manager", "idle"), 5)
