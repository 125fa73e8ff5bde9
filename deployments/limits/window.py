"""A sliding window over one minute, from the counts of two: the last whole one fades as this one goes on.

Counts of several processes add up, so each of them can decide by the sum. Pure functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PERIOD_S = 60.0


@dataclass(frozen=True)
class Window:
    """previous, current: what was used in the last minute of the clock, and in this one. elapsed_s: of this one."""

    limit: int
    previous: int
    current: int
    elapsed_s: float

    @property
    def used(self) -> float:
        return self.previous * (1 - self.elapsed_s / PERIOD_S) + self.current

    @property
    def remaining(self) -> int:
        return max(0, self.limit - math.floor(self.used))

    @property
    def is_full(self) -> bool:
        return self.used >= self.limit

    @property
    def wait_s(self) -> float:
        """Until there is room again, if nothing is used meanwhile."""
        if not self.is_full:
            return 0.0
        if self.current < self.limit:
            return _fades_s(self.previous, self.limit - self.current) - self.elapsed_s
        return PERIOD_S - self.elapsed_s + _fades_s(self.current, self.limit)

    @property
    def reset_s(self) -> float:
        """Until nothing counts any more."""
        if self.current:
            return 2 * PERIOD_S - self.elapsed_s
        return PERIOD_S - self.elapsed_s if self.previous else 0.0


def _fades_s(count: int, to: int) -> float:
    """Seconds into the next minute at which `count` counts for no more than `to`."""
    return PERIOD_S * max(0.0, 1 - to / count)
