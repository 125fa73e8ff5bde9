"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.engines.mlx.embedder import Embedder, Vector
from deployments.engines.mlx.protocol import EmbeddingRequest
from deployments.engines.mlx.routing import application, guarded
from deployments.engines.mlx.validation import parse
from deployments.errors import InvalidRequest, ModelNotFound
from deployments.hangup import unless_gone

MAX_INPUTS = 2048
"""OpenAI's."""


@dataclass(frozen=True)
class EmbeddingModel:
    """normalize: its vectors' length is 1. matryoshka: whether a vector's beginning is a vector too: the lengths it
    may have, or True for any."""

    names: tuple[str, ...]
    embedder: Embedder
    tokenizer: Any
    context_length: int
    vocabulary_size: int
    normalize: bool
    matryoshka: Sequence[int] | bool


def build_app(model: EmbeddingModel) -> Starlette:
    @guarded
    async def embeddings(request: Request) -> Response:
        body = parse(EmbeddingRequest, await request.body())
        return JSONResponse(await unless_gone(request.receive, embed(body, model)))

    async def health(_: Request) -> Response:
        model.embedder.check()
        return JSONResponse({"status": "ok"})

    return application(
        [Route("/v1/embeddings", embeddings, methods=["POST"]), Route("/health", health, methods=["GET"])]
    )


async def embed(request: EmbeddingRequest, model: EmbeddingModel) -> dict[str, Any]:
    """Raises: InvalidRequest, ModelNotFound, EngineFailed."""
    if request.model not in model.names:
        raise ModelNotFound(f"The model '{request.model}' is not served here.", param="model")
    if (given := len(request.inputs)) > MAX_INPUTS:
        raise InvalidRequest(f"Invalid 'input': {given} inputs are more than {MAX_INPUTS}.", param="input")
    _check_dimensions(request.dimensions, model)
    texts = await asyncio.to_thread(_tokens, request, model)
    for i, tokens in enumerate(texts):
        _check_length(len(tokens), model, _path(request, i))
    vectors = await model.embedder.embed(texts)
    if request.dimensions is not None:
        vectors = [_shortened(vector, request.dimensions, model) for vector in vectors]
    count = sum(map(len, texts))
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": _encoded(vector, request)}
            for i, vector in enumerate(vectors)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def _path(request: EmbeddingRequest, index: int) -> str:
    several = isinstance(request.input, list) and not isinstance(request.input[0], int)
    return f"input[{index}]" if several else "input"


def _check_dimensions(dimensions: int | None, model: EmbeddingModel) -> None:
    if dimensions is None:
        return
    if model.matryoshka is False:
        raise InvalidRequest(
            "This model's vectors have a fixed length: leave 'dimensions' out.",
            param="dimensions",
            code="unsupported_parameter",
        )
    width = model.embedder.width
    if dimensions > width:
        raise InvalidRequest(f"Invalid 'dimensions': this model has {width}.", param="dimensions")
    if model.matryoshka is not True and dimensions not in model.matryoshka:
        allowed = ", ".join(map(str, model.matryoshka))
        raise InvalidRequest(f"Invalid 'dimensions': this model allows {allowed}.", param="dimensions")


def _tokens(request: EmbeddingRequest, model: EmbeddingModel) -> list[list[int]]:
    """Raises: InvalidRequest."""
    for i, given in enumerate(request.inputs):
        if given == "":
            raise InvalidRequest("Invalid 'input': a text is empty.", param=_path(request, i))
        _check_tokens(given, model, _path(request, i))
    if isinstance(request.inputs[0], str):
        encoded = model.tokenizer(request.inputs, padding=False, truncation=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]
    return [list(map(int, tokens)) for tokens in request.inputs]


def _check_tokens(given: str | list[int], model: EmbeddingModel, path: str) -> None:
    if isinstance(given, str):
        return
    for token in given:
        if not 0 <= token < model.vocabulary_size:
            raise InvalidRequest(
                f"Invalid '{path}': token {token} is not one of this model's {model.vocabulary_size}.", param=path
            )


def _check_length(length: int, model: EmbeddingModel, path: str) -> None:
    if length > model.context_length:
        raise InvalidRequest(
            f"This model's maximum context length is {model.context_length} tokens, but the input has {length}.",
            param=path,
            code="context_length_exceeded",
        )
    if length == 0:
        raise InvalidRequest("Invalid 'input': a text has no tokens.", param=path)


def _shortened(vector: Vector, dimensions: int, model: EmbeddingModel) -> Vector:
    short = vector[:dimensions]
    return short / max(float(np.linalg.norm(short)), 1e-12) if model.normalize else short


def _encoded(vector: Vector, request: EmbeddingRequest) -> list[float] | str:
    if request.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    floats: list[float] = vector.tolist()
    return floats
