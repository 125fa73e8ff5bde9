from __future__ import annotations

from deployments.activity.rates import GONE_S, WINDOW_S, Rates


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def told(*each: tuple[float, str, dict[str, int]]) -> tuple[Rates, Clock]:
    """Seconds, replica and tokens so far."""
    clock = Clock()
    rates = Rates(clock)
    for at, replica, tokens in each:
        clock.now = 100.0 + at
        rates.tell(replica, tokens)
    return rates, clock


def test_rate_is_what_came_between_two_words() -> None:
    rates, _ = told((0, "r1", {"a": 50}), (2, "r1", {"a": 250, "b": 10}))
    assert rates.now() == {"a": 100, "b": 5}


def test_steady_stream_has_a_steady_rate() -> None:
    each = [(2.01 * i, "r1", {"a": 200 * i}) for i in range(20)]
    for n in range(2, 20):
        rates, clock = told(*each[:n])
        clock.now += 1.9
        assert abs(rates.now()["a"] - 100) < 1


def test_rates_of_replicas_add_up() -> None:
    rates, _ = told((0, "r1", {}), (0, "r2", {"a": 7}), (2, "r1", {"a": 20}), (2, "r2", {"a": 27}))
    assert rates.now() == {"a": 20}


def test_first_word_says_nothing_of_how_fast() -> None:
    rates, _ = told((0, "r1", {"a": 1000}))
    assert rates.now() == {}


def test_model_that_produces_nothing_any_more_is_left_out() -> None:
    rates, _ = told((0, "r1", {}), (2, "r1", {"a": 20}), (2 + WINDOW_S + 1, "r1", {"a": 20}))
    assert rates.now() == {}


def test_count_that_was_too_high_is_no_negative_rate() -> None:
    rates, _ = told((0, "r1", {"a": 20}), (2, "r1", {"a": 19}))
    assert rates.now() == {}


def test_replica_that_is_gone_counts_no_more() -> None:
    rates, clock = told((0, "r1", {}), (2, "r1", {"a": 20}))
    clock.now += GONE_S + 1
    assert rates.now() == {}
