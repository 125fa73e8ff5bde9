"""What becomes of what operators wish, and of `auto_start`."""

from __future__ import annotations

import logging

import pytest

from deployments.residency import ResidencyPolicy
from deployments.residency.board import Kind, Report
from deployments.residency.decision import SETTLE_S
from deployments.residency.policy import GIVE_UP_S, NO_PROCESS_S, RESTART_S, STARTS
from deployments.residency.wishes import ANSWERS
from tests.residency.world import HERE, Deployment, World, server_of, server_with_one

# auto_start ----------------------------------------------------------------------------------------------------------


def test_auto_start_model_starts_once_and_not_again_after_it_was_idle(world: World) -> None:
    server = server_of(world, a=Deployment(model={"auto_start": True}))
    assert server.step() == {"a": 1}
    server.up("a")
    assert server.step(60) == {"a": 0}
    server.down("a")
    assert server.step(60) == {}
    server.models["a"].queued = 1
    assert server.step() == {"a": 1}, "for a request it does"


def test_auto_start_model_is_not_started_again_by_the_next_policy(world: World) -> None:
    server = server_of(world, a=Deployment(model={"auto_start": True}))
    server.step()
    server.up("a")
    server.step(60)
    server.down("a")
    world.restored = world.told.table
    server.policy = ResidencyPolicy()
    assert server.step(60) == {}
    assert server.step(60) == {}


def test_auto_start_is_done_where_the_model_is_up_already(world: World) -> None:
    server = server_of(world, a=Deployment(model={"auto_start": True}, target=1, running=1))
    server.step()
    assert server.step(60) == {"a": 0}
    server.down("a")
    assert server.step() == {}


def test_auto_start_takes_nobodys_room_and_is_given_up(world: World) -> None:
    a, b = Deployment(queued=1), Deployment(model={"auto_start": True, "priority": -1})
    server = server_of(world, ResidencyPolicy(1), a=a, b=b)
    assert server.step() == {"a": 1}
    server.up("a")
    server.step(20)
    assert b.target == 0
    a.target = a.running = 0
    server.die("a")
    assert server.step() == {}


def test_start_does_not_take_the_refusal_of_auto_start_for_its_own(world: World) -> None:
    b = Deployment(model={"auto_start": True, "priority": -1})
    server = server_of(world, ResidencyPolicy(1), a=Deployment(queued=1), b=b)
    server.step()
    assert world.row("b").refused
    wish = world.wish("b", "start")
    server.up("a")
    assert world.answer(wish) is None
    assert server.step(2 * SETTLE_S) == {"a": 0}


def test_auto_start_model_that_is_stopped_before_it_started_stays_down(world: World) -> None:
    server = server_of(world, a=Deployment(model={"auto_start": True}))
    world.wish("a", "stop")
    assert server.step() == {}
    assert server.step() == {}


# Wishes: start -------------------------------------------------------------------------------------------------------


def test_start_is_answered_when_the_model_is_up(world: World) -> None:
    server = server_of(world, a=Deployment())
    wish = world.wish("a", "start")
    assert server.step() == {"a": 1}
    assert world.row("a").reason == "started by an operator"
    server.start("a")
    server.step()
    assert world.answer(wish) is None
    assert world.wishes
    server.up("a")
    assert world.answer(wish) == ""
    assert not world.wishes


def test_start_of_a_model_that_is_up_is_answered_at_once(world: World) -> None:
    server = server_with_one(world)
    wish = world.wish("a", "start")
    assert server.step() == {}
    assert world.answer(wish) == ""


def test_everybody_who_joins_a_start_is_answered(world: World) -> None:
    server = server_of(world, a=Deployment())
    wishes = [world.wish("a", "start") for _ in range(ANSWERS // 2)]
    assert server.step() == {"a": 1}
    wishes += [world.wish("a", "start") for _ in range(ANSWERS // 2)]
    assert server.step() == {}
    server.up("a")
    assert {world.answer(wish) for wish in wishes} == {""}


def test_asked_for_model_waits_like_a_request_and_takes_the_place_of_an_idle_one(world: World) -> None:
    server = server_of(world, ResidencyPolicy(1), a=Deployment(queued=1), b=Deployment())
    server.step()
    server.up("a")
    world.wish("b", "start")
    assert server.step() == {}
    assert world.row("b").waiting
    server.step()
    waiting_since = world.row("b").waiting_since
    assert waiting_since is not None
    assert server.step(SETTLE_S) == {"a": 0}
    assert world.row("b").waiting_since == waiting_since
    server.down("a")
    assert server.models["b"].target == 1


def test_start_is_answered_with_the_failure(world: World) -> None:
    server = server_of(world, a=Deployment())
    wish = world.wish("a", "start")
    server.step()
    server.start("a")
    server.step()
    world.reports = [Report("a", "r0", HERE, failure="OSError: no weights")]
    server.step()
    assert world.answer(wish) is None, "its process is still there"
    server.die("a")
    server.step()
    assert world.answer(wish) == "OSError: no weights"


def test_start_whose_process_vanishes_without_a_word_is_tried_again_and_then_answered(world: World) -> None:
    server = server_of(world, a=Deployment())
    wish = world.wish("a", "start")
    for _ in range(STARTS):
        server.step()
        assert world.answer(wish) is None
        server.start("a")
        server.step()
        server.die("a")
        server.step()
    assert world.answer(wish) == "its process ended while it was starting"


def test_start_of_a_failed_model_tries_again_at_once(world: World) -> None:
    server = server_of(world, a=Deployment(queued=1))
    server.step()
    server.start("a")
    server.step()
    world.reports = [Report("a", "r0", HERE, failure="OSError: no weights")]
    server.die("a")
    server.models["a"].queued = 0
    server.step()
    wish = world.wish("a", "start")
    assert server.step() == {"a": 0}
    assert server.step() == {"a": 1}
    server.up("a")
    assert world.answer(wish) == ""


def test_start_of_a_model_that_was_up_and_cannot_come_back_is_answered(world: World) -> None:
    server = server_with_one(world)
    world.reports = [Report("a", "r1", HERE, failure="OSError: no weights")]
    server.die("a")
    server.step()
    wish = world.wish("a", "start")
    assert server.step() == {"a": 0}
    assert server.step() == {"a": 1}
    world.reports = [Report("a", "r2", HERE, failure="OSError: still no weights")]
    server.step()
    server.step(NO_PROCESS_S)
    assert world.answer(wish) == "OSError: still no weights"


def test_start_while_serve_replaces_a_replica_waits_for_it(world: World) -> None:
    server = server_with_one(world)
    server.die("a")
    server.step()
    wish = world.wish("a", "start")
    assert server.step() == {}
    assert world.answer(wish) is None
    server.up("a")
    assert world.answer(wish) == ""


def test_start_of_a_model_that_is_refused_is_answered_with_figures(world: World, log: list[logging.LogRecord]) -> None:
    world.nodes, world.free = {HERE: 1000.0}, 1000.0
    server = server_of(world, a=Deployment(sizes={"memory_mb": 1500}))
    wish = world.wish("a", "start")
    assert server.step() == {}
    server.step()
    assert world.answer(wish) == "it needs 1,500 MB of memory, and the limit is 900 MB"
    assert len(log) == 1
    again = world.wish("a", "start")
    server.step()
    server.step()
    assert world.answer(again) == world.answer(wish), "it is asked anew"


def test_model_that_only_now_says_that_it_can_never_fit_fails_its_start(world: World) -> None:
    world.nodes, world.free = {HERE: 1000.0}, 1000.0
    server = server_of(world, a=Deployment())
    wish = world.wish("a", "start")
    server.step()
    server.start("a")
    world.reports = [Report("a", "r0", HERE, "waiting for memory", need_mb=1500)]
    server.step()
    assert (world.row("a").refused, world.row("a").granted) == (True, False)
    server.die("a")
    world.reports = [Report("a", "r0", HERE, failure=f"Capacity: {world.row('a').reason}")]
    server.step()
    assert "it needs 1,500 MB" in (world.answer(wish) or "")


# Wishes: stop --------------------------------------------------------------------------------------------------------


def test_stop_is_answered_when_the_process_is_gone(world: World) -> None:
    server = server_with_one(world)
    wish = world.wish("a", "stop")
    assert server.step() == {"a": 0}
    assert world.row("a").reason == "stopped by an operator"
    server.step(30)
    assert world.answer(wish) is None
    server.down("a")
    assert world.answer(wish) == ""


def test_stop_of_a_stopped_model_is_answered_at_once(world: World) -> None:
    server = server_of(world, a=Deployment())
    wish = world.wish("a", "stop")
    assert server.step() == {}
    assert world.answer(wish) == ""


def test_stop_waits_for_requests_and_nobody_else(world: World) -> None:
    """Serve drains the replica; the decision does not wait for it."""
    server = server_with_one(world)
    server.models["a"].unfinished = 3
    world.wish("a", "stop")
    assert server.step() == {"a": 0}


def test_stop_ends_a_start(world: World) -> None:
    server = server_of(world, a=Deployment())
    start = world.wish("a", "start")
    server.step()
    server.start("a")
    stop = world.wish("a", "stop")
    assert server.step() == {"a": 0}
    assert world.answer(start) == "another wish came after it: stop"
    server.down("a")
    assert world.answer(stop) == ""


def test_start_that_is_given_up_leaves_no_replica_to_wait_for(world: World) -> None:
    """Serve would wait for it as long as an answer may take."""
    server = server_of(world, a=Deployment())
    world.wish("a", "start")
    server.step()
    server.start("a")
    assert world.told.unborn == frozenset()
    world.wish("a", "stop")
    assert server.step() == {"a": 0}
    assert world.told.unborn == frozenset(), "Serve has not asked it yet"
    server.step(GIVE_UP_S)
    assert world.told.unborn == {"a"}
    server.down("a")
    world.wish("a", "start")
    assert server.step() == {"a": 1}
    assert world.told.unborn == frozenset()


def test_failure_of_one_replica_beside_others_is_not_the_models(world: World) -> None:
    server = server_with_one(world)
    world.reports.append(Report("a", "second", "node", "failed", failure="ValueError: no room"))
    server.step()
    assert world.row("a").failure is None
    world.wish("a", "stop")
    server.step()
    server.down("a")
    assert world.row("a").failure is None


def test_replica_that_was_up_is_left_to_finish_its_answers(world: World) -> None:
    server = server_with_one(world)
    world.wish("a", "stop")
    assert server.step() == {"a": 0}
    server.step()
    assert world.told.unborn == frozenset()


def test_replica_that_serve_starts_again_after_a_crash_may_be_asked_to_end(world: World) -> None:
    server = server_with_one(world)
    server.die("a")
    server.step()
    server.start("a")
    world.wish("a", "stop")
    assert server.step() == {"a": 0}
    assert world.told.unborn == frozenset()


def test_start_supersedes_a_stop_that_is_not_done(world: World) -> None:
    server = server_with_one(world)
    stop = world.wish("a", "stop")
    server.step()
    start = world.wish("a", "start")
    server.step()
    assert world.answer(stop) == "another wish came after it: start"
    assert server.models["a"].target == 0, "its last process is still there"
    server.down("a")
    assert server.models["a"].target == 1
    server.up("a")
    assert world.answer(start) == ""


def test_request_that_came_during_a_stop_wakes_the_model_again(world: World) -> None:
    server = server_with_one(world)
    wish = world.wish("a", "stop")
    server.step()
    server.models["a"].queued = 1
    assert server.step() == {}
    server.down("a")
    assert world.answer(wish) == ""
    assert server.models["a"].target == 1


def test_stopped_min_replicas_model_stays_down_until_it_is_asked_for(world: World) -> None:
    server = server_with_one(world, Deployment(model={"min_replicas": 1}))
    world.wish("a", "stop")
    assert server.step() == {"a": 0}
    server.down("a")
    assert server.step(60) == {}
    assert world.row("a").held
    server.models["a"].queued = 1
    assert server.step() == {"a": 1}
    assert not world.row("a").held
    server.up("a")
    assert server.step(3600) == {}, "it stays up as before"


@pytest.mark.parametrize("kind", ["start", "restart"])
def test_held_model_is_started_by_an_operator_too(world: World, kind: Kind) -> None:
    server = server_with_one(world, Deployment(model={"min_replicas": 1}))
    world.wish("a", "stop")
    server.step()
    server.down("a")
    world.wish("a", kind)
    assert server.step() == {"a": 1}
    assert not world.row("a").held


def test_held_model_stays_down_under_the_next_policy(world: World) -> None:
    server = server_with_one(world, Deployment(model={"min_replicas": 1}))
    world.wish("a", "stop")
    server.step()
    server.down("a")
    world.restored = world.told.table
    server.policy = ResidencyPolicy()
    assert server.step() == {}
    assert server.step(RESTART_S) == {}


def test_pinned_model_is_stopped_by_an_operator(world: World) -> None:
    server = server_with_one(world, Deployment(model={"pinned": True}))
    assert server.step(9999) == {}
    world.wish("a", "stop")
    assert server.step() == {"a": 0}


# Wishes: restart -----------------------------------------------------------------------------------------------------


def test_restart_stops_and_starts_and_is_answered_when_the_model_is_up_again(world: World) -> None:
    server = server_with_one(world)
    wish = world.wish("a", "restart")
    assert server.step() == {"a": 0}
    assert server.step() == {}
    server.down("a")
    assert server.models["a"].target == 1
    assert world.answer(wish) is None
    server.up("a")
    assert world.answer(wish) == ""
    assert server.step(1) == {}


def test_restart_of_a_stopped_model_is_a_start(world: World) -> None:
    server = server_of(world, a=Deployment())
    wish = world.wish("a", "restart")
    assert server.step() == {"a": 1}
    server.up("a")
    assert world.answer(wish) == ""


def test_restart_that_comes_while_another_one_stops_the_model_joins_it(world: World) -> None:
    server = server_with_one(world)
    first = world.wish("a", "restart")
    server.step()
    second = world.wish("a", "restart")
    server.step()
    server.down("a")
    server.up("a")
    assert (world.answer(first), world.answer(second)) == ("", "")
    assert server.models["a"].target == 1


def test_restart_is_answered_with_the_failure(world: World) -> None:
    server = server_with_one(world)
    wish = world.wish("a", "restart")
    server.step()
    server.down("a")
    server.start("a")
    server.step()
    world.reports = [Report("a", "r1", HERE, failure="OSError: no weights")]
    server.die("a")
    server.step()
    assert world.answer(wish) == "OSError: no weights"


# Wishes and the board ------------------------------------------------------------------------------------------------


def test_wish_for_an_unknown_model_is_taken_down(world: World) -> None:
    server = server_of(world, a=Deployment())
    wish = world.wish("b", "start")
    assert server.step() == {}
    assert world.told.done == [wish]


@pytest.mark.parametrize("kind", ["stop", "restart"])
def test_answered_wish_that_the_board_still_shows_is_not_acted_on_again(world: World, kind: Kind) -> None:
    server = server_with_one(world)
    world.take_down = False
    wish = world.wish("a", kind)
    server.step()
    server.models["a"].queued = 1
    server.down("a")
    server.up("a")
    assert world.answer(wish) == ""
    for _ in range(3):
        assert server.step() == {}
    assert set(world.told.done) == {wish}


def test_old_answers_are_forgotten(world: World) -> None:
    server = server_of(world, a=Deployment())
    wishes = []
    for _ in range(ANSWERS + 1):
        wishes.append(world.wish("a", "stop"))
        server.step()
    assert list(world.row("a").answers) == wishes[1:]


# pin -----------------------------------------------------------------------------------------------------------------


def test_pinned_model_is_not_unloaded_until_it_is_unpinned(world: World) -> None:
    server = server_with_one(world)
    pin = world.wish("a", "pin")
    assert server.step() == {}
    assert world.answer(pin) == ""
    assert world.row("a").idle_limit_s is None
    assert server.step(3600) == {}
    assert world.row("a").reason == "pinned"
    world.wish("a", "unpin")
    assert server.step() == {"a": 0}


def test_pinned_model_makes_room_for_nobody(world: World) -> None:
    a, b = Deployment(), Deployment()
    server = server_of(world, ResidencyPolicy(1), a=a, b=b)
    a.queued = 1
    server.step()
    server.up("a")
    world.wish("a", "pin")
    b.queued = 1
    server.step(30)
    assert (a.target, b.target) == (1, 0)


def test_pinning_starts_nothing(world: World) -> None:
    server = server_of(world, a=Deployment())
    pin = world.wish("a", "pin")
    assert server.step() == {}
    assert world.answer(pin) == ""


def test_pin_gives_no_start_and_no_stop_up(world: World) -> None:
    server = server_of(world, a=Deployment())
    start = world.wish("a", "start")
    server.step()
    world.wish("a", "pin")
    server.step()
    assert world.answer(start) is None
    server.up("a")
    assert world.answer(start) == ""
    stop = world.wish("a", "stop")
    assert server.step() == {"a": 0}, "an operator may stop it all the same"
    world.wish("a", "unpin")
    server.down("a")
    server.step()
    assert world.answer(stop) == ""


def test_last_word_about_a_pin_counts(world: World) -> None:
    server = server_with_one(world)
    wishes = [world.wish("a", kind) for kind in ("pin", "unpin", "pin")]
    server.step()
    assert [world.answer(wish) for wish in wishes] == ["", "", ""]
    assert world.row("a").pinned is True


def test_model_that_is_configured_as_pinned_may_be_unpinned(world: World) -> None:
    server = server_with_one(world, Deployment(model={"pinned": True}))
    world.wish("a", "unpin")
    assert server.step(3600) == {"a": 0}


def test_pin_is_the_next_policys_too(world: World) -> None:
    server = server_with_one(world)
    world.wish("a", "pin")
    server.step()
    world.restored = world.told.table
    server.policy = ResidencyPolicy()
    server.step(RESTART_S)
    assert server.step(3600) == {}
    assert world.row("a").pinned is True
