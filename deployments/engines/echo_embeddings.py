"""Vectors without weights: the same text has the same vector, and another one another."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Any

from deployments.errors import InvalidRequest


def embeddings(body: dict[str, Any], width: int, salt: str) -> dict[str, Any]:
    """OpenAI's answer. width: of a vector, where the request sets no `dimensions`.

    Raises: InvalidRequest.
    """
    texts = _inputs(body.get("input"))
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise InvalidRequest("'encoding_format' must be 'float' or 'base64'.", param="encoding_format")
    count = width if body.get("dimensions") is None else body["dimensions"]
    if type(count) is not int or not 1 <= count <= width:
        raise InvalidRequest(f"'dimensions' must be an integer from 1 to {width}.", param="dimensions")
    tokens = sum(len(text.split()) if isinstance(text, str) else len(text) for text in texts)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(_vector(f"{salt}{text}", count), encoding)}
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def _inputs(given: Any) -> list[str | list[int]]:
    if isinstance(given, str) and given:
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(item, str) and item for item in given) or all(_is_tokens(item) for item in given):
            return given
        if _is_tokens(given):
            return [given]
    raise InvalidRequest("'input' must be text, token ids or a list of either.", param="input")


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _vector(text: str, count: int) -> list[float]:
    """Of length 1."""
    digest = hashlib.shake_256(text.encode()).digest(4 * count)
    numbers = struct.unpack(f"<{count}i", digest)
    length = math.hypot(*numbers) or 1.0
    return [number / length for number in numbers]


def _encoded(vector: list[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
