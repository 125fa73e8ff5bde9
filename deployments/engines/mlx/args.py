"""What `engine_args` of an mlx model may say. Imports neither mlx nor transformers: the config validator reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]


class MLXArgs(BaseModel):
    """decode_concurrency, prompt_concurrency: sequences decoded and prefilled together.
    prefill_step_size: prompt tokens a step, between which other answers advance and a cancel is seen.
    prompt_cache_size, prompt_cache_mb: how many prompts' KV caches are kept, and how large they may be together.
    kv_bits: quantizes the KV cache; requests are then served one after the other.
    context_length: default is the model's `max_position_embeddings`.
    max_tokens: answer length when the request sets none; default is until the context is full.
    temperature, top_p, top_k, min_p: used where a request sets none.
    Embedding models heed only prefill_step_size (tokens of the texts that are run together, padding included),
    context_length and trust_remote_code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    decode_concurrency: Count = 32
    prompt_concurrency: Count = 8
    prefill_step_size: Count = 2048
    prompt_cache_size: Count = 10
    prompt_cache_mb: Count | None = None
    kv_bits: Literal[2, 3, 4, 6, 8] | None = None
    context_length: Count | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    chat_template: str | None = None
    chat_template_args: dict[str, Any] = {}
    trust_remote_code: bool = False
