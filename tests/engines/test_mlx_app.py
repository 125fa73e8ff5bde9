"""The routes, against a real model behind a real server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.engines.bad_requests import CHAT, COMPLETION, NEEDS_MODEL, USER
from tests.engines.conftest import Served, eventually

SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "maxLength": 12}},
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}},
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"city": {"type": "string", "maxLength": 10}},
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}


def parse_events(text: str) -> list[dict[str, Any]]:
    """All but `[DONE]`, which has to be the last."""
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def stream(served: Served, path: str = "/v1/chat/completions", **body: Any) -> list[dict[str, Any]]:
    body = {"temperature": 0, "max_tokens": 12, "stream": True, **body}
    response = served.post(path, **body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    return parse_events(response.text)


def content(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_answer_and_usage(served: Served) -> None:
    answer = served.chat(model="org/smol:alias")
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == "org/smol:alias"
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["system_fingerprint"].startswith("fp_")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] > 20


def test_stream_equals_the_whole_answer(served: Served) -> None:
    whole = served.chat()
    chunks = stream(served, messages=QUESTION, stream_options={"include_usage": True})
    assert content(chunks) == whole["choices"][0]["message"]["content"]
    *rest, usage = chunks
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert usage["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in rest)
    deltas = [chunk["choices"][0] for chunk in rest]
    assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
    assert (deltas[-1]["delta"], deltas[-1]["finish_reason"]) == ({}, "stop")
    assert all(delta["finish_reason"] is None for delta in deltas[:-1])


def test_length_is_kept(served: Served) -> None:
    answer = served.chat(max_tokens=99, max_completion_tokens=2)
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 2)


def test_stop_string_matches_inside_a_token(served: Served) -> None:
    [choice] = served.chat(stop=["Paris"], logprobs=True)["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == "The capital of France is "
    assert "Paris" not in "".join(entry["token"] for entry in choice["logprobs"]["content"])
    eventually(lambda: served.running == 0)


def test_seed_repeats_each_of_n_choices(served: Served) -> None:
    body: dict[str, Any] = {"n": 2, "seed": 5, "temperature": 1.0, "max_tokens": 5}
    first, second = served.chat(**body), served.chat(**body)
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts == [choice["message"]["content"] for choice in second["choices"]]
    assert texts[0] != texts[1]
    assert [choice["index"] for choice in first["choices"]] == [0, 1]
    assert first["usage"]["prompt_tokens"] == served.chat(max_tokens=1)["usage"]["prompt_tokens"]


def test_logprobs_and_their_alternatives(served: Served) -> None:
    [choice] = served.chat(max_tokens=3, logprobs=True, top_logprobs=2)["choices"]
    entries = choice["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == choice["message"]["content"]
    for entry in entries:
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0]["token"] == entry["token"]  # greedy
        assert entry["top_logprobs"][0]["logprob"] >= entry["top_logprobs"][1]["logprob"]
    chunks = stream(served, messages=QUESTION, max_tokens=3, logprobs=True, top_logprobs=2)
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [e["token"] for part in parts if part for e in part["content"]] == [e["token"] for e in entries]


def test_logit_bias_forces_and_forbids(served: Served) -> None:
    [usual] = served.complete("The capital of France is", max_tokens=1)["choices"]
    assert usual["text"] == " Paris"
    [token] = served.http.post(
        "/v1/completions", json={"model": "smol", "prompt": [1], "max_tokens": 1, "logit_bias": {"260": 100}}
    ).json()["choices"]
    assert token["text"] == " the"


def test_json_schema_is_obeyed(served: Served) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    [choice] = served.chat(response_format=wanted, max_tokens=30)["choices"]
    answer = json.loads(choice["message"]["content"])
    assert set(answer) == {"city", "big"}
    assert isinstance(answer["city"], str)
    assert isinstance(answer["big"], bool)
    assert choice["finish_reason"] == "stop"


def test_json_object_begins_as_one(served: Served) -> None:
    [choice] = served.chat("Say {}", response_format={"type": "json_object"}, max_tokens=4)["choices"]
    assert choice["message"]["content"].startswith("{")


def test_required_tool_is_called(served: Served) -> None:
    answer = served.chat("Weather in Paris?", tools=[WEATHER], tool_choice="required", max_tokens=30)
    [choice] = answer["choices"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    json.loads(call["function"]["arguments"])


def test_named_tool_is_streamed(served: Served) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    chunks = stream(served, messages=[USER], tools=[WEATHER, TIME], tool_choice=named, max_tokens=30)
    choices = [chunk["choices"][0] for chunk in chunks]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "get_weather"
    assert calls[0]["id"]
    assert set(json.loads("".join(call["function"]["arguments"] for call in calls))) == {"city"}
    assert choices[-1]["finish_reason"] == "stop"


def test_tools_that_are_not_to_be_called_change_nothing(served: Served) -> None:
    assert served.chat(tools=[WEATHER], tool_choice="none")["choices"] == served.chat()["choices"]


def test_tool_results_reach_a_template_without_tools(served: Served) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]
    longer = served.post("/v1/chat/completions", messages=messages, max_tokens=1).json()["usage"]["prompt_tokens"]
    assert longer > served.chat("hi", max_tokens=1)["usage"]["prompt_tokens"] + 20


def test_completions_of_several_prompts(served: Served) -> None:
    answer = served.complete(["The capital of France is", "One two three"], n=2, max_tokens=2)
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert texts[0].startswith(" Paris")
    assert answer["usage"]["completion_tokens"] == 8
    tokens = served.complete([[504, 3575], [504]], max_tokens=1)
    assert (len(tokens["choices"]), tokens["usage"]["prompt_tokens"]) == (2, 3)


def test_echo_puts_the_prompt_before_the_answer(served: Served) -> None:
    [plain] = served.complete([504, 3575], max_tokens=2)["choices"]
    [echoed] = served.complete([504, 3575], max_tokens=2, echo=True)["choices"]
    assert echoed["text"].endswith(plain["text"])
    assert len(echoed["text"]) > len(plain["text"])
    chunks = stream(served, "/v1/completions", prompt=[504, 3575], max_tokens=2, echo=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == echoed["text"]


def test_completion_logprobs(served: Served) -> None:
    [choice] = served.complete("The capital of France is", max_tokens=3, logprobs=2)["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["text_offset"][:2] == [0, len(" Paris")]
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])
    assert all(logprob <= 0 for logprob in logprobs["token_logprobs"])


def test_prompt_that_is_cached_whole_is_answered(served: Served) -> None:
    """mlx-lm ends its thread on such a prompt, and a client that goes on where an answer stopped sends one."""
    prompt = [504, 3575, 282, 4649]
    assert served.engine.generator is not None
    tokenizer = served.engine.generator.tokenizer
    [first] = served.complete(prompt, max_tokens=3, logprobs=0)["choices"]
    answer = [tokenizer.encode(token, add_special_tokens=False)[0] for token in first["logprobs"]["tokens"]]
    for length in range(1, 4):
        again = served.complete(prompt + answer[:length], max_tokens=1)
        assert again["usage"]["prompt_tokens"] == len(prompt) + length
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] < len(prompt) + length


def test_four_streams_share_the_model(served: Served) -> None:
    async def run() -> list[str]:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
            body = {"model": "smol", "messages": QUESTION, "temperature": 0, "max_tokens": 8, "stream": True}
            answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(4)))
        return [content(parse_events(answer.text)) for answer in answers]

    texts = asyncio.run(run())
    assert len(set(texts)) == 1
    assert "Paris" in texts[0]


LONG = {"model": "smol", "prompt": "Once upon a time", "max_tokens": 2000, "temperature": 0}


def test_client_that_leaves_its_stream_ends_the_generation(served: Served) -> None:
    with served.http.stream("POST", "/v1/completions", json={**LONG, "stream": True, "n": 2}) as response:
        parts = response.iter_raw()  # kept: httpx hangs up when it is collected
        first = next(parts)
        assert response.status_code == 200, first
        assert served.running == 2, first
    eventually(lambda: served.running == 0, 5)


def test_client_that_leaves_before_its_answer_ends_the_generation(served: Served) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient(base_url=served.url) as http:
            request = asyncio.create_task(http.post("/v1/completions", json=LONG, timeout=60))
            await asyncio.to_thread(eventually, lambda: served.running == 1)
            request.cancel()

    asyncio.run(asyncio.wait_for(leave(), 20))
    eventually(lambda: served.running == 0, 5)


def test_bad_requests_never_harm(served: Served) -> None:
    chats = [("/v1/chat/completions", body, param) for body, param in CHAT]
    completions = [("/v1/completions", body, param) for body, param in COMPLETION]
    for path, body, param in [*chats, *completions, *NEEDS_MODEL]:
        response = served.http.post(path, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert "Paris" in served.chat()["choices"][0]["message"]["content"]
    eventually(lambda: served.running == 0)


def test_prompt_beyond_the_context_says_both_lengths(served: Served) -> None:
    error = served.post("/v1/completions", prompt=[504] * 8192).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "8192 tokens, but the prompt has 8192" in error["message"]


def test_other_model_is_not_found(served: Served) -> None:
    response = served.post("/v1/chat/completions", messages=QUESTION, model="gpt-4o")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/v1/embeddings", 404, "route_not_found"),
        ("GET", "/", 404, "route_not_found"),
    ],
)
def test_unknown_routes_answer_in_the_error_shape(
    served: Served, method: str, path: str, status: int, code: str
) -> None:
    response = served.http.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_health(served: Served) -> None:
    assert served.http.get("/health").json() == {"status": "ok"}
