"""Tokenizers outlive their models: reading one takes as long as the weights of a small model, and in a pool models
come back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlx_lm import utils

from deployments.engines.mlx.detokenizer import SafeDetokenizer

KEPT = 4
"""Of the process's last models: some MB each."""

_read = utils.load_tokenizer


def load(
    folder: Path, config: Mapping[str, Any] | None = None, eos_token_ids: int | Sequence[int] | None = None
) -> Any:
    """In the place of mlx-lm's `load_tokenizer`: one that was read before, unless its folder has changed."""
    eos = tuple(eos_token_ids) if isinstance(eos_token_ids, Sequence) else eos_token_ids
    changed = max(file.stat().st_mtime_ns for file in folder.iterdir())
    return _kept(folder, json.dumps(dict(config or {}), sort_keys=True), eos, changed)


@lru_cache(KEPT)
def _kept(folder: Path, config: str, eos: int | tuple[int, ...] | None, changed: int) -> Any:
    tokenizer = _read(folder, json.loads(config), eos_token_ids=list(eos) if isinstance(eos, tuple) else eos)
    tokenizer._detokenizer = SafeDetokenizer(tokenizer._detokenizer)
    return tokenizer
