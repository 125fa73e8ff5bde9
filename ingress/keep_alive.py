"""A request's own word on how long its model is to stay: `keep_alive` in the body, or the header `x-keep-alive`."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

from deployments.errors import InvalidRequest

FIELD = "keep_alive"
HEADER = "x-keep-alive"
FOREVER = -1.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def take(data: dict[str, Any], headers: Mapping[str, str], max_s: float | None) -> float | None:
    """Seconds, FOREVER, or None if nothing was said; at most `max_s`. The field is taken out of the body's data; it
    comes before the header.

    Raises: InvalidRequest.
    """
    given = data.pop(FIELD, None)
    if given is None:
        given = headers.get(HEADER)
    if given is None:
        return None
    seconds = parse(given)
    if max_s is None:
        return seconds
    return min(seconds, max_s) if seconds >= 0 else max_s


def parse(value: object) -> float:
    """Seconds of 300, "300", "5m" or "1h30m"; FOREVER of anything below 0.

    Raises: InvalidRequest.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return float(min(value, 1e9)) if value >= 0 else FOREVER
    if isinstance(value, str) and (text := value.strip()):
        if _NUMBER.fullmatch(text):
            return parse(float(text))
        if text.startswith("-") and _DURATION.fullmatch(text[1:]):
            return FOREVER
        if _DURATION.fullmatch(text):
            return parse(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))
    raise InvalidRequest(
        f"Invalid '{FIELD}': {reprlib.repr(value)} is neither a number of seconds nor a time such as '5m'.", param=FIELD
    )
