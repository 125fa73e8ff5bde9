"""Reads a request's body within bounds, and of it only what routing needs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from deployments.errors import InvalidRequest, TooLarge, TooSlow

READ_TIMEOUT_S = 60.0


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
    """Raises: InvalidRequest if the body is not a JSON object."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return data


def model_named(data: Mapping[str, Any]) -> str:
    """The request's `model`. Raises: InvalidRequest."""
    model = data.get("model")
    if model is None:
        raise InvalidRequest("You must provide a 'model'.", param="model", code="missing_required_parameter")
    if not isinstance(model, str):
        raise InvalidRequest("'model' must be a string.", param="model", code="invalid_type")
    return model


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body is larger than {max_bytes / 2**20:g} MB.")
