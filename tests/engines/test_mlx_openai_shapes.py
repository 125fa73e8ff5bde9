"""Answers of a real model, against OpenAI's own schemas."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engines.conftest import Served
from tests.engines.test_mlx_app import stream
from tests.openai import violations

HELLO = [{"role": "user", "content": "hello"}]


def test_chat_has_openais_shape(served: Served) -> None:
    for answer in (served.chat(), served.chat(logprobs=True, top_logprobs=2)):
        assert violations("CreateChatCompletionResponse", answer) == []


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}, {"logprobs": True}])
def test_stream_of_chat_has_openais_shape(served: Served, more: dict[str, Any]) -> None:
    for chunk in stream(served, messages=HELLO, **more):
        assert violations("CreateChatCompletionStreamResponse", chunk) == []


@pytest.mark.parametrize("more", [{}, {"logprobs": 2}])
def test_completion_has_openais_shape(served: Served, more: dict[str, Any]) -> None:
    assert violations("CreateCompletionResponse", served.complete("The capital", **more)) == []
