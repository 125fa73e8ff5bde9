"""mlx-lm's detokenizers, so that they never raise in its thread and lose no space."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("ray.serve.llm_manager")


class SafeDetokenizer:
    """Theirs raise on ids beyond the tokenizer's vocabulary, which a model with padded logits may sample, and drop an
    answer's first space, which a completion needs. Such ids have no text here."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __copy__(self) -> SafeDetokenizer:
        return SafeDetokenizer(copy.copy(self._inner))

    def reset(self) -> None:
        self._inner.reset()
        if "text" in vars(self._inner):
            # They take the first space off as long as they have no text.
            self._inner.text, self._inner.offset = "\n", 1

    def add_token(self, token: int) -> None:
        self._safely(lambda: self._inner.add_token(token))

    def finalize(self) -> None:
        self._safely(self._inner.finalize)

    @property
    def last_segment(self) -> str:
        return self._safely(lambda: self._inner.last_segment) or ""

    def _safely(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception:
            log.warning("A token has no text", exc_info=True)
            return None
