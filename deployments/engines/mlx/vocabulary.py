"""What each token is in bytes, as llguidance reads it from the tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from deployments.errors import InvalidRequest


class Vocabulary:
    """Built by the first request that needs it: it takes up to a second."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._building: asyncio.Future[Any] | None = None

    async def load(self) -> Any:
        """The `LLTokenizer`. Raises: InvalidRequest when the tokenizer is not of the fast kind."""
        if self._building is None:
            self._building = asyncio.ensure_future(asyncio.to_thread(self._build))
        try:
            return await asyncio.shield(self._building)
        except ValueError as error:
            raise InvalidRequest(
                f"This model's tokenizer allows neither log probabilities nor guided output: {error}",
                code="unsupported_parameter",
            ) from error

    async def text(self, tokens: Sequence[int]) -> str:
        spelled: bytes = (await self.load()).decode_bytes(list(tokens))
        return spelled.decode("utf-8", "replace")

    def _build(self) -> Any:
        from llguidance.hf import from_tokenizer

        eos = sorted(self._tokenizer.eos_token_ids)
        return from_tokenizer(self._tokenizer._tokenizer, eos_token=eos)  # the wrapper hides the tokenizer itself
