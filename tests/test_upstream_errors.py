from __future__ import annotations

import json
from typing import Any

import pytest

from ingress.upstream_errors import MAX_TEXT, normalised

PATH = "/v1/embeddings"
BAD, MISSING, SERVER = "invalid_request_error", "not_found_error", "server_error"
FAILED = "The model's engine failed to answer this request."
LONG = "This model's maximum context length is 256 tokens. However, you requested 4096 output tokens."


def error(message: str, type_: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"message": message, "type": type_, "param": param, "code": code}


def told(status: int, said: Any, path: str = PATH) -> tuple[int, dict[str, Any]]:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    answer = normalised(status, body, path)
    assert answer is not None
    return answer.status, json.loads(answer.body)


def vllms(message: str, type_: str, code: int, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (400, vllms("n must be 1", "BadRequestError", 400, "n"), error("n must be 1", BAD, "n", "invalid_value")),
        (
            400,
            vllms(LONG, "BadRequestError", 400, "input_text"),
            error(LONG, BAD, "input_text", "context_length_exceeded"),
        ),
        (
            400,
            vllms(
                "The decoder prompt (length 9) is longer than the maximum model length of 8.", "BadRequestError", 400
            ),
            error(
                "The decoder prompt (length 9) is longer than the maximum model length of 8.",
                BAD,
                None,
                "context_length_exceeded",
            ),
        ),
        (
            400,
            vllms("Field required", "Bad Request", 400, "body.messages.0.UserMessage.role"),
            error("Field required", BAD, "messages[0].role", "invalid_value"),
        ),
        (
            404,
            vllms("The model `x` does not exist.", "NotFoundError", 404, "model"),
            error("The model `x` does not exist.", MISSING, "model", "model_not_found"),
        ),
        (404, vllms("No such file.", "NotFoundError", 404), error("No such file.", MISSING, None, "not_found")),
        (
            404,
            vllms("Response with id 'r' not found.", "NotFoundError", 404),
            error("Response with id 'r' not found.", MISSING, None, "response_not_found"),
        ),
        (
            400,
            {"object": "error", "message": "no", "type": "BadRequestError", "param": None, "code": 40303},
            error("no", BAD, None, "invalid_value"),
        ),
        (
            400,
            {"type": "error", "error": {"type": "BadRequestError", "message": "no"}},
            error("no", BAD, None, "invalid_value"),
        ),
        (400, {"error": "a text"}, error("a text", BAD, None, "invalid_value")),
        (400, {"error": {"message": "m", "type": "x", "code": "own"}}, error("m", BAD, None, "own")),
        (400, {"error": {"message": "m", "type": "x", "code": "400"}}, error("m", BAD, None, "invalid_value")),
        (400, {"detail": "There was an error"}, error("There was an error", BAD, None, "invalid_value")),
        (
            422,
            {"detail": [{"type": "missing", "loc": ["body", "messages", 2, "role"], "msg": "Field required"}]},
            error("Field required", BAD, "messages[2].role", "missing_required_parameter"),
        ),
        (
            422,
            {"detail": [{"type": "json_invalid", "loc": ["body", 1], "msg": "JSON decode error"}]},
            error("JSON decode error", BAD, None, "invalid_json"),
        ),
        (400, b"no such thing\n", error("no such thing", BAD, None, "invalid_value")),
        (400, "a JSON text", error("a JSON text", BAD, None, "invalid_value")),
        (400, b"", error("The model's engine refused this request.", BAD, None, "invalid_value")),
        (400, b"<html>no</html>", error("The model's engine refused this request.", BAD, None, "invalid_value")),
        (400, [1], error("[1]", BAD, None, "invalid_value")),
        (400, {"detail": None}, error("The model's engine refused this request.", BAD, None, "invalid_value")),
        (
            400,
            {"error": {"message": 3, "code": []}},
            error("The model's engine refused this request.", BAD, None, "invalid_value"),
        ),
        (401, {"error": "no"}, error("no", "authentication_error", None, None)),
        (403, {"error": "no"}, error("no", "permission_error", None, None)),
        (405, {"detail": "Method Not Allowed"}, error("Method Not Allowed", BAD, None, "method_not_allowed")),
        (413, {"error": "no"}, error("no", BAD, None, "request_too_large")),
        (415, {"detail": "Unsupported"}, error("Unsupported", BAD, None, "invalid_value")),
        (429, {"error": "slow down"}, error("slow down", "rate_limit_error", None, "queue_full")),
        (500, vllms("dead", "InternalServerError", 500), error("dead", SERVER, None, "internal_error")),
        (500, b"Internal Server Error", error(FAILED, SERVER, None, "internal_error")),
        (500, {"detail": "KeyError: 'x'"}, error(FAILED, SERVER, None, "internal_error")),
        (500, b"", error(FAILED, SERVER, None, "internal_error")),
        (
            500,
            vllms("Traceback (most recent call last):\n  File", "InternalServerError", 500),
            error(FAILED, SERVER, None, "internal_error"),
        ),
        (502, {"error": "gone"}, error("gone", SERVER, None, "engine_failed")),
        (503, vllms("busy", "ServiceUnavailable", 503), error("busy", SERVER, None, "engine_failed")),
        (504, {}, error(FAILED, SERVER, None, "timeout")),
    ],
)
def test_error_of_an_engine_gets_the_contracts_shape(status: int, said: Any, expected: dict[str, Any]) -> None:
    assert told(status, said) == (400 if status == 422 else status, {"error": expected})


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, {"detail": "Not Found"}),
        (404, b"Not Found"),
        (404, vllms("Not Found", "Not Found", 404)),
        (404, {"error": error("POST /v1/embeddings is not a route of this model.", MISSING, None, "route_not_found")}),
    ],
)
def test_path_that_the_engine_has_not_got_is_a_wrong_mode(status: int, said: Any) -> None:
    message = f"{PATH} does not fit this model: its engine does not serve that path."
    assert told(status, said) == (400, {"error": error(message, BAD, "model", "wrong_mode")})


def test_api_that_the_engine_has_not_got_is_a_wrong_mode_in_its_words() -> None:
    said = vllms("The model does not support Responses API", "NotImplementedError", 501)
    expected = error("The model does not support Responses API", BAD, "model", "wrong_mode")
    assert told(501, said) == (400, {"error": expected})


@pytest.mark.parametrize("code", ["invalid_value", None])
@pytest.mark.parametrize(
    "type_", [BAD, MISSING, SERVER, "rate_limit_error", "authentication_error", "permission_error"]
)
def test_our_shape_is_left_as_it_is(type_: str, code: str | None) -> None:
    body = json.dumps({"error": {**error("m", type_, None, code), "loading": {}}, "more": 1}, indent=2).encode()
    assert normalised(400, body, PATH) is None


def test_under_messages_the_error_is_anthropics_too() -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        said = {"type": "error", "error": {"type": "BadRequestError", "message": "no"}}
        expected = error("no", BAD, None, "invalid_value")
        assert told(400, said, path) == (400, {"type": "error", "error": expected})
        assert told(400, {"error": expected, "more": 1}, path) == (400, {"type": "error", "error": expected, "more": 1})
        assert normalised(400, json.dumps({"type": "error", "error": expected}).encode(), path) is None


def test_long_text_is_cut() -> None:
    assert told(400, b"x" * 10_000)[1]["error"]["message"] == "x" * MAX_TEXT


def test_body_nested_too_deep_is_a_text() -> None:
    assert told(400, b'{"a":' * 100_000)[0] == 400
