from __future__ import annotations

import asyncio
import json

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from deployments.errors import InvalidRequest, TooLarge, TooSlow
from ingress import body
from ingress.body import MAX_DEPTH, model_named, parse, read


class Sender:
    """A client that sends these chunks and then, if it does not end the body, nothing."""

    def __init__(self, *chunks: bytes, announced: str | None = None, ends: bool = True, leaves: bool = False) -> None:
        self.messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": not ends or i < len(chunks) - 1}
            for i, chunk in enumerate(chunks)
        ]
        if leaves:
            self.messages.append({"type": "http.disconnect"})
        headers = [] if announced is None else [(b"content-length", announced.encode("latin-1"))]
        self.request = Request({"type": "http", "method": "POST", "headers": headers}, self.receive)

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError


async def test_chunks_are_joined() -> None:
    assert await read(Sender(b"ab", b"", b"cd").request, 100) == b"abcd"


async def test_empty_body_is_empty() -> None:
    assert await read(Sender(b"").request, 100) == b""


async def test_body_of_exactly_the_limit_is_read() -> None:
    assert await read(Sender(b"abc", b"de", announced="5").request, 5) == b"abcde"


async def test_announced_length_above_the_limit_is_refused_before_anything_is_read() -> None:
    sender = Sender(b"abcdef", announced="6")
    with pytest.raises(TooLarge):
        await read(sender.request, 5)
    assert len(sender.messages) == 1


async def test_body_that_grows_above_the_limit_is_refused_at_once() -> None:
    sender = Sender(b"abc", b"def", b"ghi")
    with pytest.raises(TooLarge):
        await read(sender.request, 5)
    assert len(sender.messages) == 1, "what came after the limit was read"


async def test_message_names_the_limit_in_mb() -> None:
    with pytest.raises(TooLarge, match=r"larger than 1\.5 MB"):
        await read(Sender(announced="2000000").request, 3 * 2**19)


async def test_length_that_is_not_a_number_is_not_trusted() -> None:
    assert await read(Sender(b"abc", announced="-1").request, 5) == b"abc"


async def test_body_that_does_not_arrive_in_time_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "READ_TIMEOUT_S", 0.01)
    with pytest.raises(TooSlow):
        await read(Sender(b"abc", ends=False).request, 100)


async def test_client_that_leaves_in_the_middle_is_not_answered() -> None:
    with pytest.raises(ClientDisconnect):
        await read(Sender(b"abc", ends=False, leaves=True).request, 100)


@pytest.mark.parametrize("name", ["smol", "Qwen/Qwen3-8B", "ß", ""])
def test_model_is_found_in_the_body(name: str) -> None:
    assert model_named(parse(json.dumps({"stream": True, "model": name}).encode())) == name


def test_object_is_parsed_whole() -> None:
    assert parse(b' {"model": "a", "keep_alive": null, "stop": ["\\u00df"]}\n') == {
        "model": "a",
        "keep_alive": None,
        "stop": ["ß"],
    }


@pytest.mark.parametrize(
    ("sent", "param", "code"),
    [
        pytest.param(b"", None, "invalid_json", id="empty"),
        pytest.param(b'{"model": "a"', None, "invalid_json", id="cut off"),
        pytest.param(b'{"model": "\xff"}', None, "invalid_json", id="not UTF-8"),
        pytest.param('{"model": "a"}'.encode("utf-16"), None, "invalid_json", id="UTF-16"),
        pytest.param(rb'{"model": "\ud800"}', None, "invalid_json", id="half a character"),
        pytest.param(rb'{"model": "a", "\uDC00\ud83d": 1}', None, "invalid_json", id="halves in the wrong order"),
        pytest.param(b'["a"]', None, "invalid_json", id="a list"),
        pytest.param(b'"a"', None, "invalid_json", id="a string"),
        pytest.param(b"null", None, "invalid_json", id="null"),
        pytest.param(b'{"model": ' + b"9" * 5000 + b"}", None, "invalid_json", id="a number too long for Python"),
        pytest.param(b"{}", "model", "missing_required_parameter", id="no model"),
        pytest.param(b'{"model": null}', "model", "missing_required_parameter", id="null model"),
        pytest.param(b'{"model": 7}', "model", "invalid_type", id="number"),
        pytest.param(b'{"model": ["a"]}', "model", "invalid_type", id="list"),
    ],
)
def test_body_without_a_models_name_is_an_invalid_request(sent: bytes, param: str | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        model_named(parse(sent))
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(
    "sent", [rb'{"model": "\ud83d\ude00"}', '\ufeff{"model": "😀"}'.encode(), rb'{"model": "\\ud800"}']
)
def test_whole_characters_are_taken_however_they_are_written(sent: bytes) -> None:
    assert parse(sent)["model"] in ("😀", "\\ud800")


def nested(levels: int, opening: bytes, closing: bytes) -> bytes:
    return b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"b":', b"}")])
def test_body_nested_too_deep_is_an_invalid_request(opening: bytes, closing: bytes) -> None:
    assert parse(nested(MAX_DEPTH, opening, closing))
    assert parse(b'{"a": "' + b"[" * 1000 + b'", "b": [' + b"[], " * 1000 + b"{}]}")
    for levels in (MAX_DEPTH + 1, 900, 100_000):
        with pytest.raises(InvalidRequest):
            parse(nested(levels, opening, closing))
