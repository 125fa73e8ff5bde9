"""Requests that are refused, with the field that the refusal names."""

from __future__ import annotations

from typing import Any

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "smol", "messages": [USER], **fields}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "smol", "prompt": "hi", **fields}


def embedding(**fields: Any) -> dict[str, Any]:
    return {"model": "mini", "input": "hi", **fields}


def without(body: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != field}


CHAT: list[tuple[dict[str, Any], str]] = [
    (without(chat(), "model"), "model"),
    (without(chat(), "messages"), "messages"),
    (chat(model=3), "model"),
    (chat(messages=[]), "messages"),
    (chat(messages="hi"), "messages"),
    (chat(messages=[USER, "hi"]), "messages[1]"),
    (chat(messages=[USER, {"content": "x"}]), "messages[1].role"),
    (chat(messages=[USER, USER, {"role": "wizard", "content": "x"}]), "messages[2].role"),
    (chat(messages=[{"role": "function", "name": "f", "content": "x"}]), "messages[0].role"),
    (chat(messages=[{"role": "user"}]), "messages[0].content"),
    (chat(messages=[{"role": "user", "content": 3}]), "messages[0].content"),
    (chat(messages=[{"role": "user", "content": None}]), "messages[0].content"),
    (chat(messages=[{"role": "user", "content": []}]), "messages[0].content"),
    (chat(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
    (
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": 3}]}]),
        "messages[0].content[1].text",
    ),
    (
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]),
        "messages[0].content[0].type",
    ),
    (
        chat(messages=[{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]),
        "messages[0].content[0].type",
    ),
    (chat(messages=[{**USER, "colour": "red"}]), "messages[0].colour"),
    (chat(messages=[USER, {"role": "tool", "content": "x"}]), "messages[1].tool_call_id"),
    (chat(messages=[USER, {"role": "assistant"}]), "messages[1].content"),
    (chat(messages=[USER, {"role": "assistant", "content": None}]), "messages[1].content"),
    (chat(messages=[USER, {"role": "assistant", "tool_calls": []}]), "messages[1].tool_calls"),
    (
        chat(
            messages=[
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}],
                },
            ]
        ),
        "messages[1].tool_calls[0].function.arguments",
    ),
    (chat(temperature=2.1), "temperature"),
    (chat(temperature="hot"), "temperature"),
    (chat(temperature=True), "temperature"),
    (chat(top_p=-0.1), "top_p"),
    (chat(n=0), "n"),
    (chat(n=129), "n"),
    (chat(n=1.5), "n"),
    (chat(seed="x"), "seed"),
    (chat(seed=2**70), "seed"),
    (chat(max_tokens=0), "max_tokens"),
    (chat(max_completion_tokens=-1), "max_completion_tokens"),
    (chat(presence_penalty=3), "presence_penalty"),
    (chat(frequency_penalty=-3), "frequency_penalty"),
    (chat(top_k=-1), "top_k"),
    (chat(min_p=2), "min_p"),
    (chat(repetition_penalty=0), "repetition_penalty"),
    (chat(logit_bias={"x": 1}), "logit_bias"),
    (chat(logit_bias={"1": 101}), "logit_bias.1"),
    (chat(stop=["a", "b", "c", "d", "e"]), "stop"),
    (chat(stop=["a", ""]), "stop[1]"),
    (chat(stop=3), "stop"),
    (chat(stream="yes"), "stream"),
    (chat(stream_options={"include_usage": True}), "stream_options"),
    (chat(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage"),
    (chat(logprobs=3), "logprobs"),
    (chat(top_logprobs=2), "top_logprobs"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    (chat(response_format="json"), "response_format"),
    (chat(response_format={"type": "xml"}), "response_format.type"),
    (chat(response_format={"type": "json_schema"}), "response_format.json_schema"),
    (chat(response_format={"type": "json_schema", "json_schema": {"schema": {}}}), "response_format.json_schema.name"),
    (
        chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": 3}}),
        "response_format.json_schema.schema",
    ),
    (chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
    (chat(tools=[TOOL, {"type": "function", "function": {"name": "a b"}}]), "tools[1].function.name"),
    (chat(tools=[{"type": "custom", "custom": {"name": "x"}}]), "tools[0].type"),
    (chat(tools=[TOOL], tool_choice="maybe"), "tool_choice"),
    (chat(tools=[TOOL], tool_choice={"type": "function"}), "tool_choice.function"),
    (chat(tools=[TOOL], tool_choice={"type": "allowed_tools", "allowed_tools": {}}), "tool_choice.type"),
    (chat(chat_template_kwargs={"return_tensors": "np"}), "chat_template_kwargs"),
    (chat(modalities=["text", "audio"]), "modalities[1]"),
    (chat(store=True), "store"),
    (chat(audio={"voice": "x"}), "audio"),
    (chat(prediction={"type": "content", "content": "x"}), "prediction"),
    (chat(functions=[{"name": "f"}]), "functions"),
    (chat(function_call="auto"), "function_call"),
    (chat(web_search_options={}), "web_search_options"),
    (chat(reasoning_effort="low"), "reasoning_effort"),
    (chat(verbosity="low"), "verbosity"),
    (chat(nonsense=1), "nonsense"),
]

COMPLETION: list[tuple[dict[str, Any], str]] = [
    (without(completion(), "prompt"), "prompt"),
    (completion(prompt=None), "prompt"),
    (completion(prompt=[]), "prompt"),
    (completion(prompt=[[]]), "prompt"),
    (completion(prompt=["a", 1]), "prompt"),
    (completion(prompt=[True]), "prompt"),
    (completion(prompt={"a": 1}), "prompt"),
    (completion(suffix="x"), "suffix"),
    (completion(best_of=2), "best_of"),
    (completion(logprobs=6), "logprobs"),
    (completion(logprobs=True), "logprobs"),
    (completion(echo=True, logprobs=1), "echo"),
    (completion(messages=[USER]), "messages"),
]

NEEDS_MODEL: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", chat(logit_bias={"49152": 1}), "logit_bias"),
    ("/v1/chat/completions", chat(tools=[TOOL]), "tools"),
    ("/v1/chat/completions", chat(tool_choice="required"), "tool_choice"),
    (
        "/v1/chat/completions",
        chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
        "tool_choice.function.name",
    ),
    ("/v1/chat/completions", chat(tools=[TOOL, TOOL], tool_choice="required"), "tools[1].function.name"),
    (
        "/v1/chat/completions",
        chat(
            tools=[TOOL, {"type": "function", "function": {"name": "g", "parameters": {"type": "objet"}}}],
            tool_choice="required",
        ),
        "tools[1].function.parameters",
    ),
    (
        "/v1/chat/completions",
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objet"}}}),
        "response_format.json_schema.schema",
    ),
    ("/v1/chat/completions", chat(messages=[{"role": "user", "content": "a " * 9000}]), "messages"),
    ("/v1/completions", completion(prompt=""), "prompt"),
    ("/v1/completions", completion(prompt=["hi", ""], stream=True), "prompt"),
    ("/v1/completions", completion(prompt=[1, 49152]), "prompt"),
    ("/v1/completions", completion(prompt=[-1]), "prompt"),
    ("/v1/completions", completion(prompt=["a"] * 65, n=2), "prompt"),
    ("/v1/completions", completion(prompt="a " * 9000), "prompt"),
]

EMBEDDING: list[tuple[dict[str, Any], str]] = [
    (without(embedding(), "model"), "model"),
    (without(embedding(), "input"), "input"),
    (embedding(model=3), "model"),
    (embedding(input=None), "input"),
    (embedding(input=3), "input"),
    (embedding(input=[]), "input"),
    (embedding(input=[[]]), "input"),
    (embedding(input=["a", 1]), "input"),
    (embedding(input=[True]), "input"),
    (embedding(input={"text": "a"}), "input"),
    (embedding(encoding_format="hex"), "encoding_format"),
    (embedding(dimensions=0), "dimensions"),
    (embedding(dimensions="8"), "dimensions"),
    (embedding(user=3), "user"),
    (embedding(prompt="hi"), "prompt"),
    (embedding(stream=True), "stream"),
]

EMBEDDING_NEEDS_MODEL: list[tuple[dict[str, Any], str]] = [
    (embedding(input=""), "input"),
    (embedding(input=["a", ""]), "input[1]"),
    (embedding(input=["a"] * 2049), "input"),
    (embedding(input=[1, 30522]), "input"),
    (embedding(input=[[1], [-1]]), "input[1]"),
    (embedding(input="a " * 300), "input"),
    (embedding(input=["a", "a " * 300]), "input[1]"),
    (embedding(dimensions=8), "dimensions"),
]
