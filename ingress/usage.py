"""The tokens of an answer, read from its bytes as they pass.

OpenAI's engines tell a stream's usage if they are asked to. The ingress asks where the client did not, and takes the
event that tells it out of the stream: the one without choices, before `[DONE]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

END = b"\n\n"
MAX_EVENT = 2**20  # bytes of an event that are waited for
MAX_USAGE = 4096
LAST = 2048  # bytes of a stream's end that hold its usage, where it comes last

ASKED = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Paths of streams that tell their usage only if they are asked to."""

_USAGE = b'"usage":'
_NEEDLES = (_USAGE + b"{", _USAGE + b" {")  # unescaped: within a string it cannot stand
_ASK = b'"stream_options": {"include_usage": true}, '
_FIELDS = {
    "total_tokens": "prompt",  # of what generates nothing
    "prompt_tokens": "prompt",
    "input_tokens": "prompt",
    "completion_tokens": "completion",
    "output_tokens": "completion",
    "cache_read_input_tokens": "cached",
}
_DECODER = json.JSONDecoder()


def asking(path: str, body: bytes, data: Mapping[str, Any]) -> bytes | None:
    """The body of a request for a stream, with the question for its usage; None if it is none, or asks by itself.

    data: what the body says.
    """
    if path not in ASKED or data.get("stream") is not True:
        return None
    options = data.get("stream_options")
    if options is None and "stream_options" not in data and body.startswith(b'{"'):
        return b"{" + _ASK + body[1:]
    if options is None:
        options = {}
    if not isinstance(options, dict) or options.get("include_usage") not in (None, False):
        return None
    # Engines heed it only beside include_usage, and the client did not ask for that.
    kept = {key: value for key, value in options.items() if key != "continuous_usage_stats"}
    return json.dumps({**data, "stream_options": {**kept, "include_usage": True}}).encode()


def tokens_in(data: bytes) -> dict[str, int]:
    """`prompt`, `completion` and `cached` tokens, those of them that the last usage in an answer or event tells."""
    at = len(data)
    while (at := max(data.rfind(needle, 0, at) for needle in _NEEDLES)) >= 0:
        start = data.index(b"{", at)
        try:
            usage, _ = _DECODER.raw_decode(data[start : start + MAX_USAGE].decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            continue
        if tokens := _tokens(usage):
            return tokens
    return {}


def _tokens(usage: Mapping[str, Any]) -> dict[str, int]:
    found = {ours: usage[theirs] for theirs, ours in _FIELDS.items() if _is_count(usage.get(theirs))}
    for details in (usage.get("prompt_tokens_details"), usage.get("input_tokens_details")):
        if isinstance(details, dict) and _is_count(details.get("cached_tokens")):
            found["cached"] = details["cached_tokens"]
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class Reader:
    """Of one answer."""

    def __init__(self, *, hides: bool = False, events: bool = False) -> None:
        """hides: the event that tells a stream's usage is not for the client. events: each event brings a
        token, and the last one but for `[DONE]` the usage."""
        self._hides = hides
        self._counts = events
        self._events = 0
        self._tail: bytes = b""  # of an event that is not whole yet
        self._lost = False
        self._found: dict[str, int] = {}

    @property
    def prompt(self) -> int:
        return self._found.get("prompt", 0)

    @property
    def completion(self) -> int:
        """Of a stream that was cut before it told them: its events but for the first, which brings the role."""
        if self._found or not self._counts:
            return self._found.get("completion", 0)
        return max(0, self._events - 1)

    @property
    def cached(self) -> int:
        return self._found.get("cached", 0)

    def whole(self, body: bytes) -> None:
        self._found = tokens_in(body)

    def chunk(self, chunk: bytes, *, more: bool) -> bytes:
        """The next bytes of a stream → those that may leave. An event that is not whole waits where one is to be
        hidden: nobody could read it yet."""
        if self._lost:
            return chunk
        data = self._tail + chunk if self._tail else chunk
        self._tail = b""
        if more and not data.endswith(END):
            cut = data.rfind(END) + len(END) if END in data else 0
            data, self._tail = data[:cut], data[cut:]
            if len(self._tail) > MAX_EVENT:
                data, self._tail, self._lost = data + self._tail, b"", True
        self._events += _lines_in(data) // 2 if self._counts else 0
        if (at := _last_usage_at(data) if self._counts else _usage_at(data, 0)) >= 0:
            data = self._read(data, at)
        return data if self._hides else chunk

    def _read(self, data: bytes, at: int) -> bytes:
        """Reads the events that tell usage, the first one at `at`. Returns those that are for the client."""
        kept, done = [], 0
        while at >= 0:
            before, after = data.rfind(END, 0, at), data.find(END, at)
            begin = 0 if before < 0 else before + len(END)
            end = len(data) if after < 0 else after + len(END)
            if self._takes(data[begin:end]):
                kept.append(data[done:begin])
                done = end
            at = _usage_at(data, end)
        return b"".join((*kept, data[done:]))

    def _takes(self, event: bytes) -> bool:
        """Reads an event. Whether the client is not to have it."""
        tokens = tokens_in(event)
        self._found.update(tokens)
        return bool(tokens) and self._hides and _tells_usage_alone(event)


def _lines_in(data: bytes) -> int:
    return len(data) - len(data.replace(b"\n", b""))  # in a fourth of the time that `count` takes


def _last_usage_at(data: bytes) -> int:
    """In events of which the last one alone tells it, while the others may say that they do not. -1 if it does not."""
    at = data.rfind(_USAGE, max(0, len(data) - LAST))
    return at if at >= 0 and data.startswith(_NEEDLES, at) else -1


def _usage_at(data: bytes, start: int) -> int:
    """The first one. -1 if there is none."""
    return min((at for needle in _NEEDLES if (at := data.find(needle, start)) >= 0), default=-1)


def _tells_usage_alone(event: bytes) -> bool:
    try:
        data = json.loads(event.removeprefix(b"data:"))
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("choices") == []
