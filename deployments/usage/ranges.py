"""What of the past is asked for: `1h`, `24h`, `7d`, and how finely it is shown."""

from __future__ import annotations

import re
from typing import Literal

from deployments.errors import InvalidRequest

RANGE = r"^[1-9][0-9]{0,4}[mhd]$"
"""A number of minutes, hours or days."""

GroupBy = Literal["model", "key", "path", "status", "replica", "hour", "day"]

POINTS = 120  # of a series, at most

_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_BUCKETS_S = (1, 5, 10, 30, 60, 300, 900, 3600, 7200, 21600, 86400)


def seconds_of(range_: str) -> int:
    """Raises: InvalidRequest."""
    if not re.match(RANGE, range_):
        raise InvalidRequest("'range' must be a number of minutes, hours or days, such as 1h or 7d.", param="range")
    return int(range_[:-1]) * _SECONDS[range_[-1]]


def bucket_s(seconds: int) -> int:
    """The finest bucket that makes no more than POINTS of so many seconds; days, if none does."""
    return next((bucket for bucket in _BUCKETS_S if seconds <= POINTS * bucket), _BUCKETS_S[-1])
