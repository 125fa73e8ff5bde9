from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.engines.vllm.serving import QUESTION, Served, await_that

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOOL: dict[str, Any] = {"type": "function", "function": {**WEATHER, "strict": True}}
GREEDY = {"temperature": 0}
ASK: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="-", default_headers=served.headers)


@pytest.mark.parametrize("name", ["smol", "org/smol:alias"])
def test_answer_is_right_and_has_the_name_that_was_asked_for(served: Served, name: str) -> None:
    answer = served.chat(name)
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["model"] == name
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["system_fingerprint"].startswith("vllm-")


def test_stream_is_the_whole_answer_with_usage(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model="org/smol:alias", messages=ASK, temperature=0, max_tokens=12, stream=True, stream_options=options
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "The capital of France is Paris."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert {chunk.model for chunk in chunks} == {"org/smol:alias"}


def test_several_choices_seed_and_stop(served: Served) -> None:
    choices = served.chat(n=2, seed=1, temperature=1, max_tokens=4)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    again = served.chat(n=2, seed=1, temperature=1, max_tokens=4)["choices"]
    assert [c["message"]["content"] for c in again] == [c["message"]["content"] for c in choices]
    assert served.said(stop=[" Paris"]) == "The capital of France is"


def test_logprobs_are_of_each_token(served: Served) -> None:
    content = served.chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content[:3]] == ["The", " capital", " of"]
    assert all(entry["top_logprobs"][0]["logprob"] >= entry["logprob"] - 1e-6 for entry in content)


def test_json_schema_is_kept(client: openai.OpenAI) -> None:
    schema: Any = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}, "inhabitants": {"type": "integer"}},
        "required": ["city", "inhabitants"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(
        model="smol", messages=ASK, temperature=0, max_tokens=60, response_format=form
    )
    city = json.loads(answer.choices[0].message.content or "")
    assert isinstance(city["city"], str)
    assert isinstance(city["inhabitants"], int)


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param("required", id="required"),
        pytest.param({"type": "function", "function": {"name": "get_weather"}}, id="named"),
    ],
)
def test_forced_tool_is_called_with_arguments_of_its_schema(served: Served, choice: Any) -> None:
    answer = served.chat(content="Weather in Rome?", tools=[TOOL], tool_choice=choice, max_tokens=60)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Rome")


def test_tool_may_be_chosen_by_the_model(served: Served) -> None:
    text = '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>'
    told = f"Say exactly this and nothing else: {text}"
    answer = served.chat(content=told, tools=[TOOL], tool_choice="auto", max_tokens=60)
    message = answer["choices"][0]["message"]
    assert message["content"] or message["tool_calls"]


def test_completion_of_several_prompts(served: Served) -> None:
    response = served.post(
        "/v1/completions", model="smol", prompt=["The capital of France is", "Two plus"], temperature=0, max_tokens=3
    )
    assert response.status_code == 200, response.text
    first, second = response.json()["choices"]
    assert first["text"].startswith(" Paris")
    assert second["index"] == 1


def test_responses_route(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="org/smol:alias", input=QUESTION, temperature=0, max_output_tokens=16)
    assert "Paris" in answer.output_text
    assert answer.model == "org/smol:alias"
    events = list(
        client.responses.create(model="smol", input=QUESTION, temperature=0, max_output_tokens=16, stream=True)
    )
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"


def test_messages_route(served: Served) -> None:
    client = anthropic.Anthropic(base_url=served.url, api_key="-", default_headers=served.headers)
    answer = client.messages.create(model="org/smol:alias", messages=ASK, max_tokens=12, extra_body=GREEDY)
    assert "Paris" in "".join(block.text for block in answer.content if block.type == "text")
    assert answer.model == "org/smol:alias"
    with client.messages.stream(model="smol", messages=ASK, max_tokens=12, extra_body=GREEDY) as stream:
        assert "Paris" in "".join(stream.text_stream)
    assert client.messages.count_tokens(model="smol", messages=ASK).input_tokens == 37


def test_tokens_there_and_back(served: Served) -> None:
    tokens = served.post("/tokenize", model="smol", prompt="hello, wörld").json()["tokens"]
    assert served.post("/detokenize", model="smol", tokens=tokens).json()["prompt"] == "hello, wörld"


def test_unknown_model_and_bad_field_are_the_clients_mistakes(served: Served) -> None:
    assert served.post("/v1/chat/completions", model="nobody", messages=ASK).status_code == 404
    bad = served.post("/v1/chat/completions", model="smol", messages=ASK, temperature=-1)
    assert bad.status_code == 400
    assert "temperature" in bad.json()["error"]["message"]


ENDLESS: dict[str, Any] = {"model": "smol", "messages": ASK, "max_tokens": 900, "ignore_eos": True}


def test_hang_up_in_a_stream_ends_the_generation(served: Served) -> None:
    with httpx.Client(base_url=served.url, headers=served.headers) as client:
        with client.stream("POST", "/v1/chat/completions", json=ENDLESS | {"stream": True}) as response:
            lines = response.iter_lines()  # kept: httpx hangs up when nobody holds it
            next(lines)
            await_that("the engine works", lambda: served.unfinished == 1)
        await_that("the engine rests", lambda: not served.unfinished)


def test_hang_up_before_the_answer_ends_the_generation(served: Served) -> None:
    with httpx.Client(base_url=served.url, headers=served.headers) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=ENDLESS, timeout=1)
    await_that("the engine rests", lambda: not served.unfinished)
