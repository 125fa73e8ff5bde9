"""Which models are up: the decision case by case, and as invariants of a long random run."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from deployments.residency import Decision, Demand, Model, Node, decide
from deployments.residency.decision import BACK_OFF_S, SETTLE_S

NOW = 10_000.0
DOWN = Demand(last_used=NOW)
PLAIN = Model()


def idle(ago: float, replicas: int = 1) -> Demand:
    """Up, and used last `ago` seconds ago."""
    return Demand(replicas=replicas, last_used=NOW - ago)


def busy(unfinished: float = 1, replicas: int = 1, queued: float = 0) -> Demand:
    return Demand(queued, unfinished, replicas, NOW)


def waits(since: float = 1, queued: float = 1) -> Demand:
    return Demand(queued=queued, last_used=NOW - since)


def leaving(queued: float = 0, since: float = 0) -> Demand:
    """Decided down, with a process that is not gone yet."""
    return Demand(queued=queued, last_used=NOW - since, leaving=True)


def working(up: float) -> Demand:
    """In use, and up for `up` seconds."""
    return Demand(0, 1, 1, NOW, NOW - up)


def decisions(
    cap: int,
    demand: Mapping[str, Demand],
    nodes: Mapping[str, Node] | None = None,
    turn_s: float = 30,
    **models: Model,
) -> dict[str, Decision]:
    """The decision for the models of `demand`, which are PLAIN unless they are given."""
    configured = {name: models.get(name, PLAIN) for name in demand}
    return decide(configured, demand, cap=cap, now=NOW, turn_s=turn_s, nodes=nodes)


def sized(seen: Demand, mb: float, *nodes: str) -> Demand:
    """With what it takes of memory, and where."""
    return replace(seen, memory_mb=mb, nodes=nodes)


def paused(mb: float, *nodes: str, queued: float = 1, since: float = 1) -> Demand:
    """Started, and waiting for the memory that it was found to need."""
    return Demand(queued, 0, 1, NOW - since, loading=True, memory_mb=mb, nodes=nodes, paused=True)


def replicas(
    cap: int,
    demand: Mapping[str, Demand],
    nodes: Mapping[str, Node] | None = None,
    turn_s: float = 30,
    **models: Model,
) -> dict[str, int]:
    return {name: d.replicas for name, d in decisions(cap, demand, nodes, turn_s, **models).items()}


# decide --------------------------------------------------------------------------------------------------------------


def test_nothing_changes_without_demand() -> None:
    demand = {"a": idle(100), "b": DOWN, "c": idle(5, replicas=2)}
    assert replicas(3, demand, c=Model(max_replicas=2)) == {"a": 1, "b": 0, "c": 2}


def test_no_models_is_no_decision() -> None:
    assert replicas(1, {}) == {}


def test_request_wakes_a_model() -> None:
    assert replicas(1, {"a": waits()}) == {"a": 1}


def test_many_that_wait_are_one_start() -> None:
    assert replicas(3, {"a": waits(queued=500)}, a=Model(max_replicas=1)) == {"a": 1}


def test_every_model_that_waits_gets_a_free_place() -> None:
    assert replicas(3, {"a": waits(), "b": waits(), "c": idle(9)}) == {"a": 1, "b": 1, "c": 1}


def test_victim_is_the_least_recently_used_idle_model() -> None:
    assert replicas(3, {"a": idle(20), "b": idle(30), "c": idle(10), "d": waits()}) == {"a": 1, "b": 0, "c": 1, "d": 0}


def test_place_is_taken_until_the_victims_process_is_gone() -> None:
    assert replicas(1, {"a": leaving(), "b": waits()}) == {"a": 0, "b": 0}
    assert replicas(1, {"a": DOWN, "b": waits()}) == {"a": 0, "b": 1}


def test_place_that_is_being_freed_costs_no_other_victim() -> None:
    assert replicas(2, {"a": leaving(), "b": waits(), "c": idle(99)}) == {"a": 0, "b": 0, "c": 1}
    assert replicas(2, {"a": leaving(), "b": waits(2), "c": idle(99), "d": waits(1)})["c"] == 0


def test_model_is_not_started_beside_its_own_last_process() -> None:
    assert replicas(3, {"a": leaving(queued=1)}) == {"a": 0}


def test_no_more_victims_than_are_needed() -> None:
    demand = {"a": idle(20), "b": idle(30), "c": idle(10), "d": waits(2), "e": waits(1)}
    assert replicas(4, demand) == {"a": 1, "b": 0, "c": 1, "d": 1, "e": 0}


def test_busy_models_are_never_victims() -> None:
    assert replicas(2, {"a": busy(), "b": busy(), "c": waits(since=999)}) == {"a": 1, "b": 1, "c": 0}, "without a turn"


def test_model_with_queued_requests_only_is_no_victim_either() -> None:
    """It may still be loading."""
    assert replicas(1, {"a": Demand(queued=1, replicas=1, last_used=NOW - 999), "b": waits(999)}) == {"a": 1, "b": 0}


@pytest.mark.parametrize(("ago", "kept"), [(0, 1), (SETTLE_S, 1), (SETTLE_S + 0.01, 0)])
def test_model_is_no_victim_before_its_reports_have_settled(ago: float, kept: int) -> None:
    assert replicas(1, {"a": idle(ago), "b": waits(1)}) == {"a": kept, "b": 0}


def test_longest_waiting_comes_first() -> None:
    demand = {"a": waits(2), "b": waits(9), "c": waits(5)}
    assert replicas(2, demand) == {"a": 0, "b": 1, "c": 1}
    assert replicas(1, demand) == {"a": 0, "b": 1, "c": 0}


def test_higher_priority_comes_first_and_goes_later() -> None:
    vip = Model(priority=1)
    assert replicas(1, {"a": waits(1), "b": waits(9)}, a=vip) == {"a": 1, "b": 0}
    assert replicas(2, {"a": idle(99), "b": idle(9), "c": waits()}, a=vip) == {"a": 1, "b": 0, "c": 0}


def test_pinned_model_is_never_unloaded() -> None:
    pinned = Model(pinned=True, idle_timeout_s=1)
    assert replicas(1, {"a": idle(999), "b": waits(999)}, a=pinned) == {"a": 1, "b": 0}
    assert replicas(1, {"a": working(999), "b": waits(999)}, a=pinned) == {"a": 1, "b": 0}
    assert replicas(1, {"a": DOWN}, a=pinned) == {"a": 0}, "pinned is not auto_start"


@pytest.mark.parametrize(("up", "kept"), [(4, 1), (5, 0)])
def test_model_is_not_unloaded_before_it_was_up_for_its_time(up: float, kept: int) -> None:
    seen = Demand(replicas=1, last_used=NOW - 3, up_since=NOW - up)
    young = Model(min_resident_s=5, idle_timeout_s=2)
    assert replicas(1, {"a": seen}, a=young) == {"a": kept}
    assert replicas(1, {"a": seen, "b": waits()}, a=Model(min_resident_s=5)) == {"a": kept, "b": 0}


@pytest.mark.parametrize(("ago", "kept"), [(BACK_OFF_S - 0.1, 1), (BACK_OFF_S, 0)])
def test_model_that_did_not_start_is_given_up_after_the_back_off(ago: float, kept: int) -> None:
    seen = Demand(replicas=1, last_used=NOW - ago, failed=True)
    assert replicas(1, {"a": seen}) == {"a": kept}
    assert replicas(1, {"a": seen}, a=Model(pinned=True)) == {"a": kept}
    assert replicas(1, {"a": seen}, a=Model(min_replicas=1)) == {"a": kept}


def test_model_that_did_not_start_gives_its_place_at_once() -> None:
    assert replicas(1, {"a": Demand(replicas=1, last_used=NOW - 1, failed=True), "b": waits()}) == {"a": 0, "b": 0}


# Turns: all models are in use, and another one waits -----------------------------------------------------------------


def test_turn_comes_after_the_wait_and_not_before() -> None:
    assert replicas(1, {"a": working(99), "b": waits(29)}) == {"a": 1, "b": 0}
    assert replicas(1, {"a": working(99), "b": waits(30)}) == {"a": 0, "b": 0}


def test_turn_ends_no_model_that_has_just_had_its_own() -> None:
    assert replicas(1, {"a": working(29), "b": waits(99)}) == {"a": 1, "b": 0}


def test_turn_ends_no_model_that_is_loading() -> None:
    assert replicas(1, {"a": Demand(queued=1, replicas=1, last_used=NOW), "b": waits(99)}) == {"a": 1, "b": 0}


def test_turn_takes_the_place_of_the_one_that_has_been_up_longest() -> None:
    assert replicas(2, {"a": working(50), "b": working(60), "c": waits(40)}) == {"a": 1, "b": 0, "c": 0}


def test_turn_takes_an_idle_place_first() -> None:
    assert replicas(2, {"a": working(99), "b": idle(1), "c": waits(99)}) == {"a": 1, "b": 0, "c": 0}


def test_turn_against_a_higher_priority_takes_longer_but_comes() -> None:
    vip = Model(priority=1)
    assert replicas(1, {"a": working(99), "b": waits(59)}, a=vip) == {"a": 1, "b": 0}
    assert replicas(1, {"a": working(99), "b": waits(60)}, a=vip) == {"a": 0, "b": 0}


def test_turn_respects_min_resident_s() -> None:
    assert replicas(1, {"a": working(99), "b": waits(99)}, a=Model(min_resident_s=100)) == {"a": 1, "b": 0}


def test_one_turn_a_waiting_model() -> None:
    demand = {"a": working(99), "b": working(98), "c": waits(99)}
    assert replicas(2, demand) == {"a": 0, "b": 1, "c": 0}
    assert replicas(2, {**demand, "a": leaving(queued=1)}) == {"a": 0, "b": 1, "c": 0}


def test_cap_holds_whatever_waits() -> None:
    demand = {f"m{i}": waits(i) for i in range(9)}
    assert sum(replicas(4, demand).values()) == 4


@pytest.mark.parametrize(
    ("timeout", "ago", "kept"),
    [(60, 59.9, 1), (60, 60, 0), (60, 9999, 0), (0, 9999, 1), (0.1, SETTLE_S, 1), (0.1, SETTLE_S + 0.01, 0)],
)
def test_idle_model_is_unloaded_after_its_own_time_and_never_for_zero(timeout: float, ago: float, kept: int) -> None:
    assert replicas(3, {"a": idle(ago)}, a=Model(idle_timeout_s=timeout)) == {"a": kept}


def test_busy_model_is_not_unloaded_however_long_it_takes() -> None:
    demand = {"a": Demand(unfinished=1, replicas=1, last_used=NOW - 999)}
    assert replicas(3, demand, a=Model(idle_timeout_s=1)) == {"a": 1}


def test_min_replicas_are_up_without_demand() -> None:
    assert replicas(3, {"a": DOWN}, a=Model(min_replicas=2, max_replicas=2)) == {"a": 2}


def test_min_replicas_are_never_unloaded() -> None:
    always = Model(idle_timeout_s=1, min_replicas=1)
    assert replicas(1, {"a": idle(999), "b": waits(999)}, a=always) == {"a": 1, "b": 0}
    assert replicas(1, {"a": idle(999), "b": idle(5)}, a=always) == {"a": 1, "b": 0}


def test_min_replicas_take_one_place() -> None:
    demand = {"a": idle(9, replicas=2), "b": waits(1), "c": waits(2)}
    assert replicas(2, demand, a=Model(min_replicas=2, max_replicas=2)) == {"a": 2, "b": 0, "c": 1}


def test_lower_cap_unloads_the_least_recently_used_idle_models() -> None:
    assert replicas(2, {"a": idle(20), "b": idle(30), "c": idle(10), "d": busy()}) == {"a": 0, "b": 0, "c": 1, "d": 1}


def test_lower_cap_unloads_no_busy_model_and_starts_none() -> None:
    assert replicas(1, {"a": busy(), "b": busy(), "c": idle(0), "d": waits()}) == {"a": 1, "b": 1, "c": 1, "d": 0}


def test_lower_cap_makes_room_before_it_lends_it() -> None:
    assert replicas(1, {"a": idle(20), "b": idle(30), "c": waits()}) == {"a": 0, "b": 0, "c": 0}
    assert replicas(1, {"a": leaving(), "b": idle(30), "c": waits()}) == {"a": 0, "b": 0, "c": 0}


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        pytest.param(busy(10, replicas=1), 1, id="exactly on target"),
        pytest.param(busy(11, replicas=1), 2, id="above target"),
        pytest.param(busy(11, replicas=1, queued=10), 3, id="queued requests count"),
        pytest.param(busy(500, replicas=2), 4, id="at most max_replicas"),
        pytest.param(busy(1, replicas=3), 3, id="a busy model keeps what it has"),
        pytest.param(busy(1, replicas=9), 4, id="but not above a lowered maximum"),
        pytest.param(waits(queued=35), 4, id="a model that starts starts with enough"),
    ],
)
def test_load_decides_the_replicas_of_a_model_in_use(seen: Demand, wanted: int) -> None:
    assert replicas(3, {"a": seen}, a=Model(max_replicas=4, target_ongoing_requests=10)) == {"a": wanted}


def test_replicas_of_one_model_take_one_place() -> None:
    assert replicas(2, {"a": busy(9, replicas=3), "b": waits()}, a=Model(max_replicas=3)) == {"a": 3, "b": 1}


def test_load_that_has_fallen_costs_replicas_after_the_delay_only() -> None:
    model = Model(max_replicas=4, target_ongoing_requests=10, downscale_delay_s=30)
    for seen in (busy(5, replicas=4), idle(5, replicas=4), idle(0, replicas=4)):
        fallen = replace(seen, enough=2, enough_since=NOW - 29)
        assert replicas(3, {"a": fallen}, a=model) == {"a": 4}
        assert replicas(3, {"a": replace(fallen, enough_since=NOW - 30)}, a=model) == {"a": 2}


def test_idle_model_goes_as_a_whole() -> None:
    model = Model(max_replicas=4, idle_timeout_s=60)
    assert replicas(3, {"a": idle(60, replicas=4)}, a=model) == {"a": 0}


def test_model_that_always_is_up_keeps_its_replicas_for_the_delay_too() -> None:
    always = Model(min_replicas=1, max_replicas=4)
    quiet = idle(99, replicas=3)
    assert replicas(3, {"a": quiet}, a=always) == {"a": 3}
    assert replicas(3, {"a": replace(quiet, enough=1, enough_since=NOW - 30)}, a=always) == {"a": 1}


# Pools: a replica that takes several places --------------------------------------------------------------------------

POOL = Model(places=3, max_replicas=3, target_ongoing_requests=1)


def test_pool_takes_its_places_with_its_first_replica() -> None:
    assert replicas(4, {"p": busy(), "a": waits(2), "b": waits(1)}, p=POOL) == {"p": 1, "a": 1, "b": 0}
    assert replicas(4, {"p": waits(1), "a": busy(), "b": waits(0)}, p=POOL) == {"p": 1, "a": 1, "b": 0}
    assert replicas(4, {"p": waits(1), "a": busy(), "b": busy()}, p=POOL) == {"p": 0, "a": 1, "b": 1}


def test_pool_makes_as_many_places_as_it_takes() -> None:
    demand = {"a": idle(9), "b": idle(8), "c": idle(7), "d": idle(6), "p": waits()}
    assert replicas(4, demand, p=POOL) == {"a": 0, "b": 0, "c": 0, "d": 1, "p": 0}
    assert replicas(5, demand, p=POOL) == {"a": 0, "b": 0, "c": 1, "d": 1, "p": 0}


def test_nobody_goes_for_a_pool_that_would_still_have_no_room() -> None:
    demand = {"a": idle(9), "b": idle(8), "c": busy(), "d": busy(), "p": waits()}
    decided = decisions(4, demand, p=POOL)
    assert [decided[name].replicas for name in "abcdp"] == [1, 1, 1, 1, 0]
    assert decided["p"].reason == "waits: it takes 3 places, and 4 of 4 are in use"


def test_pool_gives_all_its_places() -> None:
    demand = {"p": idle(9, replicas=2), "a": idle(5), "b": waits(3), "c": waits(2)}
    assert replicas(7, demand, p=POOL) == {"p": 0, "a": 1, "b": 0, "c": 0}
    gone = {**demand, "p": Demand(last_used=NOW, leaving=True, processes=2)}
    assert replicas(7, gone, p=POOL) == {"p": 0, "a": 1, "b": 0, "c": 0}, "until its last process is gone"
    half = {**demand, "p": Demand(last_used=NOW, leaving=True, processes=1)}
    assert replicas(7, half, p=POOL) == {"p": 0, "a": 1, "b": 1, "c": 1}


def test_pool_grows_into_free_places_only() -> None:
    assert replicas(9, {"p": busy(9)}, p=POOL) == {"p": 3}
    assert replicas(8, {"p": busy(9)}, p=POOL) == {"p": 2}
    assert replicas(8, {"p": busy(9), "a": idle(9), "b": idle(9), "c": idle(9)}, p=POOL)["p"] == 1
    assert replicas(6, {"p": busy(9), "a": waits()}, p=POOL) == {"p": 1, "a": 1}, "who waits comes first"
    assert replicas(9, {"p": waits(queued=9)}, p=POOL) == {"p": 3}, "with its start too"
    assert replicas(9, {"p": sized(busy(9), 6, "n")}, ONE, p=POOL) == {"p": 1}, "and into free memory"


def test_places_of_a_replica_that_is_ending_are_free_soon() -> None:
    one_ends = replace(busy(1), processes=2)
    assert replicas(6, {"p": one_ends, "a": idle(99), "b": waits()}, p=POOL) == {"p": 1, "a": 1, "b": 0}
    assert replicas(6, {"p": one_ends, "a": idle(99)}, p=POOL) == {"p": 1, "a": 1}, "nobody goes under the cap for it"
    assert replicas(6, {"p": replace(busy(9), processes=2)}, p=POOL) == {"p": 1}


def test_pool_of_more_places_than_there_are_is_refused() -> None:
    assert decisions(2, {"p": waits()}, p=POOL)["p"] == Decision(0, "it takes 3 places, and there are 2", refused=True)
    held = decisions(4, {"p": waits(), "a": idle(9), "b": idle(9)}, p=POOL, a=Model(pinned=True), b=Model(pinned=True))
    why = "it takes 3 places, and 2 of 4 are held by models that are never unloaded"
    assert held["p"] == Decision(0, why, refused=True)


def test_pools_turn_takes_the_places_of_as_many_as_it_needs() -> None:
    demand = {"a": working(50), "b": working(60), "c": working(70), "d": working(80), "p": waits(40)}
    assert replicas(4, demand, p=POOL) == {"a": 1, "b": 0, "c": 0, "d": 0, "p": 0}


def test_lower_cap_unloads_as_few_as_it_must() -> None:
    assert replicas(4, {"a": idle(30), "p": idle(20), "b": idle(10)}, p=POOL) == {"a": 0, "p": 1, "b": 1}
    assert replicas(2, {"a": idle(30), "p": idle(40), "b": idle(10)}, p=POOL) == {"a": 1, "p": 0, "b": 1}


def test_reason_tells_the_operator_why() -> None:
    demand = {"a": idle(30), "b": busy(), "c": waits(2), "d": waits(1), "e": DOWN, "f": idle(99)}
    models = {name: Model(idle_timeout_s=60 if name == "f" else 0) for name in demand}
    reasons = {name: d.reason for name, d in decide(models, demand, cap=2, now=NOW).items()}
    assert reasons == {
        "a": "made room for c",
        "b": "in use",
        "c": "waits for a to end",
        "d": "waits: all 2 places are in use",
        "e": "no demand",
        "f": "idle for 60 s",
    }


# Memory --------------------------------------------------------------------------------------------------------------

ONE = {"n": Node(10)}
TWO = {"n": Node(10), "m": Node(10)}


def test_model_starts_where_its_memory_is_free() -> None:
    assert replicas(9, {"a": sized(busy(), 6, "n"), "b": sized(waits(), 4)}, ONE) == {"a": 1, "b": 1}
    assert replicas(9, {"a": sized(busy(), 6, "n"), "b": sized(waits(), 5)}, ONE) == {"a": 1, "b": 0}
    assert replicas(9, {"a": sized(busy(), 6, "n"), "b": sized(waits(), 5)}, TWO) == {"a": 1, "b": 1}
    assert replicas(9, {"a": sized(busy(), 6), "b": sized(busy(), 6), "c": sized(waits(), 5)}, TWO)["c"] == 0


def test_memory_counts_only_where_a_replica_can_be() -> None:
    demand = {"a": sized(busy(), 6, "m"), "b": replace(sized(waits(), 5), hosts=("m",))}
    assert replicas(9, demand, TWO) == {"a": 1, "b": 0}
    assert replicas(9, {**demand, "b": replace(sized(waits(), 5), hosts=("n", "m"))}, TWO) == {"a": 1, "b": 1}
    assert replicas(9, {**demand, "a": sized(idle(9), 6, "m")}, TWO) == {"a": 0, "b": 0}
    never = decisions(9, {"b": replace(sized(waits(), 9), hosts=("m",))}, {"n": Node(10), "m": Node(8)})["b"]
    assert never == Decision(0, "it needs 9 MB of memory, and the limit is 8 MB", refused=True)
    grows = {"a": replace(sized(busy(9), 6, "m"), hosts=("m",))}
    assert replicas(9, grows, TWO, a=Model(max_replicas=2, target_ongoing_requests=1)) == {"a": 1}


def test_replica_that_is_not_known_to_be_anywhere_is_not_where_another_one_is_known_to_be() -> None:
    demand = {"a": sized(busy(), 6), "b": sized(busy(), 6, "n"), "c": sized(waits(), 5)}
    assert replicas(9, demand, {"n": Node(10), "m": Node(8)}) == {"a": 1, "b": 1, "c": 0}


def test_two_loads_never_share_the_same_free_memory() -> None:
    assert replicas(9, {"a": sized(waits(2), 6), "b": sized(waits(1), 6)}, ONE) == {"a": 1, "b": 0}
    loading = Demand(1, 0, 1, NOW, loading=True, memory_mb=6)
    free = {"n": Node(100, free_mb=10)}
    assert replicas(9, {"a": loading, "b": sized(waits(), 6)}, free)["b"] == 0, "nothing is measured of it yet"


def test_memory_is_taken_until_every_process_is_gone() -> None:
    assert replicas(9, {"a": sized(leaving(), 6, "n"), "b": sized(waits(), 6)}, ONE) == {"a": 0, "b": 0}
    assert replicas(9, {"a": sized(leaving(), 3, "n", "n"), "b": sized(waits(), 5)}, ONE) == {"a": 0, "b": 0}
    fewer = sized(busy(1), 3, "n", "n", "n")
    assert replicas(9, {"a": fewer, "b": sized(waits(), 4)}, ONE) == {"a": 1, "b": 0}


def test_memory_that_is_being_freed_is_promised_once_and_costs_no_victim() -> None:
    demand = {"a": sized(leaving(), 6, "n"), "b": sized(idle(9), 4, "n"), "c": sized(waits(2), 6)}
    assert replicas(9, demand, ONE) == {"a": 0, "b": 1, "c": 0}
    assert replicas(9, {**demand, "b": DOWN, "d": sized(waits(1), 5)}, ONE) == {"a": 0, "b": 0, "c": 0, "d": 0}
    assert replicas(9, {**demand, "b": DOWN, "d": sized(waits(1), 4)}, ONE)["d"] == 1, "enough is left for it"


def test_no_model_goes_if_that_does_not_help() -> None:
    demand = {"a": sized(busy(), 6, "n"), "b": sized(idle(9), 4, "n"), "c": sized(waits(), 5)}
    assert replicas(9, demand, ONE) == {"a": 1, "b": 1, "c": 0}


def test_model_that_gives_too_little_stays_if_a_later_one_gives_enough() -> None:
    demand = {"a": sized(idle(9), 2, "n"), "b": sized(idle(8), 8, "n"), "c": sized(waits(), 8)}
    assert replicas(9, demand, ONE) == {"a": 1, "b": 0, "c": 0}


def test_victim_is_the_least_recently_used_of_all_nodes() -> None:
    demand = {"a": sized(idle(8), 8, "n"), "b": sized(idle(9), 8, "m"), "c": sized(waits(), 8)}
    assert replicas(9, demand, TWO) == {"a": 1, "b": 0, "c": 0}


def test_node_where_fewer_must_go_comes_first() -> None:
    demand = {"a": sized(idle(9), 5, "n"), "b": sized(idle(8), 5, "n"), "c": sized(idle(7), 9, "m")}
    assert replicas(9, {**demand, "d": sized(waits(), 8)}, TWO) == {"a": 1, "b": 1, "c": 0, "d": 0}


def test_measured_memory_counts_beside_others_only() -> None:
    full = {"n": Node(10, free_mb=1)}
    assert replicas(9, {"a": sized(waits(), 8)}, full) == {"a": 1}, "nobody could be asked to go"
    assert replicas(9, {"a": sized(busy(), 2, "n"), "b": sized(waits(), 8)}, full) == {"a": 1, "b": 0}


def test_busy_model_grows_into_free_memory_only() -> None:
    model = Model(max_replicas=4, target_ongoing_requests=1)
    assert replicas(9, {"a": sized(busy(9), 3, "n")}, ONE, a=model) == {"a": 3}
    demand = {"a": sized(busy(9), 3, "n"), "b": sized(waits(), 6), "c": sized(leaving(), 1, "n")}
    assert replicas(9, demand, ONE, a=model)["a"] == 1, "b was promised the rest"
    late = {"a": sized(busy(9), 3, "n"), "b": sized(waits(99), 8)}
    assert replicas(9, late, ONE, a=model) == {"a": 1, "b": 0}, "b waits for its turn"


def test_model_that_will_never_fit_is_refused_with_figures() -> None:
    assert decisions(9, {"a": sized(waits(), 11)}, ONE)["a"] == Decision(
        0, "it needs 11 MB of memory, and the limit is 10 MB", refused=True
    )
    beside = decisions(9, {"p": sized(idle(9), 6, "n"), "a": sized(waits(), 5)}, ONE, p=Model(pinned=True))["a"]
    assert beside.refused
    assert beside.reason.endswith("the limit is 10 MB beside 6 MB of models that are never unloaded")
    places = decisions(1, {"p": idle(9), "a": waits()}, p=Model(min_replicas=1))["a"]
    assert places == Decision(0, "all 1 places are held by models that are never unloaded", refused=True)


def test_model_that_fits_on_one_node_is_not_refused() -> None:
    demand = {"p": sized(idle(9), 6), "a": sized(waits(), 9)}
    assert not decisions(9, demand, {"n": Node(10), "m": Node(8)}, p=Model(pinned=True))["a"].refused


def test_short_memory_unloads_just_enough_of_that_node() -> None:
    short = {"n": Node(10, short_mb=3), "m": Node(10)}
    demand = {"a": sized(idle(9), 2, "n"), "b": sized(idle(8), 2, "n"), "c": sized(idle(7), 2, "n")}
    demand |= {"d": sized(idle(99), 2, "m"), "e": sized(busy(), 2, "n")}
    assert replicas(9, demand, short) == {"a": 0, "b": 0, "c": 1, "d": 1, "e": 1}
    assert replicas(9, {**demand, "f": sized(leaving(), 2, "n")}, short)["b"] == 1, "what goes is counted"


# A load that is paused -----------------------------------------------------------------------------------------------


def test_paused_load_is_granted_memory_once() -> None:
    granted = decisions(9, {"a": paused(6, "n", since=2), "b": paused(6, "n", since=1)}, ONE)
    assert granted["a"] == Decision(1, "loads", granted=True)
    assert granted["b"] == Decision(1, "waits: it needs 6 MB of memory, and 4 MB are free")


def test_paused_load_is_granted_memory_of_its_own_node() -> None:
    demand = {"a": sized(busy(), 6, "n"), "b": paused(6, "n")}
    assert not decisions(9, demand, TWO)["b"].granted
    assert decisions(9, {**demand, "b": paused(6, "m")}, TWO)["b"].granted
    two = replace(paused(6, "n", "n"), replicas=2)
    assert decisions(9, {"a": two}, ONE, a=Model(max_replicas=2))["a"].refused, "both are there"


def test_paused_load_evicts_and_takes_a_turn() -> None:
    assert replicas(2, {"a": sized(idle(9), 6, "n"), "b": paused(6, "n")}, ONE) == {"a": 0, "b": 1}
    assert replicas(2, {"a": sized(working(99), 6, "n"), "b": paused(6, "n", since=99)}, ONE) == {"a": 0, "b": 1}


def test_paused_load_that_will_never_fit_is_refused() -> None:
    assert decisions(9, {"a": paused(11, "n")}, ONE)["a"].refused


def test_paused_load_that_nobody_waits_for_takes_only_what_is_free() -> None:
    alone = paused(6, "n", queued=0, since=99)
    assert decisions(9, {"a": alone}, ONE)["a"].granted
    assert replicas(9, {"a": sized(idle(9), 6, "n"), "b": alone}, ONE) == {"a": 1, "b": 1}
    assert replicas(9, {"a": sized(working(99), 6, "n"), "b": alone, "c": sized(waits(), 4)}, ONE)["c"] == 1
    assert replicas(1, {"b": alone, "c": waits()}, ONE) == {"b": 0, "c": 0}, "and gives its place"


def test_two_pinned_loads_do_not_refuse_each_other() -> None:
    pinned = Model(pinned=True)
    demand = {"a": paused(6, "n", since=2), "b": paused(6, "n", since=1)}
    assert decisions(9, demand, ONE, a=pinned, b=pinned)["a"].granted


# A model whose node is gone ------------------------------------------------------------------------------------------


def lost(mb: float = 0, queued: float = 1, since: float = 1, ago: float = 0) -> Demand:
    """Up before, where no node can hold it any more; used last `ago` seconds ago, if nobody waits for it."""
    last_used = NOW - (since if queued else ago)
    return Demand(queued, 0, 1, last_used, loading=True, memory_mb=mb, paused=True, moving=True)


def test_lost_model_that_is_wanted_starts_at_once_in_its_own_place() -> None:
    moved = Decision(1, "moves: no node can hold it any more where it was", granted=True)
    assert decisions(1, {"a": lost()}) == {"a": moved}
    assert decisions(1, {"a": lost(since=0), "b": waits(29)}) == {
        "a": moved,
        "b": Decision(0, "waits: all 1 places are in use"),
    }
    assert decisions(1, {"a": lost(queued=0, ago=99)}, a=Model(min_replicas=1)) == {"a": moved}


def test_lost_model_waits_for_its_memory_and_keeps_its_place() -> None:
    demand = {"a": lost(6), "b": sized(busy(), 6, "n"), "c": waits(0)}
    assert replicas(2, demand, ONE) == {"a": 1, "b": 1, "c": 0}
    assert not decisions(2, demand, ONE)["a"].granted
    assert replicas(2, {**demand, "b": sized(idle(9), 6, "n")}, ONE) == {"a": 1, "b": 0, "c": 0}
    assert decisions(2, {**demand, "b": DOWN}, ONE)["a"].granted


def test_lost_model_that_nobody_waits_for_is_down() -> None:
    assert replicas(1, {"a": lost(queued=0, ago=SETTLE_S)}) == {"a": 1}, "a request may come back"
    gone = decisions(1, {"a": lost(queued=0, ago=SETTLE_S + 0.1)})["a"]
    assert gone == Decision(0, "no node can hold it any more")


def test_lost_model_is_nobodys_victim() -> None:
    assert replicas(1, {"a": replace(lost(6), up_since=NOW - 999), "b": waits(99)}, {"n": Node(5)})["a"] == 1


def test_lost_model_with_several_replicas_begins_with_one_again() -> None:
    model = Model(max_replicas=3, target_ongoing_requests=1)
    assert replicas(9, {"a": replace(lost(4, queued=9), replicas=3)}, ONE, a=model) == {"a": 1}


# Wishes --------------------------------------------------------------------------------------------------------------


def test_operator_starts_and_stops() -> None:
    assert decisions(1, {"a": Demand(asked="up", last_used=NOW)})["a"] == Decision(1, "started by an operator")
    assert replicas(1, {"a": idle(9), "b": Demand(asked="up", last_used=NOW)}) == {"a": 0, "b": 0}
    assert replicas(1, {"a": replace(busy(), asked="down")}) == {"a": 0}
    assert replicas(1, {"a": replace(idle(9), asked="down")}, a=Model(pinned=True)) == {"a": 0}


def test_model_that_an_operator_stopped_stays_down_until_it_is_asked_for() -> None:
    always = Model(min_replicas=1)
    assert replicas(1, {"a": Demand(held=True, last_used=NOW)}, a=always) == {"a": 0}
    assert replicas(1, {"a": Demand(queued=1, held=True, last_used=NOW)}, a=always) == {"a": 1}


def test_start_with_the_server_takes_free_room_only() -> None:
    auto = Demand(asked="auto", last_used=NOW)
    assert replicas(1, {"a": auto}) == {"a": 1}
    assert decisions(1, {"a": idle(99), "b": auto})["b"] == Decision(0, "no room to start it by itself", refused=True)
    assert replicas(1, {"a": auto, "b": waits(0)}, a=Model(priority=9)) == {"a": 0, "b": 1}, "requests come first"


def test_load_that_nobody_waits_for_goes_on_and_is_the_last_victim() -> None:
    load = Demand(replicas=1, last_used=NOW - 99, loading=True)
    assert replicas(2, {"a": load, "b": idle(5)}, a=Model(idle_timeout_s=1)) == {"a": 1, "b": 1}
    assert replicas(2, {"a": load, "b": idle(5), "c": waits()}) == {"a": 1, "b": 0, "c": 0}
    assert replicas(1, {"a": load, "c": waits()}) == {"a": 0, "c": 0}


@pytest.mark.parametrize(("keep_alive_s", "kept"), [(None, 0), (20, 1), (5, 0), (-1, 1), (0, 0)])
def test_last_request_says_how_long_its_model_stays(keep_alive_s: float | None, kept: int) -> None:
    seen = replace(idle(10), keep_alive_s=keep_alive_s)
    assert replicas(1, {"a": seen}, a=Model(idle_timeout_s=8)) == {"a": kept}


# Nobody waits for ever -----------------------------------------------------------------------------------------------


def test_nobody_overtakes_one_that_has_waited_for_its_turn() -> None:
    small, big = sized(waits(5), 3), sized(waits(31), 8)
    demand = {"a": sized(working(5), 6, "n"), "b": big, "c": small}
    assert replicas(9, demand, ONE) == {"a": 1, "b": 0, "c": 0}
    assert replicas(9, {**demand, "b": sized(waits(29), 8)}, ONE)["c"] == 1, "not its turn yet"
    assert decisions(9, demand, ONE)["c"].reason == "waits: it is b's turn"


def test_one_that_has_waited_for_its_turn_blocks_only_what_it_needs() -> None:
    nodes = {"n": Node(10), "m": Node(5)}
    demand = {"a": sized(working(5), 6, "n"), "b": sized(waits(31), 8), "c": sized(waits(5), 3)}
    assert replicas(9, demand, nodes) == {"a": 1, "b": 0, "c": 1}
    assert replicas(2, demand, nodes) == {"a": 1, "b": 0, "c": 0}, "its place is kept"


def test_one_that_cannot_be_helped_blocks_nobody() -> None:
    refused = {"a": sized(waits(99), 11), "b": sized(waits(1), 5)}
    assert replicas(9, refused, ONE) == {"a": 0, "b": 1}
    full = {"n": Node(100, free_mb=5)}  # by somebody else
    demand = {"p": sized(idle(9), 1, "n"), "a": sized(waits(99), 50), "b": sized(waits(1), 3)}
    assert replicas(9, demand, full, p=Model(pinned=True)) == {"p": 1, "a": 0, "b": 1}


@pytest.mark.parametrize(("ends_since", "kept"), [(29, 1), (30, 0)])
def test_process_that_takes_a_turn_to_end_is_not_waited_for(ends_since: float, kept: int) -> None:
    drained = Demand(leaving=True, ended_at=NOW - ends_since)
    assert replicas(2, {"a": drained, "b": idle(9), "c": waits(60)}) == {"a": 0, "b": kept, "c": 0}


def test_each_turn_of_waiting_counts_as_a_priority() -> None:
    vip = Model(priority=1)
    assert replicas(1, {"a": waits(1), "b": waits(29)}, a=vip) == {"a": 1, "b": 0}
    assert replicas(1, {"a": waits(1), "b": waits(30)}, a=vip) == {"a": 0, "b": 1}


def test_turn_does_not_wait_for_the_victims_min_resident_s_again() -> None:
    assert replicas(1, {"a": working(600), "b": waits(30)}, a=Model(min_resident_s=600)) == {"a": 0, "b": 0}


def test_turn_ends_a_model_that_does_not_start_though_it_is_waited_for() -> None:
    broken = Demand(queued=1, replicas=1, last_used=NOW, failed=True)
    assert replicas(1, {"a": broken, "b": waits(29)}) == {"a": 1, "b": 0}
    assert replicas(1, {"a": broken, "b": waits(30)}) == {"a": 0, "b": 0}


def test_turns_without_a_wait_still_take_one_victim() -> None:
    assert replicas(1, {"a": working(1), "b": waits(0)}, turn_s=0) == {"a": 0, "b": 0}
    drained = Demand(leaving=True, ended_at=NOW - 1)
    assert replicas(2, {"a": drained, "b": working(1), "c": waits(1)}, turn_s=0) == {"a": 0, "b": 1, "c": 0}


def test_one_with_a_place_that_waits_for_memory_is_no_victim() -> None:
    broken = replace(paused(6, "n"), failed=True, loading=False)
    demand = {"a": broken, "b": sized(working(9), 6, "n"), "c": waits(99)}
    assert replicas(2, demand, ONE) == {"a": 1, "b": 1, "c": 0}


# A long random run ---------------------------------------------------------------------------------------------------

TURN_S = 3.0


@dataclass
class Machine:
    """A cluster in small: models load for some steps, requests wait for a replica, run and end."""

    models: dict[str, Model]
    cap: int
    chance: random.Random
    now: float = NOW
    replicas: dict[str, int] = field(default_factory=dict)
    loading: dict[str, int] = field(default_factory=dict)
    ending: dict[str, int] = field(default_factory=dict)
    queued: dict[str, int] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)
    up_since: dict[str, float] = field(default_factory=dict)
    served: int = 0
    turns: int = 0

    def __post_init__(self) -> None:
        for name in self.models:
            self.replicas[name] = self.loading[name] = self.queued[name] = self.running[name] = self.ending[name] = 0

    def demand(self) -> dict[str, Demand]:
        for name in self.models:
            wanted = self.queued[name] or self.running[name]
            if (wanted and self.replicas[name]) or not (wanted or self.replicas[name]):
                self.clock[name] = self.now  # used now; or down, without anybody who waits
            self.clock.setdefault(name, self.now)
        return {
            n: Demand(
                self.queued[n],
                self.running[n] if self.replicas[n] else 0,
                self.replicas[n],
                self.clock[n],
                self.up_since.get(n),
                leaving=not self.replicas[n] and self.ending[n] > 0,
            )
            for n in self.models
        }

    def places(self) -> set[str]:
        """Models that take a place: decided up, or with a process that is not gone."""
        return {name for name in self.models if self.replicas[name] or self.ending[name]}

    def step(self) -> None:
        """One look of the policy, checked against what must always hold."""
        demand = self.demand()
        before = self.places()
        decisions = decide(self.models, demand, cap=self.cap, now=self.now, turn_s=TURN_S)
        assert decisions.keys() == self.models.keys()
        after = {name: decision.replicas for name, decision in decisions.items()}
        up = {name for name in after if after[name]}
        always = {name for name in up if self.models[name].min_replicas}
        started = {name for name in up if not self.replicas[name]} - always
        stopped = {name for name in after if self.replicas[name] and not after[name]}
        assert not started or len(before | started | always) <= self.cap, "a model is started above the cap"
        for name, seen in demand.items():
            assert self.models[name].min_replicas <= after[name] <= self.models[name].max_replicas
            if seen.wanted and name in stopped:
                self.turns += 1
                assert "its turn is over" in decisions[name].reason, "a busy model goes without a turn"
                assert self.now - (seen.up_since or self.now) >= TURN_S, "a turn is cut short"
                assert any(
                    self.now - self.clock[n] >= TURN_S for n in after if demand[n].queued and not self.replicas[n]
                )
            elif seen.unfinished:
                assert after[name] >= seen.replicas, "a busy model loses a replica"
        waiting = sorted((n for n in demand if demand[n].queued and not self.replicas[n]), key=lambda n: self.clock[n])
        waiting = [n for n in waiting if n not in always and not demand[n].leaving]
        assert {self.clock[n] for n in started} == {self.clock[n] for n in waiting[: len(started)]}, "out of turn"
        if len(started) < len(waiting):
            in_use = {n for n in up if demand[n].wanted or self.now - demand[n].last_used <= SETTLE_S}
            assert len(before | up) >= self.cap, "a place stays free while a model waits"
            idle = up - in_use - always - started
            coming = len(before | started) - len(up)
            assert not idle or coming >= len(waiting) - len(started), (
                "an idle model keeps its place while a model waits"
            )
        for name in started | always - before:
            self.loading[name] = self.chance.randrange(6)
        for name in stopped:
            self.ending[name] = self.chance.randint(1, 6)
            self.up_since.pop(name, None)
        self.replicas = after

    def live(self, *, arrivals: bool) -> None:
        """Time passes: models load, requests begin, end and arrive."""
        self.now += self.chance.choice([0.1, 0.1, 0.1, 1.0])
        for name in self.models:
            if not self.replicas[name]:
                self.running[name] -= self.chance.randint(0, self.running[name])  # it is drained
                if not self.running[name]:
                    self.ending[name] = max(0, self.ending[name] - 1)
                continue
            if self.loading[name]:
                self.loading[name] -= 1
                continue
            self.up_since.setdefault(name, self.now)
            self.served += self.queued[name]
            self.running[name] += self.queued[name]
            self.queued[name] = 0
            self.running[name] -= self.chance.randint(0, self.running[name])
        if arrivals and self.chance.random() < 0.4:
            self.queued[self.chance.choice(list(self.models))] += self.chance.choice([1, 1, 5, 40])
        if arrivals and self.chance.random() < 0.01:
            self.cap = self.chance.randint(2, 5)


def test_random_run_never_breaks_a_promise_and_serves_everyone() -> None:
    chance = random.Random(20_261_122)
    models = {f"m{i}": Model(chance.choice([0, 0.5, 20]), 0, chance.randint(1, 3), 8) for i in range(9)}
    machine = Machine({**models, "pinned": Model(5, 1, 2, 8)}, cap=3, chance=chance)
    for _ in range(6):
        for _ in range(500):
            machine.step()
            machine.live(arrivals=True)
        for _ in range(300):  # nobody new comes: all who wait have their turn
            machine.step()
            machine.live(arrivals=False)
        assert not any(machine.queued.values()), f"never served: {machine.queued}"
    assert machine.served > 3000
    assert machine.turns > 10
