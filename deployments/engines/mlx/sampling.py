"""Samplers and logits processors of one sequence. They run in mlx-lm's thread and must never raise there.

MLX arrays belong to the thread that made them, so nothing here makes one before it is called from that thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    greedy_sampler,
    make_repetition_penalty,
)

from deployments.engines.mlx.jobs import Guide, Job, Sampling

Array = Any
Processor = Callable[[Array, Array], Array]

log = logging.getLogger("ray.serve.llm_manager")

_COLDEST = 1e-4  # below, the division overflows


def make_sampler(sampling: Sampling) -> Callable[[Array], Array]:
    """Greedy, or sampling with a random key of its own.

    mlx-lm seeds the process's random state instead and then serves seeded requests one by one; with a key of its own
    a seeded sequence is batched like any other.
    """
    if sampling.temperature < _COLDEST:
        return greedy_sampler  # type: ignore[no-any-return]  # one shared function: mlx-lm batches its calls
    filters = _filters(sampling)
    key = None if sampling.seed is None else mx.random.key(sampling.seed % 2**64)

    def sample(logprobs: Array) -> Array:
        nonlocal key
        use = None
        if key is not None:
            keys = mx.random.split(key)
            key, use = keys[0], keys[1]
        for keep in filters:
            logprobs = keep(logprobs)
        return mx.random.categorical(logprobs * (1 / sampling.temperature), key=use)

    return sample


def _filters(sampling: Sampling) -> list[Callable[[Array], Array]]:
    filters: list[Callable[[Array], Array]] = []
    if 0 < sampling.top_p < 1:
        filters.append(lambda x: apply_top_p(x, sampling.top_p))
    elif sampling.top_p == 0:
        filters.append(lambda x: apply_top_k(x, 1))
    if sampling.min_p > 0:
        filters.append(lambda x: apply_min_p(x, sampling.min_p))
    if sampling.top_k > 0:
        filters.append(lambda x: apply_top_k(x, min(sampling.top_k, x.shape[-1] - 1)))
    return filters


class Guard:
    """All logits processors of one sequence, as one that never raises: an exception would end mlx-lm's thread.

    failure: why the sequence was ended early, if it was.
    """

    def __init__(self, processors: Iterable[Processor], eos: Iterable[int]) -> None:
        self._processors = list(processors)
        self._eos = sorted(eos)
        self.failure: Exception | None = None

    def __call__(self, tokens: Array, logits: Array) -> Array:
        if self.failure is None:
            try:
                for process in self._processors:
                    logits = process(tokens, logits)
                return logits
            except Exception as error:
                log.exception("A logits processor failed; its sequence ends here")
                self.failure = error
        width = logits.shape[-1]
        forced = mx.full((1, width), -mx.inf, dtype=logits.dtype)
        forced[:, mx.array([token for token in self._eos if token < width])] = 0
        return forced


def make_processors(job: Job) -> list[Processor]:
    sampling = job.sampling
    processors: list[Processor] = []
    if sampling.logit_bias:
        processors.append(_bias(dict(sampling.logit_bias)))
    if sampling.repetition_penalty != 1:
        penalty, size = sampling.repetition_penalty, sampling.repetition_context_size
        processors.append(make_repetition_penalty(penalty, size))
    if sampling.presence_penalty or sampling.frequency_penalty:
        processors.append(_penalties(sampling.presence_penalty, sampling.frequency_penalty))
    if job.guide is not None:
        processors.append(_mask(job.guide))
    return processors


def _bias(bias: dict[int, float]) -> Processor:
    tokens, values = mx.array(list(bias)), mx.array(list(bias.values()))
    return lambda _, logits: logits.at[:, tokens].add(values.astype(logits.dtype))


def _penalties(presence: float, frequency: float) -> Processor:
    """OpenAI's: over the whole answer and not the prompt, where mlx-lm's are over the last 20 tokens of both."""
    start: int | None = None

    def penalise(tokens: Array, logits: Array) -> Array:
        nonlocal start
        if start is None:
            start = len(tokens)
        answer = tokens[start:]
        if len(answer):
            logits = logits.at[:, answer].subtract(frequency)
            logits[:, answer] = logits[:, answer] - presence
        return logits

    return penalise


def _mask(guide: Guide) -> Processor:
    started = False

    def mask(tokens: Array, logits: Array) -> Array:
        nonlocal started
        last = int(tokens[-1].item()) if started else None
        started = True
        allowed = mx.array(guide.allowed(last)[: logits.shape[-1]])
        # A model may have more logits than the tokenizer has tokens.
        missing = logits.shape[-1] - allowed.shape[0]
        if missing > 0:
            allowed = mx.concatenate([allowed, mx.zeros(missing, dtype=mx.bool_)])
        return mx.where(allowed, logits, mx.array(-mx.inf, dtype=logits.dtype))

    return mask
