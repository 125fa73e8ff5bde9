"""Error answers of engines, brought to the contract's shape. Pure functions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from deployments.config import path_of
from deployments.errors import error_body
from ingress.errors import shaped

MAX_TEXT = 1000  # characters of an answer that is no JSON

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_OUR_TYPES = frozenset({*_TYPES.values(), "invalid_request_error", "server_error"})
_CODES = {
    401: None,
    403: None,
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    429: "queue_full",
    500: "internal_error",
    504: "timeout",
}
_TOO_LONG = re.compile(
    r"(maximum|model'?s?) (context|model) length|context[ _](window|length)[ _]exceed", re.IGNORECASE
)
_NO_MODEL = re.compile(r"\bmodel\b.*\bdoes not exist\b", re.IGNORECASE)
_NO_RESPONSE = re.compile(r"\bresponse\b.*\bnot found\b", re.IGNORECASE)
_NO_ROUTE = frozenset({"not found", "not found."})
_FAILED = "The model's engine failed to answer this request."


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


@dataclass(frozen=True)
class _Said:
    """What an engine said in whatever shape. own: whether in an error object, and so for clients to read."""

    message: str = ""
    param: str | None = None
    code: str | None = None
    own: bool = False


def normalised(status: int, body: bytes, path: str) -> Answer | None:
    """The answer to a request for `path` in the contract's shape; None if it has that already.

    status: 400 or more.
    """
    data = _json(body)
    said = _said(data, body)
    if _is_missing_route(status, said):
        message = f"{path} does not fit this model: its engine does not serve that path."
        return _answer(400, path, message, "invalid_request_error", "model", "wrong_mode")
    if _is_ours(data):
        whole = shaped({"error": data["error"]}, path)
        return None if whole.keys() <= data.keys() else Answer(status, json.dumps({**data, **whole}).encode())
    if status == 501:  # what vLLM says of an API that its model has not got
        message = said.message or f"{path} does not fit this model."
        return _answer(400, path, message, "invalid_request_error", "model", "wrong_mode")
    if status >= 500:
        return _answer(status, path, _safe(said), "server_error", said.param, said.code or _code(status, ""))
    status = 400 if status == 422 else status
    message = said.message or "The model's engine refused this request."
    type_ = _TYPES.get(status, "invalid_request_error")
    return _answer(status, path, message, type_, said.param, said.code or _code(status, message))


def _answer(status: int, path: str, message: str, type_: str, param: str | None, code: str | None) -> Answer:
    return Answer(status, json.dumps(shaped(error_body(message, type_, param, code), path)).encode())


def _is_ours(data: Any) -> bool:
    error = data.get("error") if isinstance(data, dict) else None
    return (
        isinstance(error, dict)
        and error.keys() >= {"message", "type", "param", "code"}
        and isinstance(error["message"], str)
        and error["type"] in _OUR_TYPES
        and (error["param"] is None or isinstance(error["param"], str))
        and (error["code"] is None or isinstance(error["code"], str))
    )


def _is_missing_route(status: int, said: _Said) -> bool:
    return status == 404 and (said.code == "route_not_found" or said.message.lower() in _NO_ROUTE)


def _safe(said: _Said) -> str:
    return said.message if said.own and said.message and "Traceback (most recent" not in said.message else _FAILED


def _code(status: int, message: str) -> str | None:
    if status == 400 and _TOO_LONG.search(message):
        return "context_length_exceeded"
    if status == 404 and _NO_MODEL.search(message):
        return "model_not_found"
    if status == 404 and _NO_RESPONSE.search(message):
        return "response_not_found"
    return _CODES.get(status, "invalid_value" if status < 500 else "engine_failed")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _said(data: Any, body: bytes) -> _Said:
    if not isinstance(data, dict):
        return _Said(_text(data if isinstance(data, str) else body.decode(errors="replace")))
    if "detail" in data:
        return _of_detail(data["detail"])
    error = data.get("error", data)
    if isinstance(error, str):
        return _Said(error.strip(), own=True)
    if not isinstance(error, dict):
        return _Said()
    message, param, code = (error.get(key) for key in ("message", "param", "code"))
    return _Said(
        message.strip() if isinstance(message, str) else "",
        _param(param) if isinstance(param, str) else None,
        code if isinstance(code, str) and not code.isdecimal() else None,
        own=True,
    )


def _of_detail(detail: Any) -> _Said:
    """FastAPI's: a text, or a list of {type, loc, msg}."""
    if isinstance(detail, str):
        return _Said(detail.strip())
    first = detail[0] if isinstance(detail, list) and detail else None
    if not isinstance(first, dict):
        return _Said()
    location = [part for part in first.get("loc", ()) if isinstance(part, int | str)]
    codes = {"missing": "missing_required_parameter", "json_invalid": "invalid_json"}
    code = codes.get(first.get("type", ""))
    param = None if code == "invalid_json" else path_of(location[1:]) or None
    return _Said(str(first.get("msg", "")), param, code)


def _param(text: str) -> str | None:
    """`body.messages.0.UserMessage.role`, as vLLM writes it → `messages[0].role`."""
    parts = [part for part in text.removeprefix("body.").split(".") if not part[:1].isupper()]
    return path_of([int(part) if part.isdecimal() else part for part in parts]) or None


def _text(text: str) -> str:
    text = text.strip()
    return "" if text.startswith("<") else text[:MAX_TEXT]
