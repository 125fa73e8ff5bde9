"""CORS around an app that answers, fails and streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.responses import Response, StreamingResponse

from deployments.errors import Capacity
from ingress import errors
from ingress.cors import EXPOSED, Api

PAGE = "https://page.example"
origins: tuple[str, ...] = ()
api = Api(lambda: origins)
errors.install(api)


@api.get("/full")
async def full() -> None:
    raise Capacity("No room.")


@api.get("/broken")
async def broken() -> None:
    raise RuntimeError


@api.get("/stream")
async def stream() -> Response:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@pytest.fixture(autouse=True)
def no_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch)


def allow(monkeypatch: pytest.MonkeyPatch, *allowed: str) -> None:
    monkeypatch.setitem(globals(), "origins", allowed)


async def ask(method: str, path: str, **headers: str) -> httpx.Response:
    named = {"origin": PAGE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, headers=named)


def cors_of(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


ANSWERS = [("/stream", 200), ("/full", 503), ("/broken", 500), ("/nothing", 404)]


@pytest.mark.parametrize(("path", "status"), ANSWERS)
@pytest.mark.parametrize("allowed", ["*", PAGE])
async def test_every_answer_may_be_read_by_an_allowed_page(
    monkeypatch: pytest.MonkeyPatch, path: str, status: int, allowed: str
) -> None:
    allow(monkeypatch, "https://other.example", allowed)
    answer = await ask("GET", path)
    assert answer.status_code == status
    assert cors_of(answer) == {
        "access-control-allow-origin": allowed,
        "access-control-expose-headers": ", ".join(EXPOSED),
    }


@pytest.mark.parametrize(("path", "status"), ANSWERS)
async def test_without_origins_there_is_no_cors(path: str, status: int) -> None:
    answer = await ask("GET", path)
    assert (answer.status_code, cors_of(answer)) == (status, {})
    assert (await ask("OPTIONS", "/full", access_control_request_method="GET")).status_code == 405


async def test_page_of_another_origin_may_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, "https://other.example")
    assert "access-control-allow-origin" not in cors_of(await ask("GET", "/stream"))
    assert (await ask("OPTIONS", "/stream", access_control_request_method="GET")).status_code == 400


async def test_page_may_send_what_the_sdks_send(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, PAGE)
    wanted = "authorization, content-type, x-stainless-lang, anthropic-version"
    asked = {"access_control_request_method": "POST", "access_control_request_headers": wanted}
    answer = await ask("OPTIONS", "/full", **asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-headers"] == wanted
    assert "POST" in answer.headers["access-control-allow-methods"]
