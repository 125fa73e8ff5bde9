"""POST /v1/chat/completions: from a request to jobs, choices and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deployments.engines.mlx import guidance, tools
from deployments.engines.mlx.answers import ChatShape, Frame
from deployments.engines.mlx.choice import Choice
from deployments.engines.mlx.jobs import Chat, Guide, Job, Started
from deployments.engines.mlx.messages import NamedTool, Tool, for_template
from deployments.engines.mlx.model import Model
from deployments.engines.mlx.protocol import ChatRequest, JsonObjectFormat, JsonSchemaFormat
from deployments.engines.mlx.segments import GuidedCallSegmenter, PlainSegmenter, Segmenter, TemplateSegmenter
from deployments.engines.mlx.serving import Plan
from deployments.engines.mlx.stops import StopMatcher
from deployments.errors import InvalidRequest


async def plan(request: ChatRequest, model: Model) -> Plan:
    """Raises: InvalidRequest, ModelNotFound."""
    generator = model.find(request.model)
    if not model.generator.tokenizer.has_chat_template:
        raise InvalidRequest("This model has no chat template: use /v1/completions.", param="messages")
    forced = tools.forced(request)
    _check_tools(request, model, forced)
    grammar = await _grammar(request, model, forced)
    chat = _chat(request, model, guided=grammar is not None)
    vocabulary = await model.vocabulary.load() if request.logprobs or grammar else None
    jobs = []
    for i in range(request.n or 1):
        sampling = request.sampling(model.args, index=i, top_logprobs=request.top_logprobs or 0)
        model.check_sampling(sampling)
        guide: Guide | None = guidance.GrammarGuide(vocabulary, grammar) if grammar else None
        limit = request.max_completion_tokens or request.max_tokens or model.args.max_tokens
        jobs.append(Job(chat, sampling, limit, guide))

    def choice(_: int, started: Started) -> Choice:
        named = isinstance(request.tool_choice, NamedTool)
        return Choice(
            _segmenter(request, started, forced=forced, guided=grammar is not None),
            StopMatcher([] if forced else request.stop or []),
            call_reason="stop" if named else "tool_calls",
            trim=True,
        )

    return Plan(
        generator=generator,
        frame=Frame(request.model, model.fingerprint, "chatcmpl"),
        shape=ChatShape(logprobs=bool(request.logprobs)),
        jobs=jobs,
        make_choice=choice,
        per_prompt=request.n or 1,
        spelling=vocabulary if request.logprobs else None,
        stream=bool(request.stream),
        include_usage=request.include_usage,
    )


def _check_tools(request: ChatRequest, model: Model, forced: Sequence[Tool]) -> None:
    if forced or not tools.shown(request):
        return
    if not model.generator.tokenizer.has_tool_calling:
        raise InvalidRequest(
            "This model's chat template has no tool calling, so it cannot choose to call one: set 'tool_choice' to "
            "'required' or to a function.",
            param="tools",
            code="unsupported_parameter",
        )
    if isinstance(request.response_format, JsonObjectFormat | JsonSchemaFormat):
        raise InvalidRequest(
            "'response_format' cannot be enforced while the model may call tools: set 'tool_choice' to 'none', "
            "'required' or a function.",
            param="response_format",
            code="unsupported_parameter",
        )


async def _grammar(request: ChatRequest, model: Model, forced: Sequence[Tool]) -> str | None:
    wanted = request.response_format
    if forced:
        for i, tool in enumerate(request.tools or []):
            if tool in forced:
                one = guidance.call_grammar([(tool.function.name, tool.function.parameters)])
                guidance.check(one, await model.vocabulary.load(), f"tools[{i}].function.parameters")
        return guidance.call_grammar((tool.function.name, tool.function.parameters) for tool in forced)
    if isinstance(wanted, JsonObjectFormat):
        return guidance.schema_grammar({"type": "object"})
    if isinstance(wanted, JsonSchemaFormat):
        schema = wanted.json_schema.schema_
        grammar = guidance.schema_grammar({"type": "object"} if schema is None else schema)
        guidance.check(grammar, await model.vocabulary.load(), "response_format.json_schema.schema")
        return grammar
    return None


def _chat(request: ChatRequest, model: Model, *, guided: bool) -> Chat:
    messages = [for_template(message) for message in request.messages]
    template_args: dict[str, Any] = {**model.args.chat_template_args, **(request.chat_template_kwargs or {})}
    if guided:
        # A grammar leaves no room to think first.
        template_args["enable_thinking"] = False
    shown = tools.shown(request)
    if not model.generator.tokenizer.has_tool_calling:
        return Chat(tools.as_text(messages, shown), None, template_args)
    return Chat(messages, [tool.for_template() for tool in shown] or None, template_args)


def _segmenter(request: ChatRequest, started: Started, *, forced: Sequence[Tool], guided: bool) -> Segmenter:
    if forced:
        return GuidedCallSegmenter()
    if guided:
        return PlainSegmenter()
    shown = [tool.for_template() for tool in tools.shown(request)]
    return TemplateSegmenter(started.machine, started.state, started.tool_parser, shown or None)
