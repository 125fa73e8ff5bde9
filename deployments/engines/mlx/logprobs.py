"""Log probabilities in OpenAI's two shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.engines.mlx.jobs import Token

_IMPOSSIBLE = -9999.0  # what OpenAI says where the logarithm is minus infinity, which JSON cannot


@dataclass(frozen=True)
class TokenLogprob:
    spelling: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


def spell(token: Token, vocabulary: Any) -> TokenLogprob:
    def one(id_: int) -> bytes:
        # A model may have more logits than the tokenizer has tokens.
        return bytes(vocabulary.decode_bytes([id_])) if id_ < vocabulary.vocab_size else b""

    top = tuple((one(id_), _finite(logprob)) for id_, logprob in token.top)
    return TokenLogprob(one(token.id), _finite(token.logprob), top)


def chat_logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {**_chat_entry(e.spelling, e.logprob), "top_logprobs": [_chat_entry(*top) for top in e.top]}
            for e in entries
        ],
        "refusal": None,
    }


def completion_logprobs(entries: Sequence[TokenLogprob], offset: int, *, top: bool) -> dict[str, Any]:
    """offset: characters of the text before the first of the entries."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.spelling.decode("utf-8", "ignore"))
    return {
        "tokens": [_label(e.spelling) for e in entries],
        "token_logprobs": [e.logprob for e in entries],
        "top_logprobs": [{_label(s): p for s, p in reversed(e.top)} for e in entries] if top else None,
        "text_offset": offsets,
    }


def _chat_entry(spelling: bytes, logprob: float) -> dict[str, Any]:
    text = spelling.decode("utf-8", "replace")
    return {"token": text, "logprob": logprob, "bytes": list(spelling)}


def _label(spelling: bytes) -> str:
    """A part of a character has no text, and two of them must not share a key."""
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelling)


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _IMPOSSIBLE
