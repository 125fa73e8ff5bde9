"""Tokens of answers, as engines' bytes bring them."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress import usage
from ingress.usage import Reader, asking, tokens_in

CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2}}
READ = {"prompt": 3, "completion": 5, "cached": 2}


def event(data: dict[str, Any], *, compact: bool = False) -> bytes:
    separators = (",", ":") if compact else None
    return b"data: " + json.dumps(data, separators=separators).encode() + b"\n\n"


def tokens_of(reader: Reader) -> dict[str, int]:
    return {"prompt": reader.prompt, "completion": reader.completion, "cached": reader.cached}


CHUNKS = [event({"choices": [{"delta": {"content": f"{n} ß"}}], "usage": None}) for n in range(60)]
DONE = b"data: [DONE]\n\n"
LAST = event({"id": "x", "choices": [], "usage": USAGE})
ANSWER = b"".join([*CHUNKS, LAST, DONE])


# The question


def test_stream_is_asked_for_its_usage_and_the_clients_bytes_stay() -> None:
    body = b'{"model":"a",  "stream":true, "x": 1.50}'
    asked = asking(CHAT, body, json.loads(body))
    assert asked == b'{"stream_options": {"include_usage": true}, "model":"a",  "stream":true, "x": 1.50}'


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False, "chunk_include": 1}, {"include_usage": True, "chunk_include": 1}),
        ({"continuous_usage_stats": True}, {"include_usage": True}),
    ],
)
def test_other_options_of_a_stream_stay(options: dict[str, Any] | None, asked: dict[str, Any]) -> None:
    data = {"model": "ß", "stream": True, "stream_options": options}
    changed = asking("/v1/completions", json.dumps(data).encode(), data)
    assert changed is not None
    assert json.loads(changed) == {**data, "stream_options": asked}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_body_in_another_encoding_is_asked_in_ours(encoding: str) -> None:
    data = {"model": "ß", "stream": True}
    changed = asking(CHAT, json.dumps(data).encode(encoding), data)
    assert changed is not None
    assert json.loads(changed) == {**data, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (CHAT, {"stream": False}),
        (CHAT, {}),
        (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
        (CHAT, {"stream": True, "stream_options": "wrong"}),
        ("/v1/responses", {"stream": True}),
        ("/v1/messages", {"stream": True}),
    ],
)
def test_nothing_is_asked_of_who_asks_by_himself_or_does_not_stream(path: str, data: dict[str, Any]) -> None:
    assert asking(path, json.dumps(data).encode(), data) is None


# The answer


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"choices": [{"text": '"usage":{"prompt_tokens":9}'}], "usage": USAGE}, READ),
        ({"data": [[0.1]], "usage": {"prompt_tokens": 7, "total_tokens": 7}}, {"prompt": 7}),
        ({"usage": {"total_tokens": 7}, "results": []}, {"prompt": 7}),
        (
            {
                "usage": {"input_tokens": 3, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 2}},
                "tools": [{"parameters": {"properties": {"usage": {"type": "string"}}}}],
            },
            READ,
        ),
        ({"usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 2}}, READ),
        ({"usage": {"prompt_tokens": None, "completion_tokens": True}}, {}),
        ({"usage": None}, {}),
        ({"text": "hi"}, {}),
    ],
)
@pytest.mark.parametrize("compact", [True, False])
def test_tokens_of_each_kind_of_answer_are_read(answer: dict[str, Any], tokens: dict[str, int], compact: bool) -> None:
    separators = (",", ":") if compact else None
    assert tokens_in(json.dumps(answer, separators=separators).encode()) == tokens


@pytest.mark.parametrize("body", [b"", b'"usage":{', b'"usage":{"prompt_tokens":1', b'"usage":{' * 1000])
def test_broken_answer_has_no_tokens(body: bytes) -> None:
    assert tokens_in(body) == {}


@given(st.lists(st.integers(1, len(ANSWER)), max_size=12))
def test_stream_torn_or_joined_anywhere_loses_the_hidden_event_and_no_other_byte(cuts: list[int]) -> None:
    bounds = sorted({0, *cuts, len(ANSWER)})
    parts = [ANSWER[a:b] for a, b in pairwise(bounds)]
    hiding, reading = Reader(hides=True, events=True), Reader(events=True)
    left = b"".join(hiding.chunk(part, more=i < len(parts) - 1) for i, part in enumerate(parts))
    assert left == ANSWER.replace(LAST, b"")
    assert [reading.chunk(part, more=i < len(parts) - 1) for i, part in enumerate(parts)] == parts
    assert tokens_of(hiding) == tokens_of(reading) == READ


def test_whole_events_leave_at_once() -> None:
    reader = Reader(hides=True)
    assert [reader.chunk(chunk, more=True) for chunk in CHUNKS] == CHUNKS
    assert reader.chunk(CHUNKS[0] + CHUNKS[1][:5], more=True) == CHUNKS[0]
    assert reader.chunk(CHUNKS[1][5:], more=True) == CHUNKS[1]


def test_usage_beside_choices_is_not_hidden() -> None:
    both = event({"choices": [{"delta": {}}], "usage": USAGE}, compact=True)
    reader = Reader(hides=True)
    assert reader.chunk(both, more=True) == both
    assert tokens_of(reader) == READ


def test_event_that_never_ends_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_EVENT", 10)
    reader = Reader(hides=True)
    assert reader.chunk(b"0123456789", more=True) == b""
    assert reader.chunk(b"0", more=True) == b"01234567890"
    assert reader.chunk(b"1", more=True) == b"1"


def test_anthropics_stream_tells_its_tokens_in_two_events() -> None:
    reader = Reader()
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}
    reader.chunk(b"event: message_start\n" + event(start, compact=True), more=True)
    reader.chunk(event({"type": "message_delta", "usage": {"output_tokens": 5}}), more=True)
    assert tokens_of(reader) == {"prompt": 3, "completion": 5, "cached": 0}


def test_response_tells_its_tokens_when_it_is_completed() -> None:
    reader = Reader()
    reader.chunk(event({"type": "response.created", "response": {"usage": None}}), more=True)
    done = {"input_tokens": 3, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 2}}
    reader.chunk(event({"type": "response.completed", "response": {"usage": done}}), more=False)
    assert tokens_of(reader) == READ


def test_stream_that_is_cut_counts_the_events_that_came() -> None:
    reader = Reader(hides=True, events=True)
    for chunk in CHUNKS:
        reader.chunk(chunk, more=True)
    assert tokens_of(reader) == {"prompt": 0, "completion": len(CHUNKS) - 1, "cached": 0}
