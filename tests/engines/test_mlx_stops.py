from __future__ import annotations

import itertools

import pytest

from deployments.engines.mlx.stops import StopMatcher


def released(stops: list[str], parts: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.feed(part) for part in parts)
    return text + matcher.flush(), matcher.matched


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["Paris"], "It is Paris.", "It is "),
        (["aab"], "aaab!", "a"),
        (["abc", "b"], "xabc", "xa"),
        (["ab", "xab"], "1xab", "1"),
        (["\n\n", "end"], "one\ntwo\n\nthree", "one\ntwo"),
        (["é"], "café au lait", "caf"),
    ],
)
def test_every_split_of_a_text_stops_at_the_same_place(stops: list[str], text: str, expected: str) -> None:
    borders = range(1, len(text))
    for count in range(3):
        for cuts in itertools.combinations(borders, count):
            parts = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
            assert released(stops, parts) == (expected, True)
    assert released(stops, list(text)) == (expected, True)


def test_text_without_a_stop_comes_out_whole() -> None:
    assert released(["zebra", "ze "], ["a ze", "b", "r", "d ze"]) == ("a zebrd ze", False)


def test_only_a_possible_prefix_is_held_back() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("abcE") == "abc"
    assert matcher.feed("N") == ""
    assert matcher.feed("X") == "ENX"


def test_nothing_comes_after_the_match() -> None:
    matcher = StopMatcher(["x"])
    assert (matcher.feed("axb"), matcher.feed("c"), matcher.flush()) == ("a", "", "")
