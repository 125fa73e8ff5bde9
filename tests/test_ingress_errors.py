"""ingress/errors.py on a small app: whatever goes wrong, the answer has OpenAI's shape."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from deployments.errors import Capacity
from ingress import errors


class Message(BaseModel):
    role: str


class Chat(BaseModel):
    messages: list[Message]


api = FastAPI()
errors.install(api)


@api.get("/full")
@api.get("/api/full")
async def full() -> None:
    raise Capacity("No room.", retry_after_s=10)


@api.get("/broken")
@api.get("/api/broken")
async def broken() -> None:
    raise RuntimeError("secret detail")


@api.get("/left")
async def left() -> None:
    raise ClientDisconnect


@api.get("/number/{n}")
async def number(n: int) -> int:
    return n


@api.post("/chat")
@api.post("/api/chat")
async def chat(body: Chat) -> int:
    return len(body.messages)


async def ask(method: str, path: str, root: str = "", **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(api, raise_app_exceptions=False, root_path=root)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **more)


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


@pytest.fixture
def log() -> Iterator[list[logging.LogRecord]]:
    """What the ingress logs; Ray's loggers do not pass on to the root."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    errors.logger.addHandler(handler)
    yield records
    errors.logger.removeHandler(handler)


async def test_own_error_keeps_status_body_and_headers() -> None:
    response = await ask("GET", "/full")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "10"
    assert response.json() == Capacity("No room.").body()


async def test_unknown_path_is_route_not_found() -> None:
    response = await ask("GET", "/v2/models")
    assert response.status_code == 404
    error = error_of(response)
    assert (error["type"], error["code"]) == ("not_found_error", "route_not_found")
    assert "GET /v2/models" in error["message"]


async def test_wrong_method_is_405_and_names_the_right_one() -> None:
    response = await ask("DELETE", "/full")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    error = error_of(response)
    assert (error["type"], error["code"]) == ("invalid_request_error", "method_not_allowed")


async def test_frameworks_422_is_a_400_that_names_the_parameter() -> None:
    response = await ask("GET", "/number/seven")
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["param"]) == ("invalid_request_error", "n")


async def test_bad_field_of_a_body_is_a_400_that_names_it() -> None:
    response = await ask("POST", "/chat", json={})
    assert response.status_code == 400
    assert error_of(response)["param"] == "messages"


async def test_param_of_a_nested_field_is_written_as_in_the_contract() -> None:
    response = await ask("POST", "/chat", json={"messages": [{"role": "user"}, {}]})
    assert response.status_code == 400
    assert error_of(response)["param"] == "messages[1].role"


async def test_body_that_is_not_json_is_a_400() -> None:
    response = await ask("POST", "/chat", content=b"{", headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


async def test_unexpected_error_is_a_500_with_the_request_id_and_without_the_trace(
    log: list[logging.LogRecord],
) -> None:
    response = await ask("GET", "/broken", headers={"x-request-id": "id-123"})
    assert response.status_code == 500
    error = error_of(response)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "id-123" in error["message"]
    assert "secret detail" not in response.text
    assert "Traceback" not in response.text
    (record,) = log
    assert "id-123" in record.getMessage()
    assert record.exc_info
    assert str(record.exc_info[1]) == "secret detail"


async def test_client_that_left_is_not_an_error_of_ours(log: list[logging.LogRecord]) -> None:
    assert (await ask("GET", "/left")).status_code == 499
    assert not log


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/full", 503),
        ("GET", "/api/broken", 500),
        ("GET", "/api/nothing", 404),
        ("PUT", "/api/full", 405),
        ("POST", "/api/chat", 400),
    ],
)
async def test_under_api_success_is_false_beside_every_error(method: str, path: str, status: int) -> None:
    response = await ask(method, path)
    assert response.status_code == status
    data = response.json()
    assert data.keys() == {"success", "message", "error"}
    assert data["success"] is False
    assert data["message"] == error_of(response)["message"]


async def test_elsewhere_the_error_stands_alone() -> None:
    assert (await ask("GET", "/apis")).json().keys() == {"error"}


async def test_prefix_of_the_application_is_not_part_of_the_path() -> None:
    """Serve leaves it in the path and says so in the root path."""
    assert (await ask("GET", "/ops/api/full", root="/ops")).json().keys() == {"success", "message", "error"}
    assert (await ask("GET", "/api/full", root="/api")).json().keys() == {"error"}
