"""One answer of a model: asked for, shown as it comes, and measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ingress.cli import events, loading
from ingress.cli.client import Client
from ingress.cli.failures import Refused

PATH = "/v1/chat/completions"
DONE = "[DONE]"
Message = Mapping[str, str]


@dataclass(frozen=True)
class Settings:
    """Of all requests of a run. None is the server's own."""

    model: str
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None

    def body(self, messages: Sequence[Message]) -> dict[str, Any]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        given = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {
            "model": self.model,
            "messages": [*system, *messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in given.items() if value is not None},
        }


class Screen(Protocol):
    """Where an answer is shown."""

    def chunk(self, data: str) -> None:
        """As the server sent it."""

    def reasoning(self, text: str) -> None: ...

    def content(self, text: str) -> None: ...

    def end(self) -> None: ...


@dataclass
class Answer:
    """What has come so far. Times are of time.perf_counter."""

    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float | None = None
    text: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    finish_reason: str | None = None

    def figures(self) -> str:
        """`first token after 0.35 s; 24 tokens in 1.20 s, 20.0 tokens/s; prompt: 12 tokens; end: stop`."""
        told = [] if self.first is None else [f"first token after {self.first - self.began:.2f} s"]
        if self.usage:
            told.append(self._pace(self.usage["completion_tokens"]))
            told.append(f"prompt: {self.usage['prompt_tokens']} tokens")
        return "; ".join([*told, f"end: {self.finish_reason or 'none'}"])

    def _pace(self, tokens: int) -> str:
        """The first token's time is not the pace's."""
        seconds = (self.last or 0.0) - (self.first or 0.0)
        pace = f", {(tokens - 1) / seconds:.1f} tokens/s" if tokens > 1 and seconds > 0 else ""
        return f"{tokens} tokens in {seconds:.2f} s{pace}"


def ask(client: Client, settings: Settings, messages: Sequence[Message], screen: Screen, answer: Answer) -> None:
    """Fills the answer, which is what there is of it if this raises.

    Raises: Refused, NotAllowed, Unreachable; KeyboardInterrupt, which stops the model too.
    """
    try:
        with (
            loading.told(client, settings.model) as loaded,
            client.stream("POST", PATH, settings.body(messages)) as stream,
        ):
            for data in stream:
                loaded()
                if data == DONE:
                    return
                screen.chunk(data)
                _take(events.parse(data), answer, screen)
        raise Refused("The answer broke off.")
    finally:
        screen.end()


def _take(chunk: Mapping[str, Any], answer: Answer, screen: Screen) -> None:
    answer.usage = chunk.get("usage") or answer.usage
    for choice in chunk.get("choices", ()):
        delta = choice["delta"]
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        content = delta.get("content")
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        if reasoning or content:
            answer.last = time.perf_counter()
            answer.first = answer.first or answer.last
        if reasoning:
            screen.reasoning(reasoning)
        if content:
            answer.text += content
            screen.content(content)
