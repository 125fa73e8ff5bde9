"""Reads a request's body within bounds, and of it only what routing needs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from deployments.errors import InvalidRequest, TooLarge, TooSlow

READ_TIMEOUT_S = 60.0
MAX_DEPTH = 200  # lists and objects within each other: far from where reading or writing them ends Python's stack

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character that JSON writes as two escapes


async def read(request: Request, max_bytes: int) -> bytes:
    """The whole body.

    Raises: TooLarge above `max_bytes`, before it is read where the length is announced; TooSlow after READ_TIMEOUT_S;
    ClientDisconnect.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise TooSlow(f"The body did not arrive within {READ_TIMEOUT_S:g} s.") from None


def parse(body: bytes) -> dict[str, Any]:
    """Raises: InvalidRequest if the body is not a JSON object in UTF-8."""
    try:
        text = body.decode("utf-8-sig")
        data = json.loads(text)
        if _HALF.search(text):
            json.dumps(data, ensure_ascii=False).encode()  # half a character is no text: nobody could answer with it
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(data):
        raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")
    return data


def model_named(data: Mapping[str, Any]) -> str:
    """The request's `model`. Raises: InvalidRequest."""
    model = data.get("model")
    if model is None:
        raise InvalidRequest("You must provide a 'model'.", param="model", code="missing_required_parameter")
    if not isinstance(model, str):
        raise InvalidRequest("'model' must be a string.", param="model", code="invalid_type")
    return model


def _is_deep(data: dict[str, Any]) -> bool:
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        inside = (one for outer in level for one in (outer.values() if isinstance(outer, dict) else outer))
        level = [one for one in inside if isinstance(one, dict | list)]
    return bool(level)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body is larger than {max_bytes / 2**20:g} MB.")
