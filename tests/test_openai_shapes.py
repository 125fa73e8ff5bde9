"""The echo engine's answers and the models' cards, against OpenAI's own schemas."""

from __future__ import annotations

from typing import Any

import pytest

from tests.openai import violations
from tests.test_app import SETTINGS, served
from tests.test_echo import CHAT, COMPLETIONS, EMBEDDINGS, ask, chat, completion, embedder, events


def test_answer_of_another_shape_is_found_out() -> None:
    assert violations("Model", {"id": "a", "object": "model", "created": "now"}) == [
        "$.created: 'now' is not of type 'integer'",
        "$: 'owned_by' is a required property",
    ]


@pytest.mark.parametrize("options", [{}, {"include_usage": True}])
async def test_stream_of_chat_has_openais_shape(options: dict[str, bool]) -> None:
    chunks = events(await ask(CHAT, chat(stream=True, stream_options=options)))
    assert chunks
    for chunk in chunks:
        assert violations("CreateChatCompletionStreamResponse", chunk) == []


@pytest.mark.parametrize(
    ("path", "body", "schema"),
    [
        (CHAT, chat(), "CreateChatCompletionResponse"),
        (COMPLETIONS, completion(), "CreateCompletionResponse"),
    ],
)
async def test_answer_in_one_piece_has_openais_shape(path: str, body: dict[str, Any], schema: str) -> None:
    answer = await ask(path, body)
    assert answer.status_code == 200
    assert violations(schema, answer.json()) == []


@pytest.mark.parametrize("given", ["one", ["one", "two"], [1, 2], [[1], [2, 3]]])
async def test_embeddings_have_openais_shape(given: Any) -> None:
    answer = await ask(EMBEDDINGS, {"model": "alias", "input": given}, of=embedder())
    assert answer.status_code == 200
    assert violations("CreateEmbeddingResponse", answer.json()) == []


async def test_cards_have_openais_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    server = served(monkeypatch, SETTINGS)
    models = (await server.ask("GET", "/v1/models")).json()
    assert models["data"]
    assert violations("ListModelsResponse", models) == []
    for model in models["data"]:
        assert violations("Model", (await server.ask("GET", f"/v1/models/{model['id']}")).json()) == []
