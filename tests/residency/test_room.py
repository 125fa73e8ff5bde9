"""What is free, now and soon."""

from __future__ import annotations

import math

from deployments.residency.room import Claim, Load, Node, Room

TWO = {"n": Node(10), "m": Node(8)}


def claim(room: Room, mb: float, places: int = 1) -> Claim:
    return Claim(places, room.ways(mb))


def test_memory_has_no_bound_without_nodes() -> None:
    room = Room(2, {})
    room.hold("a", Load(1, 1e9))
    assert room.best(claim(room, 1e9), now=True) == {}
    assert room.free_mb([]) == math.inf


def test_places_are_counted_down() -> None:
    room = Room(2, {})
    room.hold("a", Load(3))
    room.take(1, {}, now=True)
    assert room.best(claim(room, 0), now=True) is None
    assert room.best(claim(room, 0, places=0), now=True) == {}


def test_room_is_over_if_more_stay_than_there_are_places() -> None:
    room = Room(1, {})
    room.hold("a", Load(1))
    assert not room.is_over
    room.hold("b", Load(1))
    assert room.is_over
    room.end("b")
    assert not room.is_over


def test_model_takes_and_gives_its_places_together() -> None:
    room = Room(7, {})
    room.hold("a", Load(2, places=6))
    assert (room.free_places, room.has_places(1), room.has_places(2)) == (1, True, False)
    assert room.has_places(7, ["a"])
    room.end("a")
    assert room.free_places == 7
    assert room.best(claim(room, 0, places=2), now=True) is None


def test_places_of_replicas_that_are_ending_are_free_soon() -> None:
    room = Room(7, {})
    room.hold("a", Load(2, places=3, ending_places=3))
    assert room.free_places == 4
    assert room.best(claim(room, 0, places=2), now=True) is None
    assert room.best(claim(room, 0, places=2), now=False) == {}


def test_best_way_is_where_most_is_free() -> None:
    room = Room(9, TWO)
    assert room.best(claim(room, 5), now=True) == {"n": 5}
    room.hold("a", Load(1, 4, ("n",)))
    assert room.best(claim(room, 5), now=True) == {"m": 5}
    assert room.best(claim(room, 9), now=True) is None


def test_what_goes_is_free_soon_and_not_now() -> None:
    room = Room(1, {"n": Node(10)})
    room.let_go("a", Load(1, 6, ("n",)))
    assert room.best(claim(room, 6), now=True) is None
    assert room.best(claim(room, 6), now=False) == {"n": 6}
    assert room.going_mb("n") == 6


def test_what_was_promised_soon_is_not_lent_now() -> None:
    room = Room(9, {"n": Node(10)})
    room.let_go("a", Load(1, 6, ("n",)))
    room.take(1, {"n": 9}, now=False)
    assert room.best(claim(room, 2), now=True) is None
    assert room.best(claim(room, 1), now=True) == {"n": 1}


def test_model_that_is_to_end_gives_back_what_it_takes() -> None:
    room = Room(1, {"n": Node(10, free_mb=1)})
    room.hold("a", Load(2, 3, ("n", "n")))
    assert room.where("a") == {"n": 6}
    assert room.would_fit(1, {"n": 10}, ["a"]), "nobody else is there"
    assert not room.would_fit(1, {"n": 11}, ["a"])
    room.end("a")
    assert room.best(claim(room, 10), now=False) == {"n": 10}
    assert room.best(claim(room, 1), now=True) is None
    assert room.going_mb("n") == 6


def test_measured_memory_bounds_what_is_taken_beside_others() -> None:
    room = Room(9, {"n": Node(10, free_mb=5)})
    assert room.best(claim(room, 9), now=True) == {"n": 9}
    room.hold("a", Load(1, 1, ("n",)))
    assert room.best(claim(room, 6), now=True) is None
    room.take(1, {"n": 3}, now=True)
    assert room.free_mb(["n"]) == 2


def test_nothing_is_measured_yet_of_a_replica_that_is_not_known_to_be_anywhere() -> None:
    room = Room(9, {"n": Node(10, free_mb=5)})
    room.hold("a", Load(2, 2, ("n",)))
    assert room.free_mb(["n"]) == 3
    room.let_go("b", Load(1, 2))
    assert room.free_mb(["n"]) == 3
    assert room.best(claim(room, 2), now=True) is None
    assert room.going_mb("n") == 0


def test_replicas_that_are_not_known_to_be_anywhere_are_where_most_is_free() -> None:
    room = Room(9, TWO)
    room.hold("a", Load(3, 4, ("gone",)))
    assert room.where("a") == {"n": 8, "m": 4}


def test_need_on_two_nodes_is_taken_together() -> None:
    room = Room(9, TWO)
    room.hold("a", Load(1, 5, ("m",)))
    assert room.best(Claim(0, [{"n": 4, "m": 4}]), now=True) is None
    assert room.best(Claim(0, [{"n": 4, "m": 3}]), now=True) == {"n": 4, "m": 3}
