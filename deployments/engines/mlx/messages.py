"""Chat messages and tools, as a request may hold them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def broken_rule(param: str, message: str) -> PydanticCustomError:
    """A rule over several fields, told as the mistake of one."""
    return PydanticCustomError("rule", "{message}", {"param": param, "message": message})


def _refuse(value: Any) -> None:
    if value is not None:
        raise PydanticCustomError("unsupported", "is not supported by this model's engine: leave it out.")


Refused = Annotated[Any, AfterValidator(_refuse)]
"""A field of OpenAI's that would change the answer and cannot."""


def _known_part(kind: str) -> str:
    if kind not in ("text", "refusal"):
        raise PydanticCustomError("unsupported", "must be 'text': this model's engine reads text only.")
    return kind


class Part(Strict):
    type: Annotated[str, AfterValidator(_known_part)]
    text: str = ""
    refusal: str = ""
    prompt_cache_breakpoint: Any = None

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, value: Any) -> Any:
        # An image part's own fields would otherwise be the first thing found wrong with it.
        if isinstance(value, dict) and isinstance(value.get("type"), str):
            kind: str = value["type"]
            if kind not in ("text", "refusal"):
                return {"type": kind}
            if kind not in value:
                raise broken_rule(kind, f"a part of type '{kind}' needs a '{kind}'")
        return value


def _string_or_list(value: Any) -> str:
    return "list" if isinstance(value, list) else "string"


Content = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[Part], Field(min_length=1), Tag("list")],
    Discriminator(_string_or_list),
]


def _arguments(text: str) -> str:
    # The chat templates are given them as an object.
    try:
        parsed = json.loads(text or "{}")
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise PydanticCustomError("json", "it should be a JSON object in a string")
    return text or "{}"


class CalledFunction(Strict):
    name: str
    arguments: Annotated[str, AfterValidator(_arguments)]


class ToolCall(Strict):
    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None


class _Message(Strict):
    name: str | None = None


class SystemMessage(_Message):
    role: Literal["system", "developer"]
    content: Content


class UserMessage(_Message):
    role: Literal["user"]
    content: Content


class AssistantMessage(_Message):
    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)] | None = None
    annotations: Any = None
    audio: Refused = None
    function_call: Refused = None

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and self.tool_calls is None and self.refusal is None:
            raise broken_rule("content", "an assistant message needs 'content' or 'tool_calls'")
        return self


class ToolMessage(_Message):
    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


def for_template(message: SystemMessage | UserMessage | AssistantMessage | ToolMessage) -> dict[str, Any]:
    """The message as chat templates read it: content is text, and `developer` is the newer name of `system`."""
    plain = message.model_dump(exclude_none=True, exclude={"content", "annotations", "refusal"})
    if plain["role"] == "developer":
        plain["role"] = "system"
    content = message.content
    if content is None:
        content = getattr(message, "refusal", None) or ""
    plain["content"] = content if isinstance(content, str) else "".join(p.text or p.refusal for p in content)
    return plain


FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(Strict):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class NamedFunction(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")] | Annotated[NamedTool, Tag("named")],
    Discriminator(lambda value: "named" if isinstance(value, dict) else "word"),
]
