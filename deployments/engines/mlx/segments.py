"""Splits an answer's text into content, reasoning and tool calls."""

from __future__ import annotations

import json
import logging
import re
import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlx_lm.generate import TextStateMachine
from mlx_lm.server import ToolCallFormatter

log = logging.getLogger("ray.serve.llm_manager")


@dataclass
class Pieces:
    """calls: deltas as OpenAI streams them, each with its call's `index`."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)


class Segmenter(Protocol):
    def feed(self, text: str) -> Pieces: ...

    def close(self) -> Pieces:
        """What was held back, once no more text comes."""


class PlainSegmenter:
    """All is content."""

    def feed(self, text: str) -> Pieces:
        return Pieces(content=text)

    def close(self) -> Pieces:
        return Pieces()


class TemplateSegmenter:
    """Reads the marks of the model's own chat template, through mlx-lm's state machine and tool parsers.

    tools: None where the request shows the model none; a call that it makes up is then content.
    """

    def __init__(self, machine: Any, state: str, tool_parser: Any, tools: list[dict[str, Any]] | None) -> None:
        self._state = machine.make_state(state)
        self._was = state
        self._format = ToolCallFormatter(tool_parser, tools, streaming=True) if tools else None
        self._call = ""

    def feed(self, text: str) -> Pieces:
        self._state, segments = TextStateMachine.split(self._state, text)
        return self._collect(segments)

    def close(self) -> Pieces:
        self._state, held, state = TextStateMachine.flush(self._state)
        pieces = self._collect([(state, held)])
        if self._call:
            self._finish_call(pieces)
        return pieces

    def _collect(self, segments: list[tuple[str, str]]) -> Pieces:
        pieces = Pieces()
        for state, text in segments:
            if self._was == "tool" and state != "tool":
                self._finish_call(pieces)
            self._was = state
            if state == "tool":
                self._call += text
            elif state == "reasoning":
                pieces.reasoning += text
            else:
                pieces.content += text
        return pieces

    def _finish_call(self, pieces: Pieces) -> None:
        text, self._call = self._call, ""
        calls = []
        if self._format is not None:
            try:
                calls = self._format([text])
            except Exception:  # the parsers raise anything on a call that the model garbled
                log.info("A tool call could not be parsed", exc_info=True)
        if calls:
            pieces.calls += [_with_id(call) for call in calls]
        else:
            pieces.content += text


class GuidedCallSegmenter:
    """Reads the one call that `guidance.call_grammar` lets the model write."""

    _HEAD = re.compile(r'\{"name": ("[^"]*"), "arguments": ')

    def __init__(self) -> None:
        self._text = ""
        self._sent: int | None = None  # how much of the text has been read; None before the arguments begin

    def feed(self, text: str) -> Pieces:
        self._text += text
        pieces = Pieces()
        if self._sent is None:
            head = self._HEAD.match(self._text)
            if head is None:
                return pieces
            self._sent = head.end()
            call = {"index": 0, "id": _call_id(), "type": "function"}
            pieces.calls.append({**call, "function": {"name": json.loads(head[1]), "arguments": ""}})
        # The last character may be the brace that closes the whole.
        self._send(pieces, len(self._text) - 1)
        return pieces

    def close(self) -> Pieces:
        pieces = Pieces()
        if self._sent is not None:
            self._send(pieces, len(self._text) - _is_json(self._text))
        return pieces

    def _send(self, pieces: Pieces, end: int) -> None:
        assert self._sent is not None
        if end > self._sent:
            pieces.calls.append({"index": 0, "function": {"arguments": self._text[self._sent : end]}})
            self._sent = end


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _with_id(call: dict[str, Any]) -> dict[str, Any]:
    return {"index": call["index"], "id": _call_id(), "type": "function", "function": call["function"]}


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
