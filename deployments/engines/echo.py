"""An engine without weights: it repeats the prompt's words at a set pace.

For benchmarks, tests and dry runs of a configuration. One word is one token. An adapter puts its name before each word,
`name:word`; its folder must exist, and nothing in it is read.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from deployments import sse
from deployments.engines import EngineSpec
from deployments.engines.echo_args import EchoArgs
from deployments.engines.echo_embeddings import embeddings
from deployments.errors import ApiError, InvalidRequest, MethodNotAllowed, ModelNotFound, RouteNotFound

MAX_TOKENS = 1_000_000  # of an answer


class EchoEngine:
    def __init__(self, spec: EngineSpec) -> None:
        self._names = spec.names
        self._args = EchoArgs.model_validate(dict(spec.args))
        self._max_adapters = spec.max_adapters
        self._adapters: dict[str, bool] = {}  # whether it is loaded: false while it is loading
        self.running = 0  # answers being written
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._completions, methods=["POST"]),
        ]
        if spec.mode == "embedding":
            routes = [Route("/v1/embeddings", self._embeddings, methods=["POST"])]
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

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Raises: ValueError."""
        if name in self._names or name in self._adapters:
            raise ValueError(f"The name '{name}' is taken.")
        if len(self._adapters) >= self._max_adapters:
            raise ValueError(f"This model holds at most {self._max_adapters} adapters at a time.")
        self._adapters[name] = False
        try:
            if not await asyncio.to_thread(folder.is_dir):
                raise ValueError(f"{folder} is no folder.")
            await asyncio.sleep(self._args.adapter_seconds)
        except BaseException:
            del self._adapters[name]
            raise
        self._adapters[name] = True

    async def unload_adapter(self, name: str) -> None:
        """Raises: ModelNotFound."""
        if not self._adapters.get(name):
            raise ModelNotFound(f"No adapter named '{name}' is loaded.")
        del self._adapters[name]

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

    async def _embeddings(self, request: Request) -> Response:
        body = await _json(request)
        return JSONResponse(embeddings(body, self._args.dimensions, salt=self._mark(body)))

    def _mark(self, body: dict[str, Any]) -> str:
        """What the adapter that the request names puts before a word; nothing for the model itself.

        Raises: ModelNotFound.
        """
        name = body.get("model")
        if name in self._names:
            return ""
        if not isinstance(name, str) or not self._adapters.get(name):
            raise ModelNotFound(f"The model {name!r} is not served here.", param="model")
        return f"{name}:"

    async def _answer(self, request: Request, body: dict[str, Any], prompt: str, *, chat: bool) -> Response:
        mark = self._mark(body)
        count = self._count(body)
        answer = _Answer(body["model"], prompt, count, mark, chat=chat)
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
            headers=sse.HEADERS,
        )

    def _count(self, body: dict[str, Any]) -> int:
        for field in ("max_completion_tokens", "max_tokens"):
            count = body.get(field)
            if count is None:
                continue
            if type(count) is not int or not 1 <= count <= MAX_TOKENS:
                raise InvalidRequest(f"{field!r} must be an integer from 1 to {MAX_TOKENS}.", param=field)
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

    def __init__(self, model: str, prompt: str, count: int, mark: str, *, chat: bool) -> None:
        self._chat = chat
        self._mark = mark
        self._prompt_words = prompt.split() or ["…"]
        self._count = count
        kind = "chat.completion" if chat else "text_completion"
        self._frame = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"fp_echo_{os.getpid()}",
        }

    def words(self) -> Iterator[str]:
        return (f"{self._mark}{word} " for word in itertools.islice(itertools.cycle(self._prompt_words), self._count))

    @property
    def usage(self) -> dict[str, int]:
        prompt = len(self._prompt_words)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._count,
            "total_tokens": prompt + self._count,
        }

    def whole(self, text: str) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": "length"}
        return {**self._frame, "choices": [choice], "usage": self.usage}

    async def events(self, words: AsyncIterator[str], *, usage: bool) -> AsyncIterator[bytes]:
        frame = {**self._frame, "object": "chat.completion.chunk"} if self._chat else self._frame
        extra = {"usage": None} if usage else {}

        def event(content: dict[str, Any], finish_reason: str | None = None) -> bytes:
            choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
            return sse.event({**frame, "choices": [choice], **extra})

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
            yield sse.event({**frame, "choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"


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
