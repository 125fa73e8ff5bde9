"""POST /v1/completions: from a request to jobs, choices and shapes."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.engines.mlx.answers import CompletionShape, Frame
from deployments.engines.mlx.choice import Choice
from deployments.engines.mlx.jobs import Job, Started
from deployments.engines.mlx.model import Model
from deployments.engines.mlx.protocol import CompletionRequest
from deployments.engines.mlx.segments import PlainSegmenter
from deployments.engines.mlx.serving import Plan
from deployments.engines.mlx.stops import StopMatcher
from deployments.errors import InvalidRequest

DEFAULT_MAX_TOKENS = 16
"""OpenAI's for this route."""

MAX_CHOICES = 128


async def plan(request: CompletionRequest, model: Model) -> Plan:
    """Raises: InvalidRequest, ModelNotFound."""
    generator = model.find(request.model)
    prompts, n = request.prompts, request.n or 1
    if len(prompts) * n > MAX_CHOICES:
        raise InvalidRequest(f"{len(prompts)} prompts with n={n} are more than {MAX_CHOICES} choices.", param="prompt")
    for prompt in prompts:
        _check_prompt(prompt, model)
    limit = request.max_tokens or model.args.max_tokens or DEFAULT_MAX_TOKENS
    jobs = []
    for prompt in prompts:
        for i in range(n):
            sampling = request.sampling(model.args, index=i, top_logprobs=request.logprobs or 0)
            model.check_sampling(sampling)
            jobs.append(Job(prompt, sampling, limit))
    echo = [await _text(prompt, model) for prompt in prompts for _ in range(n)] if request.echo else []

    def choice(_: int, started: Started) -> Choice:
        return Choice(PlainSegmenter(), StopMatcher(request.stop or []))

    return Plan(
        generator=generator,
        frame=Frame(request.model, model.fingerprint, "cmpl"),
        shape=CompletionShape(echo=echo, logprobs=request.logprobs),
        jobs=jobs,
        make_choice=choice,
        per_prompt=n,
        spelling=None if request.logprobs is None else await model.vocabulary.load(),
        stream=bool(request.stream),
        include_usage=request.include_usage,
    )


def _check_prompt(prompt: str | Sequence[int], model: Model) -> None:
    if isinstance(prompt, str):
        return
    for token in prompt:
        if not 0 <= token < model.vocabulary_size:
            raise InvalidRequest(
                f"Invalid 'prompt': token {token} is not one of this model's {model.vocabulary_size}.",
                param="prompt",
            )


async def _text(prompt: str | Sequence[int], model: Model) -> str:
    return prompt if isinstance(prompt, str) else await model.vocabulary.text(prompt)
