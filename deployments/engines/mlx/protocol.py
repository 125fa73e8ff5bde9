"""The requests, as OpenAI defines them. What this engine cannot do is refused, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from deployments.engines.mlx.args import MLXArgs
from deployments.engines.mlx.jobs import Sampling
from deployments.engines.mlx.messages import Message, Refused, Strict, Tool, ToolChoice, broken_rule

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Int32 = Annotated[int, Field(le=2**31 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
MaxTokens = Annotated[Int32, Field(ge=1)]


_TEMPLATE_ARGUMENTS = frozenset(
    {
        "conversation",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)
"""What transformers' `apply_chat_template` takes itself: it could return something else than token ids."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stops = Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(max_length=4), BeforeValidator(_as_list)]


def _token_ids(bias: dict[str, float]) -> dict[str, float]:
    for key in bias:
        if not (key.isascii() and key.isdecimal()):
            raise PydanticCustomError("token", "its keys should be token ids, not '{key}'", {"key": key})
    return bias


LogitBias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], AfterValidator(_token_ids)]


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Request(Strict):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Stops | None = None
    seed: Int64 | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None

    # Beyond OpenAI, with the names that other servers give them.
    top_k: Annotated[Int32, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    repetition_context_size: Annotated[Int32, Field(ge=1)] | None = None

    # Without effect on the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> _Request:
        if self.stream_options is not None and not self.stream:
            raise broken_rule("stream_options", "it is only allowed when 'stream' is true")
        return self

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, defaults: MLXArgs, *, index: int = 0, top_logprobs: int = 0) -> Sampling:
        """Of the choice with that index."""

        def given(value: float | None, default: float) -> float:
            return default if value is None else value

        return Sampling(
            temperature=given(self.temperature, defaults.temperature),
            top_p=given(self.top_p, defaults.top_p),
            top_k=defaults.top_k if self.top_k is None else self.top_k,
            min_p=given(self.min_p, defaults.min_p),
            seed=None if self.seed is None else self.seed + index,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            repetition_context_size=self.repetition_context_size or 20,
            top_logprobs=top_logprobs,
        )


class JsonSchema(Strict):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def _template_variables(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if name in _TEMPLATE_ARGUMENTS:
            raise PydanticCustomError("template", "'{name}' is not for a request to set", {"name": name})
    return given


class ChatRequest(_Request):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_template_variables)] | None = None

    # Without effect on the answer.
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    audio: Refused = None
    prediction: Refused = None
    functions: Refused = None
    function_call: Refused = None
    web_search_options: Refused = None
    verbosity: Refused = None
    reasoning_effort: Refused = None
    moderation: Refused = None

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise broken_rule("top_logprobs", "it is only allowed when 'logprobs' is true")
        return self


def _prompt_kind(value: Any) -> Any:
    strings = isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
    if isinstance(value, str) or strings or _is_tokens(value):
        return value
    if isinstance(value, list) and value and all(_is_tokens(item) for item in value):
        return value
    raise PydanticCustomError(
        "prompt", "it should be a string, a list of strings, a list of token ids or a list of such lists"
    )


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


Prompts = Annotated[Any, AfterValidator(_prompt_kind)]
"""Text, tokens, or a list of either."""


def as_list(prompts: Any) -> list[str | list[int]]:
    return [prompts] if isinstance(prompts, str) or isinstance(prompts[0], int) else list(prompts)


class CompletionRequest(_Request):
    prompt: Prompts
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    suffix: Refused = None

    @model_validator(mode="after")
    def _possible(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise broken_rule("best_of", "other than 'n' is not supported")
        if self.echo and self.logprobs is not None:
            raise broken_rule("echo", "together with 'logprobs' it is not supported")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        return as_list(self.prompt)


class EmbeddingRequest(Strict):
    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None

    # Without effect on the answer.
    user: str | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        return as_list(self.input)
