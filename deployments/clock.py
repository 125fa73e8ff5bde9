"""A clock that nobody sets: an operator's correction of the machine's time ends no model, and lets none wait."""

from __future__ import annotations

import time as _time

_BEGAN_AT = _time.time() - _time.monotonic()


def time() -> float:
    """Seconds since 1970 as the machine had them when this process began, and from then on those that have passed."""
    return _BEGAN_AT + _time.monotonic()
