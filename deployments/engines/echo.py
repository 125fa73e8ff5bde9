"""An engine without weights: it repeats the prompt's words at a set pace.

For benchmarks, tests and dry runs of a configuration. One word is one token.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from deployments.engines import EngineSpec
from deployments.engines.echo_args import EchoArgs
from deployments.errors import ApiError, InvalidRequest, MethodNotAllowed, ModelNotFound, RouteNotFound

SSE_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EchoEngine:
    def __init__(self, spec: EngineSpec) -> None:
        self._names = spec.names
        self._args = EchoArgs.model_validate(dict(spec.args))
        self.running = 0  # answers being written
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._completions, methods=["POST"]),
        ]
        handlers: Any = {ApiError: _api_error, HTTPException: _http_exception}
        self._app = Starlette(routes=routes, exception_handlers=handlers)

    @property
    def app(self) -> ASGIApp:
        return self._app

    @property
    def context_length(self) -> None:
        return None

    def device_mb(self) -> float:
        return 0

    async def start(self) -> None:
        await asyncio.sleep(self._args.load_seconds)

    async def check_health(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def _chat(self, request: Request) -> Response:
        body = await _json(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise InvalidRequest("'messages' must be a list with at least one message.", param="messages")
        last = messages[-1]
        if not isinstance(last, dict) or not isinstance(last.get("content"), str):
            raise InvalidRequest("The content must be a string.", param=f"messages[{len(messages) - 1}].content")
        return await self._answer(request, body, last["content"], chat=True)

    async def _completions(self, request: Request) -> Response:
        body = await _json(request)
        prompt = body.get("prompt")
        if not isinstance(prompt, str):
            raise InvalidRequest("'prompt' must be a string.", param="prompt")
        return await self._answer(request, body, prompt, chat=False)

    async def _answer(self, request: Request, body: dict[str, Any], prompt: str, *, chat: bool) -> Response:
        if body.get("model") not in self._names:
            raise ModelNotFound(f"The model {body.get('model')!r} is not served here.", param="model")
        count = self._count(body)
        answer = _Answer(body["model"], prompt, count, chat=chat)
        if not body.get("stream"):
            words = [word async for word in self._paced(answer.words(), request)]
            return JSONResponse(answer.whole("".join(words)))
        options = body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise InvalidRequest("'stream_options' must be an object.", param="stream_options")
        usage = bool(options.get("include_usage"))
        return StreamingResponse(
            answer.events(self._paced(answer.words(), request), usage=usage),
            media_type="text/event-stream",
            headers=SSE_HEADERS,
        )

    def _count(self, body: dict[str, Any]) -> int:
        for field in ("max_completion_tokens", "max_tokens"):
            count = body.get(field)
            if count is None:
                continue
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise InvalidRequest(f"{field!r} must be a positive integer.", param=field)
            return count
        return self._args.tokens

    async def _paced(self, words: Iterator[str], request: Request) -> AsyncIterator[str]:
        """The words, each `interval_ms` after the one before; ends early when the client has gone."""
        interval = self._args.interval_ms / 1000
        due = time.monotonic()
        self.running += 1
        try:
            for word in words:
                due += interval
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if interval and await request.is_disconnected():
                    return
                yield word
        finally:
            self.running -= 1


class _Answer:
    """One answer in OpenAI's shapes."""

    def __init__(self, model: str, prompt: str, count: int, *, chat: bool) -> None:
        self._chat = chat
        self._prompt_words = prompt.split() or ["…"]
        self._count = count
        kind = "chat.completion" if chat else "text_completion"
        self._frame = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": "fp_echo",
        }

    def words(self) -> Iterator[str]:
        return (f"{word} " for word in itertools.islice(itertools.cycle(self._prompt_words), self._count))

    @property
    def usage(self) -> dict[str, int]:
        prompt = len(self._prompt_words)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._count,
            "total_tokens": prompt + self._count,
        }

    def whole(self, text: str) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": "length"}
        return {**self._frame, "choices": [choice], "usage": self.usage}

    async def events(self, words: AsyncIterator[str], *, usage: bool) -> AsyncIterator[bytes]:
        frame = {**self._frame, "object": "chat.completion.chunk"} if self._chat else self._frame
        extra = {"usage": None} if usage else {}

        def event(content: dict[str, Any], finish_reason: str | None = None) -> bytes:
            choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
            return _sse({**frame, "choices": [choice], **extra})

        # One serialisation an answer, not one a token: the pace is what this engine is for.
        mark = "\u0000"
        content = {"delta": {"content": mark}} if self._chat else {"text": mark}
        before, after = event(content).split(json.dumps(mark)[1:-1].encode())
        if self._chat:
            yield event({"delta": {"role": "assistant", "content": ""}})
        async for word in words:
            yield before + json.dumps(word)[1:-1].encode() + after
        yield event({"delta": {}} if self._chat else {"text": ""}, finish_reason="length")
        if usage:
            yield _sse({**frame, "choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"


def _sse(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return body


def _api_error(_: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers())


def _http_exception(request: Request, error: HTTPException) -> Response:
    kind = MethodNotAllowed if error.status_code == 405 else RouteNotFound
    return _api_error(request, kind(f"{request.method} {request.url.path} is not a route of this model."))
