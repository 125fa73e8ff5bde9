from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.limits.window import PERIOD_S, Window

windows = st.builds(
    Window,
    limit=st.integers(1, 1000),
    previous=st.integers(0, 2000),
    current=st.integers(0, 2000),
    elapsed_s=st.floats(0, PERIOD_S, exclude_max=True),
)


def later(window: Window, seconds: float) -> Window:
    """The same window after some time in which nothing is used."""
    minutes, elapsed_s = divmod(window.elapsed_s + seconds, PERIOD_S)
    if minutes == 0:
        return replace(window, elapsed_s=elapsed_s)
    return replace(window, previous=window.current if minutes == 1 else 0, current=0, elapsed_s=elapsed_s)


@pytest.mark.parametrize(
    ("window", "used", "remaining", "full"),
    [
        (Window(10, 0, 0, 0), 0, 10, False),
        (Window(10, 0, 10, 59), 10, 0, True),
        (Window(10, 10, 0, 0), 10, 0, True),
        (Window(10, 10, 0, 30), 5, 5, False),
        (Window(10, 10, 4, 30), 9, 1, False),
        (Window(10, 10, 5, 30), 10, 0, True),
        (Window(10, 0, 500, 1), 500, 0, True),
    ],
)
def test_last_minute_fades_as_this_one_goes_on(window: Window, used: float, remaining: int, full: bool) -> None:
    assert (window.used, window.remaining, window.is_full) == (used, remaining, full)


@given(windows)
def test_there_is_room_after_the_wait_and_not_well_before(window: Window) -> None:
    assert (window.wait_s > 0) == window.is_full or window.used == window.limit
    assert not later(window, window.wait_s + 1e-3).is_full
    if window.wait_s > 1e-3:
        assert later(window, window.wait_s - 1e-3).is_full


@given(windows)
def test_nothing_counts_after_the_reset(window: Window) -> None:
    assert later(window, window.reset_s + 1e-6).used == 0
    if window.reset_s > 1:
        assert later(window, window.reset_s - 1).used > 0


def test_burst_at_the_turn_of_a_minute_is_within_the_limit() -> None:
    """Where a count that begins anew each minute would let twice as many through."""
    taken = 0
    window = Window(60, 0, 0, 59.0)
    while not window.is_full:
        taken, window = taken + 1, replace(window, current=window.current + 1)
    window = later(window, 2.0)
    while not window.is_full:
        taken, window = taken + 1, replace(window, current=window.current + 1)
    assert taken <= 62
