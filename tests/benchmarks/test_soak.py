from __future__ import annotations

from benchmarks.roles import Sample
from benchmarks.soak import Growth, growths


def samples(**sizes: list[float]) -> list[Sample]:
    """One a second; a role is there as long as it has sizes."""
    longest = max(map(len, sizes.values()))
    return [
        Sample(100.0 + at, {role: found[at] for role, found in sizes.items() if at < len(found)})
        for at in range(longest)
    ]


def test_growth_is_from_the_second_quarter_to_the_last_one() -> None:
    (found,) = growths(samples(keeper=[1, 1, 10, 10, 15, 15, 20, 20, 20]))
    assert found == Growth("keeper", first=1, second=10, last=20)
    assert found.ratio == 2


def test_what_is_not_there_to_the_end_is_not_compared() -> None:
    found = growths(samples(gone=[1, 1, 1, 1], stays=[1] * 9))
    assert [one.role for one in found] == ["stays"]
