from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deployments.history.intervals import Interval, ends_of, follow, standing
from deployments.residency.board import Report, Row, Table

PUBLIC = {"org--a": "org/a", "pool--p": "pool--p"}
PROCESS = Report("org--a", "r1", "n", "up")


def starting(since: float, why: str = "requested") -> Row:
    return Row(replicas=1, started_at=since, started_why=why)


def up(since: float, started: float = 10) -> Row:
    return Row(replicas=1, running=1, started_at=started, started_why="requested", up_since=since)


def down(at: float, why: str = "made room for b") -> Row:
    return Row(ended_at=at, ended_why=why)


@dataclass
class Film:
    """Looks at the board, two seconds apart from 10 on. told: what has ended. at: of the last look."""

    going: dict[str, Interval] = field(default_factory=dict)
    told: list[Interval] = field(default_factory=list)
    at: float = 8.0

    def look(self, row: Row | None, *reports: Report) -> None:
        table = Table(rows={} if row is None else {"org--a": row})
        now = standing(table, reports, PUBLIC)
        self.going, ended = follow(self.going, now, ends_of(table, PUBLIC), self.at)
        self.told += ended
        self.at += 2


def plain(intervals: list[Interval]) -> list[tuple[Any, ...]]:
    return [(one.state, one.since, one.until, one.reason) for one in intervals]


def test_life_of_a_model_is_told_with_its_reasons() -> None:
    film = Film()
    film.look(None)
    film.look(starting(11.5))
    film.look(up(13.5), PROCESS)
    film.look(up(13.5), PROCESS)
    film.look(down(17.5), PROCESS)
    film.look(down(17.5))
    assert plain(film.told) == [
        ("starting", 11.5, 13.5, "requested"),
        ("running", 13.5, 17.5, "made room for b"),
        ("stopping", 17.5, 18.0, "made room for b"),
    ]
    assert film.going == {}
    assert {one.model for one in film.told} == {"org/a"}


def test_model_that_was_gone_before_anybody_looked_has_its_reason() -> None:
    film = Film()
    film.look(up(11))
    film.look(down(12.5, "idle for 60 s"))
    assert plain(film.told) == [("running", 11, 12.5, "idle for 60 s")]


def test_start_that_is_given_up_says_why() -> None:
    film = Film()
    film.look(starting(11))
    film.look(down(12.5, "did not start"))
    assert plain(film.told) == [("starting", 11, 12.5, "did not start")]


def test_model_that_crashes_and_comes_back_was_not_running_meanwhile() -> None:
    film = Film()
    film.look(up(9, started=5))
    film.look(starting(5))
    film.look(starting(5))
    film.look(up(15, started=5))
    assert plain(film.told) == [("running", 9, 10.0, "requested"), ("starting", 10.0, 15, "requested")]
    assert plain(list(film.going.values())) == [("running", 15, None, "requested")]


def test_model_that_ended_and_came_back_between_two_looks_ran_twice() -> None:
    film = Film()
    film.look(up(9, started=5))
    film.look(up(11.5, started=11))
    assert plain(film.told) == [("running", 9, 11.5, "requested")]
    assert film.going["org/a"].since == 11.5


def test_last_words_of_a_dead_process_are_no_process() -> None:
    film = Film()
    film.look(down(11), Report("org--a", "r1", "n", failure="killed"))
    assert film.going == {}


def test_row_that_is_not_configured_any_more_is_left_out() -> None:
    assert standing(Table(rows={"gone": up(1)}), (), PUBLIC) == {}


def test_models_inside_a_process_have_their_own_lives() -> None:
    def inside(phase: str, since: float) -> Report:
        return Report("pool--p", f"r{since}", "n", "up", members={"p1": {"phase": phase, "since": since}})

    now = standing(Table(), [inside("loading", 5), inside("up", 3), inside("leaving", 4)], PUBLIC)
    assert now == {"p1": Interval("p1", "running", 3)}
    assert standing(Table(), [inside("", 5), inside("failed", 6)], PUBLIC) == {}
