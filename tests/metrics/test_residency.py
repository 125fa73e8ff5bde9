from __future__ import annotations

import pytest

from deployments.metrics import names
from deployments.metrics.meters import Sample
from deployments.metrics.names import Metric
from deployments.metrics.residency import happened, members, reason_of, standing
from deployments.residency.board import Report, Row, Table

PUBLIC = {"org--a": "org/a"}
DOWN = Row()
LOADING = Row(replicas=1, started_at=10, started_why="requested", reason="loads", reserved_mb=2)
UP = Row(replicas=1, running=1, started_at=10, started_why="requested", up_since=13, load_s=3, measured_mb=1, queued=2)
ENDED = Row(ended_at=20, ended_why="made room for b", reason="no demand", load_s=3)


def between(old: Row, new: Row) -> list[Sample]:
    return list(happened(Table(rows={"org--a": old}), Table(rows={"org--a": new}), PUBLIC))


def swap(event: str, reason: str) -> Sample:
    return Sample(names.SWAPS, 1, ("org/a", event, reason))


LOADED = Sample(names.LOAD, 3, ("org/a",))


@pytest.mark.parametrize(
    ("old", "new", "samples"),
    [
        (DOWN, LOADING, [swap("start", "requested")]),
        (LOADING, UP, [LOADED]),
        (DOWN, UP, [swap("start", "requested"), LOADED]),
        (UP, ENDED, [swap("end", "evicted")]),
        (DOWN, ENDED, [swap("end", "evicted")]),
        (UP, UP, []),
        (ENDED, ENDED, []),
    ],
)
def test_starts_ends_and_loads_are_told_once(old: Row, new: Row, samples: list[Sample]) -> None:
    assert between(old, new) == samples


def test_model_that_comes_back_after_a_crash_was_not_loaded_anew() -> None:
    assert between(UP, Row(**{**vars(UP), "up_since": 40})) == []


def test_row_that_is_new_is_told_under_its_own_name() -> None:
    assert list(happened(Table(), Table(rows={"x": LOADING}), {})) == [
        Sample(names.SWAPS, 1, ("x", "start", "requested"))
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("requested", "requested"),
        ("started with the server", "auto_start"),
        ("stopped by an operator", "operator"),
        ("idle for 5 s", "idle"),
        ("made room for org/b", "evicted"),
        ("its turn is over for b", "turn_over"),
        ("over the cap of 3", "cap"),
        ("memory is short: 5 MB are to be given back", "memory"),
        ("moves: no node can hold it any more where it was", "node_lost"),
        ("did not start", "failed"),
        ("", "other"),
    ],
)
def test_reason_is_one_of_few_words(text: str, word: str) -> None:
    assert reason_of(text) == word


def standings(row: Row) -> dict[Metric, float]:
    told = list(standing(Table(rows={"org--a": row}), PUBLIC))
    assert {sample.labels for sample in told} == {("org/a",)}
    return {sample.metric: sample.value for sample in told}


def test_model_that_answers_is_resident_with_its_memory() -> None:
    assert standings(UP) == {names.RESIDENT: 1, names.RESERVED: 0, names.MEASURED: 2**20, names.QUEUED: 2}


def test_model_that_loads_reserves_and_is_not_resident() -> None:
    assert standings(LOADING) == {names.RESIDENT: 0, names.RESERVED: 2 * 2**20, names.MEASURED: 0, names.QUEUED: 0}


def test_model_of_which_nothing_is_known_is_not_resident() -> None:
    assert [sample.value for sample in standing(Table(), PUBLIC)] == [0, 0, 0, 0]


def test_model_inside_a_pool_is_resident_where_any_replica_has_it() -> None:
    reports = [
        Report("pool--p", "r1", "n", members={"a": {"phase": "up"}, "b": {"phase": "loading"}}),
        Report("pool--p", "r2", "n", members={"b": {"phase": "up"}}),
    ]
    told = {sample.labels[0]: sample.value for sample in members(reports, ["a", "b", "c"])}
    assert told == {"a": 1, "b": 1, "c": 0}
