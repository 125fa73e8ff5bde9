"""The watch: what it sees of actors, nodes and the board, and what it leaves there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

import pytest

from deployments.residency import watch as module
from deployments.residency.board import Board, Report, Row, Table, encode
from deployments.residency.watch import NODES_S, Watch
from tests.residency.store import Memory

DEADLINE_S = 10


class Ray:
    """Living actors and nodes; each look at the actors can be waited for."""

    def __init__(self, *actors: str) -> None:
        self.actors = [*actors]
        self.resources: dict[str, dict[str, float]] = {
            "here": {"memory": 1.0},
            "there": {"CPU": 4.0, "memory": 2.0**31},
        }
        self.life = "controller 1"
        self.began_at = 0.0
        self.node_looks = 0
        self.fails = False
        self._looked = threading.Semaphore(0)

    def names(self) -> list[str]:
        self._looked.release()
        if self.fails:
            raise ConnectionError("no Ray")
        return self.actors

    def nodes(self) -> tuple[str, Mapping[str, Mapping[str, float]]]:
        self.node_looks += 1
        return "here", dict(self.resources)

    def kill(self, name: str) -> None:
        if name not in self.actors:
            raise ValueError(f"no actor {name}")
        self.actors.remove(name)

    def own_actor(self) -> tuple[str, float]:
        return self.life, self.began_at

    def wait_for_looks(self, count: int) -> None:
        for _ in range(count):
            assert self._looked.acquire(timeout=DEADLINE_S)


class Clock:
    def __init__(self) -> None:
        self.now = 10_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "clock", clock)
    return clock


def watching(board: Board, ray: Ray) -> Watch:
    return Watch("app", board, ray.names, ray.nodes, ray.own_actor, ray.kill)


def looked(watch: Watch) -> module.Seen:
    watch.look()
    assert watch.seen
    return watch.seen


# What it sees


def test_only_replicas_of_its_application_are_processes(board: Board) -> None:
    ray = Ray(
        "SERVE_REPLICA::app#org--a#x1",
        "SERVE_REPLICA::app#org--a#x2",
        "SERVE_REPLICA::other#b#x3",
        "SERVE_REPLICA::odd",
        "SERVE_CONTROLLER_ACTOR",
    )
    assert looked(watching(board, ray)).processes == {"org--a": 2}


def test_look_is_as_old_as_its_begin(board: Board, clock: Clock) -> None:
    ray = Ray()

    def names() -> list[str]:
        clock.now += 5
        return []

    assert looked(Watch("app", board, names, ray.nodes, ray.own_actor)).at == 10_000


def test_wishes_are_seen_in_order(board: Board) -> None:
    made = (board.wish("a", "start"), board.wish("a", "stop"))
    board.publish(encode(Table("controller 1")))
    assert looked(watching(board, Ray())).wishes == made


def test_reports_are_seen_by_model(board: Board) -> None:
    reports = [Report("a", "x1", "here"), Report("a", "x2", "here"), Report("b", "x3", "there")]
    for report in reports:
        board.report(report)
    ray = Ray(*(f"SERVE_REPLICA::app#{r.model}#{r.replica}" for r in reports))
    assert looked(watching(board, ray)).reports == {"a": (reports[0], reports[1]), "b": (reports[2],)}


def test_report_of_a_dead_replica_is_withdrawn(board: Board) -> None:
    board.report(Report("a", "x1", "here"))
    assert looked(watching(board, Ray("SERVE_REPLICA::app#a#x2"))).reports == {}
    assert board.reports() == ()


def test_last_words_stay_until_they_are_heard(board: Board) -> None:
    words = Report("a", "x1", "here", failure="out of memory")
    board.report(words)
    watch = watching(board, Ray())
    assert looked(watch).reports == {"a": (words,)}
    assert looked(watch).reports == {"a": (words,)}
    watch.publish(Table("controller 1"), [], [words], frozenset(), changing=False)
    watch.look()
    assert looked(watch).reports == {}
    assert board.reports() == ()


def test_replica_that_begins_while_the_watch_looks_keeps_its_report(board: Board) -> None:
    """The actor may be listed before it exists; what it says later must not be taken for a dead one's."""
    ray = Ray()

    def names() -> list[str]:
        listed = [*ray.actors]
        board.report(Report("a", "x1", "here"))
        ray.actors = ["SERVE_REPLICA::app#a#x1"]
        return listed

    watch = Watch("app", board, names, ray.nodes, ray.own_actor)
    assert looked(watch).reports == {}
    assert looked(watch).reports == {"a": (Report("a", "x1", "here"),)}


def test_nodes_are_looked_up_now_and_then_only(board: Board, clock: Clock) -> None:
    ray = Ray()
    watch = watching(board, ray)
    watch.look()
    ray.resources["new"] = {"memory": 2.0**20, "object_store_memory": 2.0**20, "GPU": 1.0}
    clock.now += NODES_S
    assert "new" not in looked(watch).nodes
    clock.now += 0.01
    seen = looked(watch)
    assert seen.nodes["new"] == 2
    assert seen.resources["new"]["GPU"] == 1
    assert ray.node_looks == 2


def test_own_node_is_measured_and_not_believed(board: Board) -> None:
    seen = looked(watching(board, Ray()))
    assert seen.here is not None
    node, machine = seen.here
    assert node == "here"
    assert 0 < machine.free_mb <= machine.total_mb
    assert seen.nodes == {"here": machine.total_mb, "there": 2048}


# Taking over


def test_table_of_the_same_life_is_restored(board: Board) -> None:
    table = Table("controller 1", 3, {"a": Row(replicas=1, last_used=7, peak_mb=5, deployment="a~1")})
    board.publish(encode(table))
    wish = board.wish("a", "stop")
    watch = watching(board, Ray())
    assert looked(watch).wishes == (wish,)
    assert watch.restored == table
    assert watch.life == "controller 1"


def test_new_life_takes_only_sizes_and_drops_wishes_from_before(board: Board) -> None:
    old = Row(replicas=1, last_used=7, kind="k", peak_mb=5, load_s=3, auto_done=True, held=True, answers={"w": ""})
    board.publish(encode(Table("controller 0", 3, {"a": old})))
    ray = Ray()
    before, early = board.wish("a", "stop"), board.wish("a", "start")
    ray.began_at = early.made_at  # and so before the policy's first look
    assert before.made_at < early.made_at
    watch = watching(board, ray)
    assert looked(watch).wishes == (early,)
    assert board.wishes() == (early,)
    assert watch.restored.rows == {"a": Row(kind="k", peak_mb=5, load_s=3)}
    assert watch.restored.life == watch.life == "controller 1"


def test_first_policy_of_all_has_nothing_to_restore(board: Board) -> None:
    watch = watching(board, Ray())
    watch.look()
    assert watch.restored == Table("controller 1")


def test_it_takes_over_once(board: Board) -> None:
    ray = Ray()
    watch = watching(board, ray)
    watch.look()
    wish = board.wish("a", "start")
    board.publish(encode(Table("controller 7", 1, {"a": Row(replicas=1)})))
    ray.life = "controller 8"
    assert looked(watch).wishes == (wish,)
    assert (watch.life, watch.restored.rows) == ("controller 1", {})


# What it leaves


def test_nothing_is_published_before_the_policy_speaks(board: Board, store: Memory) -> None:
    watching(board, Ray()).look()
    assert store.journal == []


def test_table_is_published_only_when_it_changed(board: Board, store: Memory) -> None:
    watch = watching(board, Ray())
    rows = {"a": Row(replicas=1)}
    for _ in range(3):
        watch.publish(Table("controller 1", 3, rows), [], [], frozenset(), changing=False)
        watch.look()
    assert store.journal == ["put app/table"]
    rows["a"].replicas = 0
    watch.publish(Table("controller 1", 3, rows), [], [], frozenset(), changing=False)
    watch.look()
    watch.look()
    assert store.journal == ["put app/table"] * 2
    assert board.table() == Table("controller 1", 3)


def test_answer_is_published_before_its_wish_is_taken_down(board: Board, store: Memory) -> None:
    watch = watching(board, Ray())
    watch.look()
    wish = board.wish("a", "start")
    words = Report("a", "x1", "here", failure="why")
    board.report(words)
    store.journal.clear()
    watch.publish(
        Table("controller 1", 3, {"a": Row(answers={wish.id: ""})}), [wish.id], [words], frozenset(), changing=False
    )
    watch.look()
    assert store.journal == ["put app/table", f"delete app/wish/{wish.id}", "delete app/report/a/x1"]
    watch.look()
    assert len(store.journal) == 3


def test_wish_stays_done_if_the_store_cannot_be_reached(board: Board, store: Memory) -> None:
    watch = watching(board, Ray())
    watch.look()
    wish = board.wish("a", "start")
    watch.publish(Table("controller 1", 3), [wish.id], [], frozenset(), changing=False)
    store.fails = True
    with pytest.raises(ConnectionError):
        watch.look()
    store.fails = False
    watch.look()
    assert board.wishes() == ()
    assert board.table() == Table("controller 1", 3)


# Its thread


def test_watch_looks_again_and_again_once_it_is_started(board: Board) -> None:
    ray = Ray("SERVE_REPLICA::app#a#x")
    watch = watching(board, ray)
    assert watch.seen is None
    watch.start()
    ray.wait_for_looks(3)
    assert watch.seen
    assert watch.seen.processes == {"a": 1}


def test_failed_look_is_logged_keeps_what_was_seen_and_the_next_one_counts(
    board: Board, log: list[logging.LogRecord]
) -> None:
    ray = Ray("SERVE_REPLICA::app#a#x")
    watch = watching(board, ray)
    watch.start()
    ray.wait_for_looks(2)
    ray.fails = True
    ray.wait_for_looks(3)
    assert watch.seen
    assert watch.seen.processes == {"a": 1}
    assert log
    assert log[0].exc_info
    ray.actors, ray.fails = [], False
    ray.wait_for_looks(4)
    assert watch.seen.processes == {}


def test_it_looks_at_once_and_often_while_something_changes(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_LOOK_S", 3600)
    ray = Ray()
    watch = watching(board, ray)
    watch.start()
    ray.wait_for_looks(1)
    watch.publish(Table("controller 1"), [], [], frozenset(), changing=True)
    ray.wait_for_looks(3)


def test_thread_ends_with_its_watch(board: Board) -> None:
    before = set(threading.enumerate())
    ray = Ray()
    watch = watching(board, ray)
    watch.start()
    ray.wait_for_looks(1)
    (thread,) = set(threading.enumerate()) - before
    del watch
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_replicas_that_were_never_up_and_are_not_wanted_are_ended_and_no_others(board: Board) -> None:
    ray = Ray("SERVE_REPLICA::app#a#1", "SERVE_REPLICA::app#a#2", "SERVE_REPLICA::app#b#3", "SERVE_REPLICA::other#a#4")
    watch = watching(board, ray)
    watch.publish(Table("controller 1"), [], [], frozenset({"a"}), changing=True)
    watch.look()
    assert ray.actors == ["SERVE_REPLICA::app#b#3", "SERVE_REPLICA::other#a#4"]


def test_replica_that_is_gone_before_it_can_be_ended_stops_no_look(board: Board) -> None:
    ray = Ray("SERVE_REPLICA::app#a#1")
    names = [*ray.actors]
    watch = Watch("app", board, lambda: names, ray.nodes, ray.own_actor, ray.kill)
    watch.publish(Table("controller 1"), [], [], frozenset({"a"}), changing=True)
    ray.actors.clear()
    watch.look()
    assert board.table() is not None
