from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.engines.mlx.args import MLXArgs
from deployments.engines.mlx.messages import for_template
from deployments.engines.mlx.protocol import ChatRequest, CompletionRequest, EmbeddingRequest
from deployments.engines.mlx.validation import field_path, parse
from deployments.errors import InvalidRequest
from tests.engines.bad_requests import CHAT, COMPLETION, EMBEDDING, TOOL, chat, completion


def refused(model: type[ChatRequest] | type[CompletionRequest] | type[EmbeddingRequest], body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(model, body)
    return caught.value


@pytest.mark.parametrize(("body", "param"), CHAT, ids=[f"{i}-{param}" for i, (_, param) in enumerate(CHAT)])
def test_refused_chat_request_names_its_field(body: dict[str, Any], param: str) -> None:
    error = refused(ChatRequest, json.dumps(body).encode())
    assert error.param == param
    assert param in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(("body", "param"), COMPLETION, ids=[f"{i}-{p}" for i, (_, p) in enumerate(COMPLETION)])
def test_refused_completion_request_names_its_field(body: dict[str, Any], param: str) -> None:
    assert refused(CompletionRequest, json.dumps(body).encode()).param == param


@pytest.mark.parametrize(("body", "param"), EMBEDDING, ids=[f"{i}-{p}" for i, (_, p) in enumerate(EMBEDDING)])
def test_refused_embedding_request_names_its_field(body: dict[str, Any], param: str) -> None:
    assert refused(EmbeddingRequest, json.dumps(body).encode()).param == param


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b'{"model": NaN}', b"\xff\xfe{}", b"[" * 100_000, b'{"model": "\\ud800"}'],
    ids=["empty", "cut", "list", "null", "string", "nan", "not-utf8", "deep", "surrogate"],
)
def test_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    assert refused(ChatRequest, body).code == "invalid_json"


def test_unknown_field_is_told_as_openai_does() -> None:
    error = refused(ChatRequest, json.dumps(chat(foo=1)).encode())
    assert error.message == "Unrecognized request argument supplied: foo"


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k", "store": False},
        {"service_tier": "auto", "parallel_tool_calls": True, "modalities": ["text"], "store": None},
        {"audio": None, "functions": None, "reasoning_effort": None, "prediction": None, "verbosity": None},
        {"temperature": 0, "top_p": 1, "n": None, "stop": None, "seed": -1, "logit_bias": {"1": -100}},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"response_format": {"type": "text"}, "stop": "x", "stream_options": None},
        {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_allowed_fields_are_accepted(fields: dict[str, Any]) -> None:
    parse(ChatRequest, json.dumps(chat(**fields)).encode())


def test_completion_prompts_come_in_four_forms() -> None:
    forms: list[Any] = ["a", ["a", "b"], [1, 2], [[1], [2, 3]]]
    prompts = [parse(CompletionRequest, json.dumps(completion(prompt=form)).encode()).prompts for form in forms]
    assert prompts == [["a"], ["a", "b"], [[1, 2]], [[1], [2, 3]]]


def test_messages_become_plain_text_for_the_template() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    request = parse(ChatRequest, json.dumps(chat(messages=messages)).encode())
    assert [for_template(message) for message in request.messages] == [
        {"role": "system", "content": "ab"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]


def test_path_follows_the_body_and_not_the_unions() -> None:
    raw = {"messages": [{"role": "user", "content": [{"text": 3}]}]}
    assert field_path(("messages", 0, "user", "content", "list", 0, "text"), raw) == "messages[0].content[0].text"


def test_seed_of_a_choice_follows_its_index() -> None:
    request = parse(ChatRequest, json.dumps(chat(seed=7)).encode())
    assert [request.sampling(MLXArgs(), index=i).seed for i in range(3)] == [7, 8, 9]


def test_engine_args_are_the_sampling_defaults() -> None:
    args = MLXArgs(temperature=0.5, top_k=9)
    sampling = parse(ChatRequest, json.dumps(chat(top_p=0.3)).encode()).sampling(args)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.3, 9)


@pytest.mark.parametrize("args", [{"nonsense": 1}, {"decode_concurrency": 0}, {"kv_bits": 5}, {"temperature": "hot"}])
def test_bad_engine_args_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MLXArgs.model_validate(args)


def test_engine_args_import_no_engine() -> None:
    check = "import sys, deployments.engines.mlx.args; print({'mlx', 'mlx_lm', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "set()"
