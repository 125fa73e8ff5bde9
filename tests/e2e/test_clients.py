"""Clients that people use, against real Serve: OpenAI's and the AI SDK in JavaScript (tests/clients), LangChain."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.e2e import javascript
from tests.e2e.keys import CLIENT
from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("clients",)

MODEL = "smollm2-135m"
FRANCE = "What is the capital of France?"
NONE = SecretStr("none")
FILES = ("openai.test.js", "ai-sdk.test.js")

Results = Callable[[str], tuple[dict[str, bool], str]]


@pytest.fixture(scope="module")
def url(serving: Serving) -> str:
    wait_for("the model is up", lambda: serving.statuses()[MODEL] == "running", 180)
    return serving.url


@pytest.fixture(scope="module")
def results(url: str) -> Results:
    """Of a file's tests, which run once, when the first of them is asked for."""
    where = {"OPEN_URL": url, "KEYED_URL": f"{url}/clients", "KEY": CLIENT}
    return functools.cache(lambda file: javascript.run_tests(file, where))


@pytest.mark.parametrize(("file", "claim"), [(file, claim) for file in FILES for claim in javascript.claims(file)])
def test_javascript(results: Results, file: str, claim: str) -> None:
    passed, told = results(file)
    assert passed.get(claim), told


@pytest.mark.parametrize("file", FILES)
def test_javascript_has_no_other_tests(results: Results, file: str) -> None:
    passed, told = results(file)
    assert sorted(passed) == sorted(javascript.claims(file)) != [], told


# LangChain ---------------------------------------------------------------------------------------------------------


def chat(url: str, model: str = MODEL, api_key: SecretStr = NONE, max_tokens: int = 12, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{url}/v1",
        api_key=api_key,
        model=model,
        max_completion_tokens=max_tokens,
        temperature=0,
        timeout=120,
        max_retries=0,
        **more,
    )


class Weather(BaseModel):
    """How the weather is."""

    warm: bool


def test_langchain_invokes_and_counts(url: str) -> None:
    answer = chat(url).invoke(FRANCE)
    assert "Paris" in answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] <= 12


def test_langchain_streams_the_same_text_and_its_usage(url: str) -> None:
    chunks = list(chat(url, stream_usage=True).stream(FRANCE))
    assert "Paris" in "".join(chunk.text for chunk in chunks)
    assert len(chunks) > 2
    usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert [one["output_tokens"] <= 12 for one in usage] == [True]


def test_langchain_calls_a_tool_and_sends_its_result(url: str) -> None:
    model = chat(url, max_tokens=64)
    question = HumanMessage("What is the weather?")
    asked = model.bind_tools([Weather], tool_choice="required").invoke([question])
    (call,) = asked.tool_calls
    assert call["name"] == "Weather"
    assert isinstance(call["args"]["warm"], bool)
    result = ToolMessage(json.dumps({"degrees": 21}), tool_call_id=call["id"])
    told = chat(url, max_tokens=8).bind_tools([Weather], tool_choice="none").invoke([question, asked, result])
    assert told.text
    assert not told.tool_calls


def test_langchain_reads_structured_output(url: str) -> None:
    weather = chat(url, max_tokens=64).with_structured_output(Weather).invoke("Describe the weather.")
    assert isinstance(weather, Weather)


def test_langchain_raises_the_errors_of_openais_client(url: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        chat(url, model="nope").invoke(FRANCE)
    assert caught.value.code == "model_not_found"


def test_langchain_opens_the_door_with_its_key(url: str) -> None:
    assert chat(f"{url}/clients", "slow", SecretStr(CLIENT)).invoke("hello").text
    with pytest.raises(openai.AuthenticationError):
        chat(f"{url}/clients", "slow", SecretStr("sk-wrong")).invoke("hello")


def test_langchain_finds_what_is_near(url: str) -> None:
    """Of a real model. By itself LangChain sends tokens of OpenAI's, which are other words to any other model."""
    pytest.importorskip("mlx_embeddings", reason="mlx-embeddings is not installed: make mlx-embeddings")
    embeddings = OpenAIEmbeddings(
        base_url=f"{url}/clients/v1",
        api_key=SecretStr(CLIENT),
        model="minilm",
        check_embedding_ctx_length=False,
        timeout=120,
        max_retries=0,
    )
    kitten, tax = embeddings.embed_documents(["a kitten", "tax law"])
    cat = embeddings.embed_query("a cat")
    assert len(cat) == 384
    assert dot(cat, kitten) > dot(cat, tax)


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
