from __future__ import annotations

import json
from typing import Any

import pytest
from mlx_lm.generate import TextStateMachine
from mlx_lm.tool_parsers import json_tools

from deployments.engines.mlx.answers import ChatShape, CompletionShape, merge_calls
from deployments.engines.mlx.choice import Choice, Delta
from deployments.engines.mlx.jobs import FinishReason, Token
from deployments.engines.mlx.logprobs import TokenLogprob, completion_logprobs
from deployments.engines.mlx.segments import GuidedCallSegmenter, PlainSegmenter, Segmenter, TemplateSegmenter
from deployments.engines.mlx.stops import StopMatcher

TOOLS = [{"type": "function", "function": {"name": "f"}}]


def machine() -> Any:
    """What mlx-lm builds for a template with `<think>` and `<tool_call>`."""
    return TextStateMachine(
        {
            "normal": [("<think>", "reasoning"), ("<tool_call>", "tool")],
            "reasoning": [("</think>", "normal"), ("<tool_call>", "tool")],
            "tool": [("</tool_call>", "normal")],
        }
    )


def template(tools: list[dict[str, Any]] | None = None, state: str = "normal") -> TemplateSegmenter:
    return TemplateSegmenter(machine(), state, json_tools.parse_tool_call, TOOLS if tools is None else tools)


def run(choice: Choice, texts: list[str], reason: FinishReason = "stop") -> list[Delta]:
    """Each text is a token that spells itself."""
    deltas = []
    for i, text in enumerate(texts):
        last = reason if i == len(texts) - 1 else None
        delta = choice.add(Token(i, text, -1.0, (), last), TokenLogprob(text.encode(), -1.0, ()))
        deltas.append(delta)
        if delta.finish_reason:
            break
    return deltas


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.content for delta in deltas)


def spelled(deltas: list[Delta]) -> str:
    return b"".join(entry.spelling for delta in deltas for entry in delta.logprobs).decode()


def test_tool_call_is_parsed_from_the_templates_marks() -> None:
    texts = ["Sure.", "<tool", "_call>", '{"name": "f", "argu', 'ments": {"a": 1}}', "</tool_call>", ""]
    deltas = run(Choice(template(), StopMatcher()), texts)
    [call] = merge_calls(call for delta in deltas for call in delta.calls)
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert call["id"].startswith("call_")
    assert text_of(deltas) == "Sure."
    assert deltas[-1].finish_reason == "tool_calls"


def test_two_tool_calls_get_two_indexes() -> None:
    one = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    deltas = run(Choice(template(), StopMatcher()), [one, one, ""])
    assert [call["index"] for delta in deltas for call in delta.calls] == [0, 1]


@pytest.mark.parametrize("broken", ["not json", '{"name": "f"}', "[]", "3"])
def test_garbled_tool_call_comes_out_as_content(broken: str) -> None:
    deltas = run(Choice(template(), StopMatcher()), [f"<tool_call>{broken}</tool_call>", ""])
    assert (text_of(deltas), deltas[-1].finish_reason) == (broken if broken != "[]" else "[]", "stop")


def test_call_without_offered_tools_is_content() -> None:
    deltas = run(Choice(template(tools=[]), StopMatcher()), ['<tool_call>{"name": "f", "arguments": {}}', ""])
    assert "f" in text_of(deltas)
    assert deltas[-1].finish_reason == "stop"


def test_reasoning_is_kept_apart() -> None:
    deltas = run(Choice(template(state="reasoning"), StopMatcher(["hm"])), ["hm", "</thi", "nk>", "Yes", ""])
    assert "".join(delta.reasoning for delta in deltas) == "hm"
    assert text_of(deltas) == "Yes"


def test_half_a_mark_at_the_end_is_content() -> None:
    assert text_of(run(Choice(template(), StopMatcher()), ["a <tool", ""])) == "a <tool"


CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'


@pytest.mark.parametrize("size", range(1, 60))
def test_guided_call_is_streamed_alike_for_every_token_size(size: int) -> None:
    texts = [CALL[i : i + size] for i in range(0, len(CALL), size)]
    deltas = run(Choice(GuidedCallSegmenter(), StopMatcher()), [*texts, ""])
    [call] = merge_calls(call for delta in deltas for call in delta.calls)
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert (text_of(deltas), deltas[-1].finish_reason) == ("", "tool_calls")


def test_guided_call_that_is_cut_keeps_all_its_arguments() -> None:
    deltas = run(Choice(GuidedCallSegmenter(), StopMatcher()), [CALL[:-1]], reason="length")
    [call] = merge_calls(call for delta in deltas for call in delta.calls)
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert deltas[-1].finish_reason == "length"


def test_named_call_finishes_with_stop() -> None:
    choice = Choice(GuidedCallSegmenter(), StopMatcher(), call_reason="stop")
    assert run(choice, [CALL, ""])[-1].finish_reason == "stop"


def test_logprobs_end_where_the_text_ends() -> None:
    deltas = run(Choice(PlainSegmenter(), StopMatcher(["Paris"])), ["It", " is", " Par", "is", "!"])
    assert text_of(deltas) == "It is "
    assert spelled(deltas) == "It is"
    assert len(deltas) == 4


def test_logprobs_come_with_their_text() -> None:
    deltas = run(Choice(PlainSegmenter(), StopMatcher(["END"])), ["a", "E", "N", "x", ""])
    assert [(delta.content, len(delta.logprobs)) for delta in deltas] == [
        ("a", 1),
        ("", 0),
        ("", 0),
        ("ENx", 3),
        ("", 0),
    ]


def test_end_token_has_no_logprob_and_the_last_token_of_a_cut_answer_has() -> None:
    def count(reason: FinishReason) -> int:
        deltas = run(Choice(PlainSegmenter(), StopMatcher()), ["a", "b"], reason)
        return sum(len(delta.logprobs) for delta in deltas)

    assert (count("stop"), count("length")) == (1, 2)


@pytest.mark.parametrize(("trim", "expected"), [(True, "a b"), (False, " a b")])
def test_first_space_is_trimmed_from_a_chat_only(trim: bool, expected: str) -> None:
    segmenter: Segmenter = PlainSegmenter()
    assert text_of(run(Choice(segmenter, StopMatcher(), trim=trim), ["", " a", " b", ""])) == expected


def test_whole_answer_is_the_sum_of_its_chunks() -> None:
    deltas = [Delta(content="a", reasoning="r"), Delta(content="b"), Delta(finish_reason="stop")]
    shape = ChatShape(logprobs=False)
    chunks = shape.first(0) + [chunk for delta in deltas for chunk in shape.chunks(0, delta)]
    assert [chunk["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "r", "content": "a"},
        {"content": "b"},
        {},
    ]
    assert [chunk["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert shape.choice(0, deltas)["message"]["content"] == "ab"


def test_text_offsets_go_on_through_a_stream() -> None:
    shape = CompletionShape(echo=["hi"], logprobs=0)
    entry = TokenLogprob(b"abc", -1.0, ())
    chunks = (
        shape.first(0)
        + shape.chunks(0, Delta("abc", logprobs=[entry]))
        + shape.chunks(0, Delta("abc", logprobs=[entry]))
    )
    assert [chunk["logprobs"] and chunk["logprobs"]["text_offset"] for chunk in chunks] == [None, [2], [5]]


def test_parts_of_a_character_keep_their_bytes() -> None:
    shape = completion_logprobs([TokenLogprob(b"\xc3", -1.0, ((b"\xc3", -1.0), (b"\xe2", -2.0)))], 0, top=True)
    assert shape["top_logprobs"] == [{"bytes:\\xc3": -1.0, "bytes:\\xe2": -2.0}]
