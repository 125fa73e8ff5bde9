from __future__ import annotations

from typing import Any

import pytest

from deployments.config import Adapter, ModelConfig, Placement
from ingress import cacheable
from ingress.cacheable import Control, is_cacheable, is_whole
from ingress.catalog import Catalog, Entry

CHAT = "/v1/chat/completions"
ZERO = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "hello"}]}
STREAM = "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    "said",
    [
        {"temperature": 0},
        {"temperature": 0.0, "n": 1},
        {"temperature": 1, "seed": 7},
        {"seed": 0},
        {"seed": -1, "n": None},
        {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}},
        {"temperature": 0, "tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_answer_that_is_the_same_each_time_is_cacheable(path: str, said: dict[str, Any]) -> None:
    assert is_cacheable(path, {"model": "m", **said})


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"temperature": 0.1},
        {"temperature": None},
        {"temperature": False},
        {"temperature": "0"},
        {"seed": None},
        {"seed": True},
        {"temperature": 0, "n": 2},
        {"temperature": 0, "best_of": 2},
    ],
)
def test_answer_that_is_another_each_time_is_not(said: dict[str, Any]) -> None:
    assert not is_cacheable(CHAT, {"model": "m", **said})


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/rerank", "/v1/score", "/score"])
def test_vectors_and_scores_are_always_cacheable(path: str) -> None:
    assert is_cacheable(path, {"model": "m", "input": "x"})


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/tokenize", "/v1/audio/transcriptions"])
def test_other_routes_are_not(path: str) -> None:
    assert not is_cacheable(path, ZERO)


def test_form_is_not_for_its_fields_are_not_known() -> None:
    assert not is_cacheable("/v1/embeddings", {})


@pytest.mark.parametrize(
    ("header", "control"),
    [
        ("", Control(reads=True, stores=True)),
        ("max-age=60", Control(reads=True, stores=True)),
        ("no-cache", Control(reads=False, stores=True)),
        ("max-age=0, No-Cache", Control(reads=False, stores=True)),
        ("no-store", Control(reads=False, stores=False)),
        ("no-cache,no-store", Control(reads=False, stores=False)),
    ],
)
def test_request_may_go_past_the_cache(header: str, control: Control) -> None:
    assert Control.of({"cache-control": header}) == control
    assert Control.of({}) == Control()


# The key -------------------------------------------------------------------------------------------------------------


def entry(name: str = "m", **model: Any) -> Entry:
    config = ModelConfig(name="m", aliases=("alias",), engine="echo", **model)
    return Catalog([config]).find(name)


def key(said: dict[str, Any] | None = None, *, path: str = CHAT, query: str = "", of: Entry | None = None) -> str:
    return cacheable.key(of or entry(), path, query, {**ZERO, **(said or {})})


def test_key_does_not_depend_on_the_order_of_the_fields() -> None:
    assert cacheable.key(entry(), CHAT, "", dict(reversed(ZERO.items()))) == key()


@pytest.mark.parametrize("name", ["user", "metadata", "keep_alive", "prompt_cache_key"])
def test_field_that_no_answer_depends_on_does_not_change_the_key(name: str) -> None:
    assert key({name: "x"}) == key()


@pytest.mark.parametrize(
    "said",
    [
        {"model": "alias"},
        {"messages": [{"role": "user", "content": "hello "}]},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"max_tokens": 5},
        {"seed": 1},
        {"cache_salt": "mine"},
    ],
)
def test_anything_else_that_is_asked_changes_the_key(said: dict[str, Any]) -> None:
    assert key(said) != key()


def test_path_and_query_change_the_key() -> None:
    assert len({key(), key(path="/v1/completions"), key(query="a=1")}) == 3


@pytest.mark.parametrize(
    "model",
    [
        {"engine_args": {"tokens": 5}},
        {"mode": "completion"},
        {"placements": (Placement(engine_args={"tokens": 5}),)},
        {"placements": (Placement(), Placement(engine_args={"tokens": 5}))},
        {"pool": "p"},
    ],
)
def test_model_that_is_configured_otherwise_has_other_keys(model: dict[str, Any]) -> None:
    assert key(of=entry(**model)) != key()


@pytest.mark.parametrize(
    "model", [{"idle_timeout_s": 5}, {"placements": (Placement(num_cpus=2),)}, {"max_replicas": 2}]
)
def test_where_and_how_long_a_model_runs_does_not_change_the_key(model: dict[str, Any]) -> None:
    assert key(of=entry(**model)) == key()


def test_adapter_has_keys_of_its_own_which_change_with_its_path() -> None:
    keys = [key(of=entry("poet", adapters=(Adapter(name="poet", path=path),))) for path in ("/a", "/b")]
    assert len({key(), *keys}) == 3


# What is kept --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "content_type", "body", "whole"),
    [
        (200, "application/json", b"{}", True),
        (200, "application/json", b"", False),
        (206, "application/json", b"{}", False),
        (400, "application/json", b"{}", False),
        (200, STREAM, b'data: {"a": 1}\n\ndata: [DONE]\n\n', True),
        (200, STREAM, b'data: {"a": "\\ndata: {\\"error\\""}\n\ndata: [DONE]\n\n', True),
        (200, STREAM, b'data: {"a": 1}\n\n', False),
        (200, STREAM, b'data: {"a": "data: [DONE]', False),
        (200, STREAM, b'data: {"error": {}}\n\ndata: [DONE]\n\n', False),
        (200, STREAM, b'data: {"a": 1}\n\ndata:{ "error": {}}\n\ndata: [DONE]\n\n', False),
        (200, STREAM, b"event: error\ndata: {}\n\ndata: [DONE]\n\n", False),
    ],
)
def test_only_an_answer_that_is_whole_is_kept(status: int, content_type: str, body: bytes, whole: bool) -> None:
    assert is_whole(status, content_type, body) is whole
