"""The `openai` package against real Serve and a real model, sync and async."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ()

MODEL = "smollm2-135m"
FRANCE: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sky": {"enum": ["blue", "grey"]}, "warm": {"type": "boolean"}},
    "required": ["sky", "warm"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(serving: Serving) -> OpenAI:
    wait_for("the model is up", lambda: serving.statuses()[MODEL] == "running", 180)
    return OpenAI(base_url=f"{serving.url}/v1", api_key="none", timeout=120, max_retries=0)


@pytest.fixture(scope="module")
def aclient(client: OpenAI) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=str(client.base_url), api_key="none", timeout=120, max_retries=0)


def test_chat_answers_and_counts(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=12, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.model == MODEL
    assert answer.system_fingerprint
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_alias_leads_to_the_model_and_comes_back(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-3.5-turbo", messages=FRANCE, max_tokens=12, temperature=0)
    assert answer.model == "gpt-3.5-turbo"
    assert "Paris" in (answer.choices[0].message.content or "")


def test_stream_brings_the_same_text_and_usage(client: OpenAI) -> None:
    check_stream(client, MODEL)


def check_stream(client: OpenAI, model: str) -> None:
    """A whole stream about Paris, with its usage."""
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=FRANCE,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "Paris" in "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 12
    assert len({c.id for c in chunks}) == 1


async def test_async_chat_and_stream(aclient: AsyncOpenAI) -> None:
    answer = await aclient.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=12, temperature=0)
    stream = await aclient.chat.completions.create(
        model=MODEL, messages=FRANCE, max_tokens=12, temperature=0, stream=True
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == answer.choices[0].message.content
    assert "Paris" in text


async def test_several_requests_to_one_model_are_safe(aclient: AsyncOpenAI) -> None:
    async def ask(word: str) -> str:
        message: ChatCompletionMessageParam = {"role": "user", "content": f"Say only: {word}"}
        answer = await aclient.chat.completions.create(model=MODEL, messages=[message], max_tokens=8, temperature=0)
        return answer.choices[0].message.content or ""

    words = ["red", "green", "blue", "black"]
    together = await asyncio.gather(*map(ask, words))
    assert len(set(together)) > 1
    assert all(together)


def test_stop_ends_before_the_word(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=12, temperature=0, stop=["Paris"])
    assert answer.choices[0].finish_reason == "stop"
    assert "Paris" not in (answer.choices[0].message.content or "")


def test_n_with_seed_repeats_itself(client: OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = client.chat.completions.create(
            model=MODEL, messages=FRANCE, max_tokens=6, temperature=1.5, seed=7, n=2
        )
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert len(first) == 2
    assert first == ask()


def test_logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=FRANCE, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == answer.choices[0].message.content
    for token in logprobs.content:
        assert len(token.top_logprobs) == 2
        assert token.logprob == pytest.approx(max(top.logprob for top in token.top_logprobs))


def test_required_tool_is_called_by_its_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=FRANCE, max_tokens=64, temperature=0, tools=[WEATHER], tool_choice="required"
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments)["unit"] in ("celsius", "fahrenheit")


def test_json_schema_is_obeyed(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe the weather."}],
        max_tokens=64,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}},
    )
    weather = json.loads(answer.choices[0].message.content or "")
    assert set(weather) == {"sky", "warm"}
    assert weather["sky"] in ("blue", "grey")
    assert isinstance(weather["warm"], bool)


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0)
    assert "Paris" in answer.choices[0].text


def test_errors_are_the_sdks_own_classes(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="nope", messages=FRANCE)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=FRANCE, temperature=9)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model="asleep", messages=FRANCE)
    assert refused.value.status_code == 503
    assert refused.value.code == "model_not_running"


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve("org/echo").id == "org/echo"
