from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.usage import store as module
from deployments.usage.store import Question, Store
from tests.test_outbox import record

T0 = 1_795_305_600.0  # a day begins
ALL = Question(0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/usage.sqlite"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(url, "app")
    yield store
    store.close()


def test_record_that_comes_twice_is_kept_once(store: Store) -> None:
    assert store.add([record("1"), record("2"), record("1")]) == 2
    assert store.add([record("2"), record("3")]) == 1
    assert store.totals(ALL)["requests"] == 3


def test_next_keeper_finds_what_was_there(store: Store, url: str) -> None:
    store.add([record("1")])
    again = Store(url, "app")
    assert again.totals(ALL)["requests"] == 1
    again.close()


def test_recent_ones_are_whole_and_the_newest_come_first(store: Store) -> None:
    records = [record(str(n), time=T0 + n, model="ab"[n % 2], ttft_ms=None) for n in range(4)]
    store.add(records)
    assert store.recent(3) == records[:0:-1]
    assert store.recent(3, ["a"]) == [records[2], records[0]]
    assert store.recent(3, []) == []


def test_recent_ones_of_a_model_are_among_the_last_of_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECENT", 2)
    store.add([record("old", model="a"), *(record(str(n), time=T0 + n, model="b") for n in range(2))])
    assert store.recent(9, ["a"]) == []


def test_totals_are_sums_and_means(store: Store) -> None:
    store.add(
        [record("1"), record("2", status=503, ttft_ms=None, total_ms=150.0, prompt_tokens=0, completion_tokens=0)]
    )
    assert store.totals(ALL) == {
        **{"requests": 2, "errors": 1, "prompt_tokens": 3, "completion_tokens": 5, "cached_tokens": 4},
        **{"total_tokens": 8, "avg_queue_ms": 1.0, "avg_ttft_ms": 10.0, "avg_total_ms": 100.0},
    }


def test_nothing_is_nought(store: Store) -> None:
    totals = store.totals(ALL)
    assert (totals["requests"], totals["total_tokens"], totals["avg_ttft_ms"]) == (0, 0, None)


@pytest.mark.parametrize(
    ("question", "found"),
    [
        (Question(T0), {"b"}),
        (Question(0, model="a"), {"a"}),
        (Question(0, key="ci"), {"b"}),
        (Question(0, model="a", key="ci"), set()),
    ],
)
def test_only_what_is_asked_for_counts(store: Store, question: Question, found: set[str]) -> None:
    store.add([record("1", time=T0 - 1), record("2", time=T0, model="b", key="ci")])
    assert {group["model"] for group in store.grouped(question, "model")} == found
    assert store.totals(question)["requests"] == len(found)


def test_groups_come_by_their_requests_and_hours_in_their_order(store: Store) -> None:
    store.add(
        [record("1", time=T0 + 10), record("2", model="b", time=T0 + 3700), record("3", model="b", time=T0 + 7199)]
    )
    by_model = store.grouped(ALL, "model")
    assert [(group["model"], group["requests"]) for group in by_model] == [("b", 2), ("a", 1)]
    by_hour = store.grouped(ALL, "hour")
    assert [(group["hour"], group["requests"]) for group in by_hour] == [(T0, 1), (T0 + 3600, 2)]
    assert [group["status"] for group in store.grouped(ALL, "status")] == [200]


def test_series_has_a_row_for_each_bucket_with_requests(store: Store) -> None:
    store.add([record(str(n), time=T0 + n) for n in (0, 9, 10, 35)])
    rows = store.series(ALL, 10)
    assert [(row["time"] - T0, row["requests"]) for row in rows] == [(0, 2), (10, 1), (30, 1)]


def test_applications_that_share_a_database_do_not_mix(store: Store, url: str) -> None:
    other = Store(url, "other")
    other.add([record("1")])
    assert store.totals(ALL)["requests"] == 0
    assert store.forget(2e9) == 0
    other.close()


def test_old_records_are_forgotten(store: Store) -> None:
    store.add([record("1", time=T0 - 1), record("2", time=T0)])
    assert store.forget(T0) == 1
    assert store.totals(ALL)["requests"] == 1
