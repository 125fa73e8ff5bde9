from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers

from deployments.errors import InvalidRequest
from deployments.server import KEEP_ALIVE_HEADER
from ingress.keep_alive import FOREVER, HEADER, parse, take

BAD = [
    pytest.param(True, id="true"),
    pytest.param(False, id="false"),
    pytest.param(float("nan"), id="NaN"),
    pytest.param("", id="empty"),
    pytest.param("  ", id="blank"),
    pytest.param("5 minutes", id="words"),
    pytest.param("5d", id="another unit"),
    pytest.param("5m30", id="a part without a unit"),
    pytest.param("m", id="only a unit"),
    pytest.param("--1", id="two signs"),
    pytest.param("1e3", id="an exponent"),
    pytest.param("nan", id="nan as text"),
    pytest.param([], id="list"),
    pytest.param({}, id="object"),
]


def said(value: object, headers: dict[str, str] | None = None, max_s: float | None = None) -> float | None:
    return take({"keep_alive": value}, Headers(headers or {}), max_s)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300),
        (0, 0),
        (0.5, 0.5),
        ("300", 300),
        (" 300 ", 300),
        ("0", 0),
        ("1.5", 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1h0.5m2s", 3632),
        ("500ms", 0.5),
        ("2m500ms", 120.5),
        ("0s", 0),
    ],
)
def test_time_is_a_number_of_seconds_or_a_duration(value: object, seconds: float) -> None:
    assert parse(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [-1, -0.5, -300, "-1", "-1m", "-1h30m", float("-inf")])
def test_anything_below_0_is_for_ever(value: object) -> None:
    assert parse(value) == FOREVER


@pytest.mark.parametrize("value", [float("inf"), 10**400, "9" * 400, "9" * 400 + "h"])
def test_time_without_end_is_a_finite_number_of_seconds(value: object) -> None:
    """It becomes a header, and a figure that Serve carries."""
    assert 10**8 < parse(value) < float("inf")


@pytest.mark.parametrize("value", BAD)
def test_anything_else_is_an_invalid_request_that_names_the_field(value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        said(value)
    assert caught.value.param == "keep_alive"
    assert "keep_alive" in caught.value.message


def test_bad_header_is_an_invalid_request_too() -> None:
    with pytest.raises(InvalidRequest) as caught:
        take({}, Headers({"X-Keep-Alive": "soon"}), None)
    assert caught.value.param == "keep_alive"


def test_long_bad_value_is_not_sent_back_whole() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("x" * 10**6)
    assert len(caught.value.message) < 200


def test_nothing_said_is_none() -> None:
    assert take({}, Headers(), None) is None
    assert take({}, Headers(), 60) is None, "the setting bounds and does not set"


def test_header_counts_where_the_body_says_nothing() -> None:
    assert take({}, Headers({"X-Keep-Alive": "5m"}), None) == 300
    assert said(None, {"X-Keep-Alive": "5m"}) == 300


def test_body_comes_before_the_header() -> None:
    assert said(0, {"x-keep-alive": "5m"}) == 0
    assert said("1m", {"x-keep-alive": "soon"}) == 60


@pytest.mark.parametrize("value", [300, "5m", 0, None])
def test_field_is_taken_out_of_the_data_and_nothing_else(value: object) -> None:
    data: dict[str, Any] = {"model": "a", "keep_alive": value, "stop": ["keep_alive"]}
    take(data, Headers(), None)
    assert data == {"model": "a", "stop": ["keep_alive"]}


@pytest.mark.parametrize(
    ("value", "max_s", "seconds"),
    [
        pytest.param("5m", 60, 60, id="above"),
        pytest.param("5m", 300, 300, id="equal"),
        pytest.param("5m", 3600, 300, id="below"),
        pytest.param(-1, 60, 60, id="for ever"),
        pytest.param("-1m", 60, 60, id="for ever, as a duration"),
        pytest.param("5m", 0, 0, id="never to stay"),
        pytest.param(-1, 0, 0, id="for ever, and never to stay"),
        pytest.param(-1, None, FOREVER, id="for ever without a bound"),
    ],
)
def test_setting_bounds_what_a_request_may_say(value: object, max_s: float | None, seconds: float) -> None:
    assert said(value, max_s=max_s) == seconds


def test_client_and_replica_know_the_header_by_the_same_name() -> None:
    assert KEEP_ALIVE_HEADER.decode() == HEADER
