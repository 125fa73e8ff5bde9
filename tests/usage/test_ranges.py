from __future__ import annotations

import pytest

from deployments.errors import InvalidRequest
from deployments.usage.ranges import POINTS, bucket_s, seconds_of


@pytest.mark.parametrize(("range_", "seconds"), [("5m", 300), ("1h", 3600), ("24h", 86400), ("30d", 2_592_000)])
def test_range_is_minutes_hours_or_days(range_: str, seconds: int) -> None:
    assert seconds_of(range_) == seconds
    assert 10 <= seconds / bucket_s(seconds) <= POINTS


@pytest.mark.parametrize("range_", ["", "h", "0h", "1w", "-1h", "1.5h", "1h ", "1٣h"])
def test_other_range_is_refused_by_name(range_: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        seconds_of(range_)
    assert refused.value.param == "range"
