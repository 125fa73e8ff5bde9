"""The door, in front of an app that tells whom it let in."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import Request
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import ModelNotFound
from deployments.keys import KeyConfig, hash_of
from ingress import errors
from ingress.auth import Access, Door, key_of
from ingress.cors import Api
from ingress.limits import Limits

USER, MANAGER, HASTY = (
    KeyConfig(name="user", key_hash=hash_of("user-key")),
    KeyConfig(name="manager", key_hash=hash_of("manager-key"), rights=("manage",)),
    KeyConfig(name="hasty", key_hash=hash_of("hasty-key"), rights=("use", "manage"), requests_per_minute=2),
)
PAGE = "https://page.example"
CHAT = "/v1/chat/completions"


class NoKeeper:
    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any:
        raise AssertionError("nobody is asked on the way of a request")


class House:
    """An app behind the door, and how it is asked."""

    def __init__(self, *keys: KeyConfig, **more: Any) -> None:
        self.access = Access(keys, Limits(NoKeeper(), "one", lambda: 6000.0), **more)
        self.api = Api(lambda: (PAGE,))
        self.api.add_middleware(Door, access=lambda: self.access)
        errors.install(self.api)
        for path in (CHAT, "/v1/messages", "/v1/models", "/api/models/{alias:path}", "/health"):
            self.api.add_api_route(path, self.inside, methods=["GET", "POST"])
        self.client = "127.0.0.1"
        self.prefix = ""

    async def inside(self, request: Request) -> dict[str, Any]:
        key = key_of(request)
        assert request.state.key_name == (key.name if key else "")
        if "missing" in request.query_params:
            raise ModelNotFound("No.")
        return {"name": request.state.key_name}

    async def ask(self, method: str, path: str, key: str = "", **headers: str) -> httpx.Response:
        async def spelled(scope: Scope, receive: Receive, send: Send) -> None:
            target, _, query = path.partition("?")
            changed = {"path": self.prefix + target, "query_string": query.encode(), "root_path": self.prefix}
            await self.api({**scope, **changed, "client": (self.client, 1)}, receive, send)

        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            named["authorization"] = f"Bearer {key}"
        transport = httpx.ASGITransport(spelled, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await client.request(method, "/", headers=named)


@pytest.fixture
def house() -> House:
    return House(USER, MANAGER, HASTY)


def refused(answer: httpx.Response, status: int, type_: str, code: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == (type_, code)


async def test_key_lets_in_by_either_header(house: House) -> None:
    assert (await house.ask("POST", CHAT, "user-key")).json() == {"name": "user"}
    assert (await house.ask("POST", CHAT, x_api_key="user-key")).json() == {"name": "user"}


@pytest.mark.parametrize("key", ["", "wrong", hash_of("user-key"), "user-key "[:-2]])
@pytest.mark.parametrize(
    "path", [CHAT, "/v1/models", "/api/models/a", "/nothing", "//health", "/health/", "/v1/../health"]
)
async def test_without_a_known_key_every_path_is_the_same_401(house: House, key: str, path: str) -> None:
    answer = await house.ask("GET", path, key)
    refused(answer, 401, "authentication_error", "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (key or "none") not in answer.text


async def test_open_path_needs_none_and_knows_who_has_one(house: House) -> None:
    assert (await house.ask("GET", "/health")).json() == {"name": ""}
    assert (await house.ask("GET", "/health", "wrong")).json() == {"name": ""}
    assert (await house.ask("GET", "/health", "user-key")).json() == {"name": "user"}


async def test_right_that_a_key_has_not_is_a_403(house: House) -> None:
    refused(await house.ask("POST", "/api/models/a", "user-key"), 403, "permission_error", "permission_denied")
    refused(await house.ask("POST", CHAT, "manager-key"), 403, "permission_error", "permission_denied")
    for key in ("user-key", "manager-key"):
        assert (await house.ask("GET", "/v1/models", key)).status_code == 200
        assert (await house.ask("GET", "/api/models/a", key)).status_code == 200
    assert (await house.ask("POST", "/api/models/a", "manager-key")).status_code == 200


@pytest.mark.parametrize("prefix", ["/ops", "/health", "/api"])
async def test_prefix_of_the_application_is_no_part_of_the_path(house: House, prefix: str) -> None:
    house.prefix = prefix
    assert (await house.ask("GET", "/health")).status_code == 200
    refused(await house.ask("POST", CHAT), 401, "authentication_error", "invalid_api_key")
    assert (await house.ask("POST", CHAT, "user-key")).status_code == 200
    refused(await house.ask("POST", "/api/models/a", "user-key"), 403, "permission_error", "permission_denied")


async def test_host_header_says_nothing_of_the_path(house: House) -> None:
    answer = await house.ask("POST", "/api/models/a", host="x/v1/messages?")
    refused(answer, 401, "authentication_error", "invalid_api_key")
    assert answer.json().keys() == {"error", "success", "message"}


async def test_refusal_has_the_shape_of_its_path(house: House) -> None:
    assert (await house.ask("POST", "/v1/messages")).json()["type"] == "error"
    assert (await house.ask("POST", "/api/models/a")).json()["success"] is False


async def test_limit_is_told_on_every_answer_to_a_request_for_a_model(house: House) -> None:
    answer = await house.ask("POST", CHAT, "hasty-key")
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, "1")
    answer = await house.ask("POST", f"{CHAT}?missing=1", "hasty-key")
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (404, "0")
    answer = await house.ask("POST", CHAT, "hasty-key")
    refused(answer, 429, "rate_limit_error", "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) > 0
    for path in ("/v1/models", "/api/models/a", "/health"):
        answer = await house.ask("GET", path, "hasty-key")
        assert answer.status_code == 200
        assert "x-ratelimit-limit-requests" not in answer.headers


async def test_web_page_may_read_a_refusal_and_ask_what_it_may_ask(house: House) -> None:
    answer = await house.ask("POST", CHAT, origin=PAGE)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, PAGE)
    answer = await house.ask("OPTIONS", CHAT, origin=PAGE, access_control_request_method="POST")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)


async def test_without_keys_this_machine_may_do_all() -> None:
    house = House()
    for path in (CHAT, "/api/models/a"):
        assert (await house.ask("POST", path)).json() == {"name": ""}
        assert (await house.ask("POST", path, "none")).status_code == 200


@pytest.mark.parametrize("client", ["10.0.0.7", "::ffff:10.0.0.7"])
async def test_without_keys_other_machines_may_do_nothing(client: str) -> None:
    house = House()
    house.client = client
    for path in (CHAT, "/api/models/a", "/nothing"):
        refused(await house.ask("POST", path), 403, "permission_error", "keys_required")
        refused(await house.ask("POST", path, host="localhost"), 403, "permission_error", "keys_required")
    assert (await house.ask("GET", "/health")).status_code == 200


async def test_without_keys_nobody_may_do_anything_behind_haproxy() -> None:
    refused(await House(behind_haproxy=True).ask("POST", CHAT), 403, "permission_error", "keys_required")


async def test_with_the_word_for_it_everybody_may() -> None:
    house = House(without_keys=True, behind_haproxy=True)
    house.client = "10.0.0.7"
    assert (await house.ask("POST", CHAT, host="any.example", origin="https://any.example")).status_code == 200


async def test_web_page_of_somebody_else_cannot_ask_a_server_without_keys() -> None:
    house = House(origins=[PAGE])
    assert (await house.ask("POST", CHAT, origin=PAGE)).status_code == 200
    refused(await house.ask("POST", CHAT, origin="https://evil.example"), 403, "permission_error", "keys_required")
    refused(await house.ask("GET", "/v1/models", host="evil.example"), 403, "permission_error", "keys_required")


async def test_websocket_is_turned_away(house: House) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await house.api({"type": "websocket", "path": CHAT, "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
