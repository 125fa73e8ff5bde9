"""Every error of the contract that applies, asked for through real Serve."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("one",)

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def assert_error(answer: httpx.Response, status: int, type_: str, code: str | None, param: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == (type_, code, param)
    assert error["message"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"", "invalid_json", None),
        (b"[1]", "invalid_json", None),
        (b'"\xff"', "invalid_json", None),
        (b"{}", "missing_required_parameter", "model"),
        (b'{"model": 3}', "invalid_type", "model"),
        (b'{"model": "base", "messages": []}', "wrong_mode", "model"),
        (b'{"model": "parrot"}', "invalid_value", "messages"),
    ],
)
def test_bad_body_is_a_400_that_names_the_field(serving: Serving, body: bytes, code: str, param: str | None) -> None:
    assert_error(httpx.post(serving.url + CHAT, content=body), 400, "invalid_request_error", code, param)


def test_engine_names_the_bad_field_itself(serving: Serving) -> None:
    messages: list[dict[str, Any]] = [*HELLO, {"role": "nobody", "content": "x"}]
    answer = httpx.post(serving.url + CHAT, json={"model": "smollm2-135m", "messages": messages}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[1].role"


def test_unknown_model_is_a_404(serving: Serving) -> None:
    answer = httpx.post(serving.url + CHAT, json={"model": "nope", "messages": HELLO})
    assert_error(answer, 404, "not_found_error", "model_not_found", "model")
    answer = httpx.get(serving.url + "/v1/models/org/nope")
    assert_error(answer, 404, "not_found_error", "model_not_found", "model")


def test_unknown_route_is_a_404(serving: Serving) -> None:
    assert_error(httpx.get(serving.url + "/v1/nothing"), 404, "not_found_error", "route_not_found")


def test_wrong_method_is_a_405(serving: Serving) -> None:
    answer = httpx.delete(serving.url + "/v1/models")
    assert_error(answer, 405, "invalid_request_error", "method_not_allowed")
    assert "GET" in answer.headers["allow"]


def test_large_body_is_a_413(serving: Serving) -> None:
    answer = httpx.post(serving.url + CHAT, content=b"x" * (2**20 + 1))
    assert_error(answer, 413, "invalid_request_error", "request_too_large")


def test_large_body_of_unknown_length_is_a_413(serving: Serving) -> None:
    answer = httpx.post(serving.url + CHAT, content=(b"x" * 2**16 for _ in range(17)))
    assert_error(answer, 413, "invalid_request_error", "request_too_large")


def test_model_that_may_not_load_by_itself_is_a_503(serving: Serving) -> None:
    answer = httpx.post(serving.url + CHAT, json={"model": "asleep", "messages": HELLO})
    assert_error(answer, 503, "server_error", "model_not_running", "model")
    assert int(answer.headers["retry-after"]) > 0


def test_model_that_cannot_load_is_a_503_with_the_reason(serving: Serving) -> None:
    answer = httpx.post(serving.url + CHAT, json={"model": "broken", "messages": HELLO}, timeout=60)
    assert_error(answer, 503, "server_error", "model_load_failed")
    assert "No safetensors found" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) > 0
    assert serving.statuses()["broken"] == "failed"
    health = httpx.get(serving.url + "/health").json()
    assert health["status"] == "degraded"
    assert any("No safetensors found" in issue for issue in health["issues"])
    answer = httpx.post(serving.url + CHAT, json={"model": "broken", "messages": HELLO}, timeout=60)
    assert_error(answer, 503, "server_error", "model_load_failed")
    model = serving.url + "/api/models/broken"
    wait_for("it may be tried again", lambda: httpx.get(model).json()["model"]["reason"] == "no demand", 30)
    assert serving.statuses()["broken"] == "failed", "until then"


def test_no_room_within_the_wait_is_a_503(serving: Serving) -> None:
    url = f"{serving.url}/one"
    body = {"messages": HELLO, "max_tokens": 200, "stream": True}
    with httpx.stream("POST", url + CHAT, json={"model": "x", **body}, timeout=30) as stream:
        events = stream.iter_lines()
        assert next(events).startswith("data: ")
        answer = httpx.post(url + CHAT, json={"model": "y", "messages": HELLO}, timeout=30)
        assert_error(answer, 503, "server_error", "capacity")
        assert list(events)[-2] == "data: [DONE]"  # the busy model was not harmed


def test_client_keeps_its_request_id(serving: Serving) -> None:
    answer = httpx.get(serving.url + "/v1/models", headers={"x-request-id": "mine"})
    assert answer.headers.get_list("x-request-id") == ["mine"]


def test_torn_request_harms_nobody(serving: Serving) -> None:
    with socket.create_connection(("127.0.0.1", serving.port)) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    answer = httpx.post(serving.url + CHAT, json={"model": "parrot", "messages": HELLO, "max_tokens": 1}, timeout=30)
    assert answer.status_code == 200
