"""Output that follows a grammar, by llguidance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from deployments.errors import InvalidRequest

# A small model that may write any white space can write nothing else until its tokens run out.
_JSON_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarGuide:
    """The next tokens that a grammar allows; when it is complete, only the end of the answer."""

    def __init__(self, vocabulary: Any, grammar: str) -> None:
        self._matcher = LLMatcher(vocabulary, grammar, log_level=0)
        self._bits = allocate_token_bitmask(1, vocabulary.vocab_size)
        self._size: int = vocabulary.vocab_size

    def allowed(self, last_token: int | None) -> NDArray[np.bool_]:
        # mlx-lm computes one step beyond the end: a complete grammar is asked again and allows the end again.
        if last_token is not None and not self._matcher.is_stopped():
            self._matcher.consume_token(last_token)
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())
        fill_next_token_bitmask(self._matcher, self._bits)
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._size]
        return bits.view(np.bool_)


def schema_grammar(schema: Mapping[str, Any]) -> str:
    grammar: str = LLMatcher.grammar_from_json_schema(dict(schema), defaults=_JSON_OPTIONS)
    return grammar


def call_grammar(tools: Iterable[tuple[str, Mapping[str, Any] | None]]) -> str:
    """`{"name": …, "arguments": …}` of one of the tools. tools: names and JSON schemas of the arguments."""
    rules = []
    for i, (name, parameters) in enumerate(tools):
        # Each schema stands as a document of its own, so that `#/$defs/…` in it still resolves.
        schema = {"x-guidance": _JSON_OPTIONS, "type": "object", **(parameters or {})}
        prefix = json.dumps(f'{{"name": {json.dumps(name)}, "arguments": ')
        rules.append(f'call{i}: {prefix} arguments{i} "}}"\narguments{i}: %json {json.dumps(schema)}\n')
    start = " | ".join(f"call{i}" for i in range(len(rules)))
    grammar: str = LLMatcher.grammar_from_lark(f"start: {start}\n" + "".join(rules))
    return grammar


def check(grammar: str, vocabulary: Any, param: str) -> None:
    """Raises: InvalidRequest with llguidance's reason when the grammar cannot be compiled."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, vocabulary)
    if failed:
        raise InvalidRequest(f"Invalid schema in '{param}': {messages[0]}", param=param, code="invalid_schema")
