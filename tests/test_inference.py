from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message

from deployments.errors import InvalidRequest, TooLarge
from ingress import inference
from ingress.inference import Asked

FORM = "multipart/form-data; boundary=xx"
FIELD = b'--xx\r\nContent-Disposition: form-data; name="model"\r\n\r\nears\r\n--xx--\r\n'


async def read(body: bytes, query: bytes = b"", content_type: str = "application/json", **headers: str) -> Asked:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    headers = {"content-type": content_type, **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "POST", "query_string": query, "headers": raw}, receive)
    return await inference.read(request, 1000, 600)


async def test_body_that_says_all_stays_as_it_is() -> None:
    body = b'{ "model":"a",  "x": "\\u00df"}\n'
    assert await read(body, b"model=b") == Asked("a", body, None, {"model": "a", "x": "ß"})


@pytest.mark.parametrize("body", [b"{}", b'{"model": null}'])
async def test_model_of_the_query_is_written_into_a_body_that_names_none(body: bytes) -> None:
    asked = await read(body, b"model=a%2Fb")
    assert asked.model == "a/b"
    assert json.loads(asked.body) == {"model": "a/b"}


async def test_keep_alive_is_taken_out_of_the_body() -> None:
    asked = await read(b'{"model": "a", "keep_alive": "5m"}')
    assert (asked.keep_alive_s, json.loads(asked.body)) == (300, {"model": "a"})


async def test_form_goes_on_as_it_is_and_its_keep_alive_is_the_header() -> None:
    assert await read(FIELD, content_type=FORM, x_keep_alive="5m") == Asked("ears", FIELD, 300)


async def test_model_of_the_query_serves_a_form_that_names_none() -> None:
    assert (await read(b"--xx--\r\n", b"model=a", FORM)).model == "a"
    assert (await read(FIELD, b"model=a", FORM)).model == "ears"


@pytest.mark.parametrize(
    ("body", "query", "content_type", "code"),
    [
        (b"{}", b"", "application/json", "missing_required_parameter"),
        (b"{}", b"models=a", "application/json", "missing_required_parameter"),
        (b"--xx--\r\n", b"", FORM, "missing_required_parameter"),
        (b'{"model": 1}', b"model=a", "application/json", "invalid_type"),
        (b"", b"model=a", "application/json", "invalid_json"),
        (b"model=a", b"", "application/x-www-form-urlencoded", "invalid_json"),
        (b"{}", b"model=a", FORM, "invalid_form"),
    ],
)
async def test_request_without_a_readable_model_is_invalid(
    body: bytes, query: bytes, content_type: str, code: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await read(body, query, content_type)
    assert caught.value.code == code


ANN, BOB, EVE = {"x-session-id": "ann"}, {"prompt_cache_key": "bob"}, {"user": "eve"}


@pytest.mark.parametrize(
    ("headers", "data", "session"),
    [
        pytest.param({}, {}, "", id="of nobody"),
        pytest.param(ANN, BOB | EVE, "ann", id="the header comes first"),
        pytest.param({}, EVE | BOB, "bob", id="then the key of the prompt cache"),
        pytest.param({}, EVE, "eve", id="then the user"),
        pytest.param({"x-session-id": ""}, EVE, "eve", id="an empty header says nothing"),
        pytest.param({}, {"prompt_cache_key": ""} | EVE, "eve", id="nor does an empty key"),
        pytest.param({}, {"prompt_cache_key": None} | EVE, "eve", id="nor null"),
        pytest.param({}, {"prompt_cache_key": 7, "user": ["eve"]}, "", id="nor what is no text"),
    ],
)
async def test_session_is_what_the_request_says_first(
    headers: dict[str, str], data: dict[str, Any], session: str
) -> None:
    asked = await read(json.dumps({"model": "a", **data}).encode())
    assert asked.session(Headers(headers)) == session


async def test_session_of_a_form_is_its_header() -> None:
    asked = await read(FIELD, content_type=FORM)
    assert asked.session(Headers({"X-Session-Id": "ann"})) == "ann"
    assert asked.session(Headers({})) == ""


async def test_form_is_bounded_as_other_bodies_are() -> None:
    with pytest.raises(TooLarge):
        await read(FIELD + b"x" * 1000, content_type=FORM)
