"""Runs a request's jobs and renders what comes out, whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.engines.mlx.answers import DONE, ChatShape, CompletionShape, Frame, Usage, event
from deployments.engines.mlx.choice import Choice, Delta
from deployments.engines.mlx.generator import Generator
from deployments.engines.mlx.jobs import Job, Started
from deployments.engines.mlx.logprobs import spell


@dataclass(frozen=True)
class Plan:
    """One answer to write. per_prompt: jobs that share a prompt, side by side.
    spelling: the vocabulary, where log probabilities were asked for."""

    generator: Generator
    frame: Frame
    shape: ChatShape | CompletionShape
    jobs: Sequence[Job]
    make_choice: Callable[[int, Started], Choice]
    per_prompt: int
    spelling: Any
    stream: bool
    include_usage: bool


async def whole(plan: Plan) -> dict[str, Any]:
    usage = Usage()
    deltas: list[list[Delta]] = [[] for _ in plan.jobs]
    async for index, delta in _deltas(plan, usage):
        deltas[index].append(delta)
    choices = [plan.shape.choice(index, delta) for index, delta in enumerate(deltas)]
    return {**plan.frame.wrap(plan.shape.kind, choices), "usage": usage.body()}


async def events(plan: Plan) -> AsyncIterator[bytes]:
    """The first comes with the first token: until then a failure is still an answer of its own."""
    usage = Usage()
    kind, extra = plan.shape.chunk_kind, {"usage": None} if plan.include_usage else {}
    begun: set[int] = set()
    async for index, delta in _deltas(plan, usage):
        chunks = plan.shape.chunks(index, delta)
        if index not in begun:
            begun.add(index)
            chunks = plan.shape.first(index) + chunks
        if chunks:
            yield b"".join(event({**plan.frame.wrap(kind, [chunk]), **extra}) for chunk in chunks)
    if plan.include_usage:
        yield event({**plan.frame.wrap(kind, []), "usage": usage.body()})
    yield DONE


async def _deltas(plan: Plan, usage: Usage) -> AsyncIterator[tuple[int, Delta]]:
    choices: dict[int, Choice] = {}
    submission = plan.generator.submit(plan.jobs)
    try:
        async for index, item in submission:
            if isinstance(item, Started):
                choices[index] = plan.make_choice(index, item)
                if index % plan.per_prompt == 0:
                    usage.prompt_tokens += len(item.prompt)
                    usage.cached_tokens += item.cached_tokens
                continue
            logprob = None if plan.spelling is None else spell(item, plan.spelling)
            usage.completion_tokens += 1
            delta = choices[index].add(item, logprob)
            if delta.finish_reason is not None:
                submission.stop(index)
            yield index, delta
    finally:
        submission.close()
