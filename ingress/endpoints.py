"""The paths of engines that clients may ask for: these, spelled so, and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import FastAPI
from starlette.requests import Request

from deployments.config import Mode
from deployments.errors import InvalidRequest
from ingress.catalog import Entry

Handler = TypeVar("Handler", bound=Callable[..., object])

_TEXT: tuple[Mode, ...] = ("chat", "completion")
_VECTORS: tuple[Mode, ...] = ("embedding", "rerank")


@dataclass(frozen=True)
class Endpoint:
    """modes: of the models that may answer."""

    path: str
    modes: tuple[Mode, ...]
    methods: tuple[str, ...] = ("POST",)

    def check(self, model: Entry) -> None:
        """Raises: InvalidRequest, if the model's mode is another one."""
        if model.mode not in self.modes:
            fit = ", ".join(endpoint.path for endpoint in ENDPOINTS if model.mode in endpoint.modes)
            raise InvalidRequest(
                f"{self.path} does not fit the model {model.name!r}, whose mode is {model.mode}: use one of {fit}.",
                param="model",
                code="wrong_mode",
            )


RESPONSES = Endpoint("/v1/responses", ("chat",))

ENDPOINTS = (
    Endpoint("/v1/chat/completions", ("chat",)),
    Endpoint("/v1/completions", _TEXT),
    RESPONSES,
    Endpoint("/v1/messages", ("chat",)),
    Endpoint("/v1/messages/count_tokens", ("chat",)),
    Endpoint("/v1/embeddings", ("embedding",)),
    Endpoint("/pooling", _VECTORS),
    Endpoint("/v1/score", _VECTORS),
    Endpoint("/score", _VECTORS),
    Endpoint("/v1/rerank", _VECTORS),
    Endpoint("/v2/rerank", _VECTORS),
    Endpoint("/rerank", _VECTORS),
    Endpoint("/v1/audio/transcriptions", ("transcription",)),
    Endpoint("/v1/audio/translations", ("transcription",)),
    Endpoint("/tokenize", (*_TEXT, *_VECTORS)),
    Endpoint("/detokenize", (*_TEXT, *_VECTORS)),
)

FOLLOW_UPS = (
    Endpoint("/v1/responses/{id}", ("chat",), ("GET",)),
    Endpoint("/v1/responses/{id}/cancel", ("chat",)),
)
"""They go to the replica that holds the response `id`."""

_BY_PATH = {endpoint.path: endpoint for endpoint in (*ENDPOINTS, *FOLLOW_UPS)}


def routes(api: FastAPI, endpoints: Iterable[Endpoint]) -> Callable[[Handler], Handler]:
    """Decorates what answers them all."""

    def decorate(handler: Handler) -> Handler:
        for endpoint in endpoints:
            api.add_api_route(endpoint.path, handler, methods=list(endpoint.methods))
        return handler

    return decorate


def endpoint_of(request: Request) -> Endpoint:
    """The endpoint whose route was taken, however the client has spelled its path."""
    return _BY_PATH[request.scope["route"].path]
