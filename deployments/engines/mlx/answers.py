"""The shapes of OpenAI's answers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.engines.mlx.choice import Delta
from deployments.engines.mlx.logprobs import chat_logprobs, completion_logprobs

DONE = b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


@dataclass
class Usage:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True)
class Frame:
    """What every chunk of one answer repeats."""

    model: str
    fingerprint: str
    prefix: str
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def wrap(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": list(choices),
        }


class ChatShape:
    """logprobs: whether they were asked for."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, *, logprobs: bool) -> None:
        self._logprobs = logprobs

    def first(self, index: int) -> list[dict[str, Any]]:
        return [self._chunk(index, {"role": "assistant", "content": ""}, Delta())]

    def chunks(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        chunks = []
        body: dict[str, Any] = {}
        if delta.reasoning:
            body["reasoning_content"] = delta.reasoning
        if delta.content:
            body["content"] = delta.content
        if body or (delta.logprobs and not delta.calls):
            chunks.append(self._chunk(index, body, delta))
            delta = Delta(calls=delta.calls, finish_reason=delta.finish_reason)
        for call in delta.calls:
            chunks.append(self._chunk(index, {"tool_calls": [call]}, delta))
            delta = Delta(finish_reason=delta.finish_reason)
        if delta.finish_reason:
            chunks.append(self._chunk(index, {}, Delta(), delta.finish_reason))
        return chunks

    def choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        calls = merge_calls(call for delta in deltas for call in delta.calls)
        content = "".join(delta.content for delta in deltas)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content or (None if calls else ""),
            "refusal": None,
        }
        if reasoning := "".join(delta.reasoning for delta in deltas):
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = calls
        entries = [entry for delta in deltas for entry in delta.logprobs]
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(entries) if self._logprobs else None,
            "finish_reason": deltas[-1].finish_reason,
        }

    def _chunk(self, index: int, body: dict[str, Any], delta: Delta, reason: str | None = None) -> dict[str, Any]:
        return {
            "index": index,
            "delta": body,
            "logprobs": chat_logprobs(delta.logprobs) if self._logprobs and delta.logprobs else None,
            "finish_reason": reason,
        }


class CompletionShape:
    """echo: the prompt of each choice, to come before its text. logprobs: how many were asked for, if any."""

    kind = chunk_kind = "text_completion"

    def __init__(self, *, echo: Sequence[str], logprobs: int | None) -> None:
        self._echo = echo
        self._logprobs = logprobs
        self._offsets: dict[int, int] = {}

    def first(self, index: int) -> list[dict[str, Any]]:
        return [self._choice(index, self._echo[index], Delta())] if self._echo else []

    def chunks(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        chunks = []
        if delta.content or delta.logprobs:
            chunks.append(self._choice(index, delta.content, delta))
        if delta.finish_reason:
            chunks.append(self._choice(index, "", Delta(finish_reason=delta.finish_reason)))
        return chunks

    def choice(self, index: int, deltas: Sequence[Delta]) -> dict[str, Any]:
        text = "".join(delta.content for delta in deltas)
        entries = [entry for delta in deltas for entry in delta.logprobs]
        whole = Delta(logprobs=entries, finish_reason=deltas[-1].finish_reason)
        return self._choice(index, (self._echo[index] if self._echo else "") + text, whole, whole=True)

    def _choice(self, index: int, text: str, delta: Delta, *, whole: bool = False) -> dict[str, Any]:
        logprobs = None
        offset = self._offsets.get(index, 0)
        if self._logprobs is not None and (delta.logprobs or whole):
            logprobs = completion_logprobs(delta.logprobs, offset, top=self._logprobs > 0)
        self._offsets[index] = offset + len(text)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish_reason}


def merge_calls(deltas: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The whole calls, from the deltas that a stream would carry."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        call = calls.get(delta["index"])
        if call is None:
            calls[delta["index"]] = {
                "id": delta["id"],
                "type": delta["type"],
                "function": dict(delta["function"]),
            }
        else:
            call["function"]["arguments"] += delta["function"]["arguments"]
    return list(calls.values())
