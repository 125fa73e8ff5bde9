"""What a model's folder says about the model, beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_length", "max_seq_len", "seq_length", "n_ctx")
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, with the keys of a language model that is a part of a larger one."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return {**config, **(config.get("text_config") or {})}


def context_length(config: dict[str, Any]) -> int | None:
    """Tokens that the model has positions for."""
    length = first_int(config, _CONTEXT_KEYS)
    if length is not None and config.get("model_type") in _OFFSET_POSITIONS:
        return length - (first_int(config, ("pad_token_id",)) or 0) - 1  # their positions begin after that of padding
    return length


def vocabulary_size(config: dict[str, Any], tokens: int) -> int:
    """Tokens that both the tokenizer, which has so many, and the weights know."""
    return min(tokens, first_int(config, ("vocab_size",)) or tokens)


def first_int(config: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)
