"""For all tests."""

from __future__ import annotations

import resource


def _leave_limits(_which: int, _limits: tuple[int, int]) -> None:
    """mlx_lm, when it is imported, lowers the process's limit of open files for good; servers that are started from
    here, HAProxy above all, would inherit it."""


resource.setrlimit = _leave_limits
