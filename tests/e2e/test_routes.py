"""Inference routes through real Serve: which lead to an engine, and what of it comes back."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving
from tests.e2e.test_errors import assert_error

APPLICATIONS = ("one",)

HELLO = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"


def raw(serving: Serving, method: str, path: str) -> int:
    """The status of a request whose path nobody has tidied."""
    with socket.create_connection(("127.0.0.1", serving.port), timeout=30) as sock:
        sock.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        return int(sock.makefile("rb").readline().split()[1])


def test_model_may_be_named_in_the_query(serving: Serving) -> None:
    answer = httpx.post(f"{serving.url}{CHAT}?model=parrot", json={"messages": HELLO, "max_tokens": 1}, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["model"] == "parrot"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/pooling", "/v1/rerank", "/v1/score", "/v1/audio/translations"])
def test_path_of_another_mode_is_a_400_that_names_those_that_fit(serving: Serving, path: str) -> None:
    answer = httpx.post(serving.url + path, json={"model": "parrot"})
    assert_error(answer, 400, "invalid_request_error", "wrong_mode", "model")
    assert CHAT in answer.json()["error"]["message"]


def test_form_names_its_model(serving: Serving) -> None:
    files = {"file": ("a.wav", b"\xff\x00" * 1000)}
    answer = httpx.post(serving.url + "/v1/audio/transcriptions", data={"model": "parrot"}, files=files)
    assert_error(answer, 400, "invalid_request_error", "wrong_mode", "model")
    assert "org/echo" in answer.json()["error"]["message"]


@pytest.mark.parametrize("model", ["parrot", "smollm2-135m"])
@pytest.mark.parametrize("path", ["/v1/responses", "/tokenize"])
def test_path_that_the_engine_has_not_got_is_a_400(serving: Serving, path: str, model: str) -> None:
    answer = httpx.post(serving.url + path, json={"model": model, "input": "x"}, timeout=180)
    assert_error(answer, 400, "invalid_request_error", "wrong_mode", "model")
    assert path in answer.json()["error"]["message"]


def test_error_under_messages_is_anthropics_too(serving: Serving) -> None:
    for model, status in (("parrot", 400), ("nope", 404)):
        answer = httpx.post(serving.url + "/v1/messages", json={"model": model, "messages": HELLO}, timeout=60)
        assert answer.status_code == status
        body: dict[str, Any] = answer.json()
        assert body["type"] == "error"
        assert body["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "path",
    [
        "/collective_rpc",
        "/sleep",
        "/v1/load_lora_adapter",
        "/invocations",
        f"/{CHAT}",
        "/v1//chat/completions",
        "/v1/chat/completions/../../../sleep",
        "/v1/chat/completions/%2e%2e/%2e%2e/%2e%2e/sleep",
        "/v1/responses/..%2fsleep/cancel",
        "/v1/responses/%2e%2e/cancel",
    ],
)
def test_other_paths_are_not_there(serving: Serving, path: str) -> None:
    assert [raw(serving, method, path) for method in ("GET", "POST")] in ([404, 404], [405, 404])


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/embeddings"])
@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_wrong_method_is_a_405_that_names_the_right_one(serving: Serving, method: str, path: str) -> None:
    answer = httpx.request(method, serving.url + path)
    assert_error(answer, 405, "invalid_request_error", "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_page_of_another_origin_gets_no_leave_to_read(serving: Serving, method: str) -> None:
    answer = httpx.request(method, serving.url + CHAT, headers={"origin": "https://page.example"})
    assert_error(answer, 403, "permission_error", "keys_required")
    assert "access-control-allow-origin" not in answer.headers


def test_response_that_nobody_holds_is_a_404(serving: Serving) -> None:
    for answer in (
        httpx.get(serving.url + "/v1/responses/resp_1"),
        httpx.post(serving.url + "/v1/responses/resp_1/cancel"),
    ):
        assert_error(answer, 404, "not_found_error", "response_not_found", "id")


def test_routes_are_there_under_a_prefix(serving: Serving) -> None:
    answer = httpx.post(serving.url + "/one/tokenize", json={"model": "x"}, timeout=60)
    assert_error(answer, 400, "invalid_request_error", "wrong_mode", "model")
