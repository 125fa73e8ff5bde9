"""Tools: whether a request may use them, and how the model is told of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from deployments.engines.mlx.messages import NamedTool, Tool
from deployments.engines.mlx.protocol import ChatRequest
from deployments.errors import InvalidRequest

_PROMPT = """You can call these functions:
{tools}
Answer with one function call as JSON: {{"name": function name, "arguments": object}}."""


def shown(request: ChatRequest) -> list[Tool]:
    """The tools that the model may use for this answer."""
    return [] if request.tool_choice == "none" else request.tools or []


def forced(request: ChatRequest) -> list[Tool]:
    """The tools of which one has to be called; none where the model may choose.

    Raises: InvalidRequest when `tool_choice` asks for what is not there.
    """
    tools, choice = request.tools or [], request.tool_choice
    names = [tool.function.name for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InvalidRequest(
                f"Two tools are named '{name}'.", param=f"tools[{i}].function.name", code="duplicate_name"
            )
    if choice in ("auto", "required") and not tools:
        raise InvalidRequest("'tool_choice' is only allowed when 'tools' are given.", param="tool_choice")
    if choice == "required":
        return tools
    if isinstance(choice, NamedTool):
        named = [tool for tool in tools if tool.function.name == choice.function.name]
        if not named:
            raise InvalidRequest(
                f"'tool_choice' names '{choice.function.name}', which is not in 'tools'.",
                param="tool_choice.function.name",
            )
        return named
    return []


def as_text(messages: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The messages for a template that knows no tools: tools, calls and results become text."""
    plain = [_as_text(message) for message in messages]
    if not tools:
        return plain
    listed = "\n".join(json.dumps(tool.function.model_dump(exclude_none=True)) for tool in tools)
    prompt = _PROMPT.format(tools=listed)
    if plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{prompt}"}, *plain[1:]]
    return [{"role": "system", "content": prompt}, *plain]


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of the function call:\n{message['content']}"}
    if calls := message.get("tool_calls"):
        written = [_call(call["function"]["name"], call["function"]["arguments"]) for call in calls]
        return {"role": message["role"], "content": "\n".join(filter(None, [message["content"], *written]))}
    return message


def _call(name: str, arguments: str) -> str:
    return f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'
