"""More replicas at once, fewer slowly."""

from __future__ import annotations

import pytest

from deployments.residency import Demand, Model
from deployments.residency.scaling import enough, needed, scaled

NOW = 1000.0
FOUR = Model(max_replicas=4, target_ongoing_requests=10, downscale_delay_s=30)


@pytest.mark.parametrize(("requests", "replicas"), [(0, 1), (1, 1), (10, 1), (10.1, 2), (11, 2), (35, 4), (500, 4)])
def test_load_needs_its_share_of_replicas(requests: float, replicas: int) -> None:
    assert needed(FOUR, requests) == replicas


def test_min_replicas_are_always_needed() -> None:
    assert needed(Model(min_replicas=2, max_replicas=3), 0) == 2


@pytest.mark.parametrize(
    ("unfinished", "had", "enough_for", "most", "replicas"),
    [
        pytest.param(35, 1, None, 0, 4, id="all that are needed in one step"),
        pytest.param(5, 3, None, 0, 3, id="one that has just fallen keeps what it has"),
        pytest.param(5, 3, 29, 1, 3, id="nor does it lose any before its time"),
        pytest.param(5, 4, 30, 2, 2, id="then it has what was needed at most in that time"),
        pytest.param(0, 4, 30, 1, 1, id="one without requests has one"),
        pytest.param(0, 9, None, 0, 4, id="never more than a lowered maximum"),
    ],
)
def test_model_has(unfinished: float, had: int, enough_for: float | None, most: int, replicas: int) -> None:
    since = None if enough_for is None else NOW - enough_for
    seen = Demand(unfinished=unfinished, replicas=had, enough=most, enough_since=since)
    assert scaled(FOUR, seen, NOW) == replicas


def test_replica_that_is_still_coming_is_given_the_time_of_a_start() -> None:
    """While it loads it takes the others' cores, and the load seems to fall."""
    seen = Demand(unfinished=5, replicas=2, enough=1, enough_since=NOW - 50, coming_s=25)
    assert scaled(FOUR, seen, NOW) == 2
    assert scaled(FOUR, seen, NOW + 5) == 1


def test_most_that_was_needed_is_counted_without_a_break() -> None:
    state: tuple[int, float | None] = (0, None)
    said = []
    for second, (need, has) in enumerate([(4, 4), (1, 4), (3, 4), (2, 4), (4, 4), (2, 4), (2, 4)]):
        state = enough(need, has, state, second)
        said.append(state)
    assert said == [(0, None), (1, 1), (3, 1), (3, 1), (0, None), (2, 5), (2, 5)]


def test_model_that_has_lost_some_counts_anew_for_the_next_ones() -> None:
    assert enough(1, 3, (3, NOW - 30), NOW) == (1, NOW)
