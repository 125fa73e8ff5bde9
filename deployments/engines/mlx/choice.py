"""One choice of an answer, from tokens to deltas."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from deployments.engines.mlx.jobs import FinishReason, Token
from deployments.engines.mlx.logprobs import TokenLogprob
from deployments.engines.mlx.segments import Pieces, Segmenter
from deployments.engines.mlx.stops import StopMatcher


@dataclass
class Delta:
    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Choice:
    """Stop strings are looked for in the content only.

    call_reason: the finish reason after a tool call. trim: drops a space that the content begins with, as tokenizers
    put one before a first word.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        stops: StopMatcher,
        *,
        call_reason: FinishReason = "tool_calls",
        trim: bool = False,
    ) -> None:
        self._segmenter = segmenter
        self._stops = stops
        self._call_reason = call_reason
        self._trim = trim
        self._called = False
        self._content = 0  # characters of content that the tokens so far stand for
        self._released = 0  # … of which so many are sent
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        self.tokens = 0

    def add(self, token: Token, logprob: TokenLogprob | None = None) -> Delta:
        self.tokens += 1
        delta = Delta()
        self._take(delta, self._segmenter.feed(token.text))
        if token.finish_reason is not None and not self._stops.matched:
            self._take(delta, self._segmenter.close())
        if logprob is not None and token.finish_reason != "stop":
            self._waiting.append((self._content, logprob))
        self._finish(delta, token.finish_reason)
        self._released += len(delta.content)
        while self._waiting and self._waiting[0][0] <= self._released:
            delta.logprobs.append(self._waiting.popleft()[1])
        return delta

    def _take(self, delta: Delta, pieces: Pieces) -> None:
        content = pieces.content
        if self._trim and content:
            self._trim = False
            content = content.removeprefix(" ")
        self._content += len(content)
        delta.content += self._stops.feed(content)
        if not self._stops.matched:
            delta.reasoning += pieces.reasoning
            delta.calls += pieces.calls
            self._called = self._called or bool(pieces.calls)

    def _finish(self, delta: Delta, reason: FinishReason | None) -> None:
        if self._stops.matched:
            delta.finish_reason = "stop"
        elif reason is not None:
            delta.content += self._stops.flush()
            delta.finish_reason = self._call_reason if self._called and reason == "stop" else reason
