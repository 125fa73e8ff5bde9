"""ingress/proxy.py around apps that answer whole, in part, or not at all, as Serve's proxy does when a replica dies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from ingress import proxy
from ingress.proxy import Unbroken

CHAT = "/v1/chat/completions"
STREAM = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}
PIECE = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}


def chunk(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


WHOLE = [STREAM, chunk(b"data: 1\n\n", more=True), chunk(b"data: [DONE]\n\n", more=False)]


class Proxy:
    """Answers each request with the next of the given answers, and reads the request before."""

    def __init__(self, *answers: list[Message]) -> None:
        self._answers = list(answers)
        self.read: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        self.read.append(body)
        for message in self._answers.pop(0):
            await send(message)


async def ask(
    app: Proxy, path: str = CHAT, *, method: str = "POST", body: tuple[bytes, ...] = (b"a", b"b"), gone: bool = False
) -> list[Message]:
    """What the client gets. gone: it hangs up in the middle of its request."""
    sent: list[Message] = []
    messages: list[Message] = [
        {"type": "http.request", "body": part, "more_body": gone or number < len(body) - 1}
        for number, part in enumerate(body)
    ]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await Unbroken(app)({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    return sent


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "PAUSE_S", 0)


async def test_answer_that_is_whole_is_left_as_it_is() -> None:
    app = Proxy(WHOLE)
    assert await ask(app) == WHOLE
    assert app.read == [b"ab"]


async def test_request_that_was_not_answered_is_sent_again_whole() -> None:
    app = Proxy([], [], WHOLE)
    assert await ask(app) == WHOLE
    assert app.read == [b"ab"] * 3


async def test_request_that_nobody_answers_is_an_error_in_openais_shape() -> None:
    start, body = await ask(Proxy(*[[]] * proxy.TRIES))
    assert start["status"] == 503
    assert json.loads(body["body"])["error"]["code"] == "engine_failed"


async def test_stream_that_had_begun_ends_with_an_error_event_and_is_not_sent_again() -> None:
    app = Proxy([STREAM, chunk(b"data: 1\n\nda", more=True)])
    *_, last = await ask(app)
    assert not last["more_body"]
    assert last["body"].startswith(b"\n\ndata: "), "the torn event is ended first"
    assert json.loads(last["body"].strip().removeprefix(b"data: "))["error"]["code"] == "engine_failed"
    assert len(app.read) == 1


async def test_anthropics_stream_ends_with_anthropics_event() -> None:
    *_, last = await ask(Proxy([STREAM, chunk(b"data: 1\n\n", more=True)]), "/prefix/v1/messages")
    assert last["body"].startswith(b"event: error\ndata: ")


async def test_answer_in_one_piece_that_broke_off_is_not_added_to() -> None:
    torn = [PIECE, chunk(b'{"a"', more=True)]
    assert await ask(Proxy(torn)) == torn


async def test_client_that_has_gone_is_not_asked_for_again() -> None:
    app = Proxy([])
    assert await ask(app, gone=True) == []
    assert len(app.read) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/org/a"),
        ("HEAD", "/prefix/api/usage"),
        ("POST", "/api/models/org/a/start"),
        ("POST", "/prefix/api/models/stop-all"),
    ],
)
async def test_what_may_be_done_twice_is_asked_again(method: str, path: str) -> None:
    app = Proxy([], WHOLE)
    assert await ask(app, path, method=method) == WHOLE
    assert len(app.read) == 2


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/pay"), ("POST", "/prefix/v1/responses/a/cancel")])
async def test_what_may_not_be_done_twice_is_not(method: str, path: str) -> None:
    app = Proxy([], WHOLE)
    start, body = await ask(app, path, method=method)
    assert start["status"] == 503
    assert json.loads(body["body"])["error"]["code"] == "engine_failed"
    assert len(app.read) == 1


async def test_operators_learn_it_in_their_shape() -> None:
    _, body = await ask(Proxy(*[[]] * proxy.TRIES), "/prefix/api/models/a/stop")
    assert json.loads(body["body"])["success"] is False


async def test_other_applications_are_left_alone() -> None:
    app = Proxy([])
    assert await ask(app, "/other") == []
    assert len(app.read) == 1


async def test_body_that_is_too_large_to_keep_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "KEPT_BYTES", 1)
    app = Proxy([])
    start, _ = await ask(app)
    assert start["status"] == 503
    assert len(app.read) == 1


def test_serve_finds_the_middleware_by_the_name_in_its_environment() -> None:
    from ray._common.utils import import_attr

    from deployments.environment import SERVING

    callback: Callable[[], Any] = import_attr(SERVING["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])
    (middleware,) = callback()
    assert middleware.cls is Unbroken
