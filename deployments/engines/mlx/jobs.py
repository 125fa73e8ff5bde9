"""What goes into the generator and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Sampling:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context_size: int = 20
    top_logprobs: int = 0


@dataclass(frozen=True)
class Chat:
    """messages, tools: as the chat template reads them."""

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] | None = None
    template_args: Mapping[str, Any] = field(default_factory=dict)


class Guide(Protocol):
    """Says which tokens may come next."""

    def allowed(self, last_token: int | None) -> Any:
        """A NumPy bool array over the vocabulary, after `last_token` (None before the first).

        Raises: ValueError when the grammar cannot go on.
        """


@dataclass(frozen=True)
class Job:
    """One sequence to generate. max_tokens: None is until the context is full."""

    prompt: Chat | str | Sequence[int]
    sampling: Sampling
    max_tokens: int | None
    guide: Guide | None = None


@dataclass(frozen=True)
class Started:
    """The prompt is tokenised and generation begins.

    machine, state, tool_parser: mlx-lm's splitter of reasoning, tool calls and content, where it starts, and its
    parser of a tool call's text.
    """

    prompt: Sequence[int]
    cached_tokens: int
    machine: Any
    state: str
    tool_parser: Any


@dataclass(frozen=True)
class Token:
    """top: the most likely tokens and their log probabilities, best first."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...]
    finish_reason: FinishReason | None
