"""The policy: what it makes of Serve's figures, what it remembers, and what it says."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.residency import Decision, Model, ResidencyPolicy
from deployments.residency import policy as module
from deployments.residency.board import Report, Row, Table
from deployments.residency.decision import BACK_OFF_S, decide
from deployments.residency.policy import NO_PROCESS_S, RESTART_S, STARTS
from tests.residency.world import HERE, NOW, Deployment, Server, World, context, placed, server_of, server_with_one

# What Serve says, and is told ----------------------------------------------------------------------------------------


def test_only_deployments_that_change_are_mentioned(world: World) -> None:
    contexts = [context("a", replicas=1, unfinished=[[1]]), context("b"), context("c", queued=1)]
    assert world.ask(ResidencyPolicy(), *contexts) == {"c": 1}
    assert world.ask(ResidencyPolicy(), *contexts[:2]) == {}


def test_model_that_waits_for_a_place_is_not_mentioned(world: World) -> None:
    """Serve would start it for its queued request if the policy said 0."""
    policy = ResidencyPolicy(1)
    assert world.ask(policy, context("a", replicas=1, unfinished=[[1]]), context("b", queued=1)) == {}
    assert world.row("b").waiting
    assert "all 1 places" in world.row("b").reason


def test_contexts_without_metrics_are_fine(world: World, log: list[logging.LogRecord]) -> None:
    policy = ResidencyPolicy(2)
    bare = context("a", replicas=1, queued=None)
    empty = context("b", replicas=1, unfinished=[[], []])
    other = SimpleNamespace(**{**vars(context("c", queued=None)), "raw_metrics": {}})
    assert world.ask(policy, bare, empty, other) == {}
    assert not log


def test_latest_report_of_each_replica_counts(world: World) -> None:
    policy = ResidencyPolicy(1)
    two = {"max_replicas": 2}
    busy_second = context("a", replicas=2, unfinished=[[5, 0], [0, 1]], model=two)
    done = context("a", replicas=2, unfinished=[[5, 0], [7, 0]], model=two)
    world.ask(policy, busy_second)
    world.now += 20
    assert world.ask(policy, busy_second, context("b", queued=1)) == {}
    world.now += 20
    assert world.ask(policy, done, context("b", queued=1)) == {"a": 0}


def test_reports_of_all_replicas_are_added_up(world: World) -> None:
    scaled = {"max_replicas": 4, "target_ongoing_requests": 10}
    assert world.ask(ResidencyPolicy(), context("a", replicas=2, unfinished=[[15], [16]], model=scaled)) == {"a": 4}


def test_victims_place_is_lent_once_its_process_is_gone(world: World) -> None:
    policy = ResidencyPolicy(1)
    world.ask(policy, context("a", replicas=1, unfinished=[[0]]), context("b"))
    world.now += 20
    world.alive = Counter("a")
    assert world.ask(policy, context("a", replicas=1, unfinished=[[0]]), context("b", queued=1)) == {"a": 0}
    world.now += 1
    assert world.ask(policy, context("a"), context("b", queued=1)) == {}
    world.alive = Counter()
    assert world.ask(policy, context("a"), context("b", queued=1)) == {"b": 1}


def test_look_from_before_the_decision_does_not_prove_that_a_process_is_gone(world: World) -> None:
    policy = ResidencyPolicy(1)
    world.ask(policy, context("a", replicas=1), context("b"))
    world.now += 20
    assert world.ask(policy, context("a", replicas=1), context("b", queued=1)) == {"a": 0}
    world.looked = False
    world.now += 1
    assert world.ask(policy, context("a"), context("b", queued=1)) == {}
    world.looked = True
    assert world.ask(policy, context("a"), context("b", queued=1)) == {"b": 1}


def test_place_of_a_model_that_does_not_come_to_an_end_is_not_waited_for(world: World) -> None:
    server = server_of(world, ResidencyPolicy(2, max_swap_wait_s=20), a=Deployment(queued=1), b=Deployment(queued=1))
    server.models["c"] = Deployment()
    server.step()
    server.up("a")
    server.up("b")
    world.wish("a", "stop")
    assert server.step() == {"a": 0}
    server.models["c"].queued = 1
    assert server.step(19) == {}
    assert world.row("c").reason == "waits for room that is being freed"
    assert server.step(1) == {"b": 0}


def test_turn_is_counted_from_when_the_model_can_answer(world: World) -> None:
    policy = ResidencyPolicy(1, max_swap_wait_s=10)
    loading = context("a", replicas=1, up=0, queued=1)
    busy_a = context("a", replicas=1, unfinished=[[1]])
    world.ask(policy, loading, context("b", queued=1))
    world.now += 20
    assert world.ask(policy, busy_a, context("b", queued=1)) == {}
    world.now += 9
    assert world.ask(policy, busy_a, context("b", queued=1)) == {}
    world.now += 1
    assert world.ask(policy, busy_a, context("b", queued=1)) == {"a": 0}


def test_least_recently_used_is_remembered_between_calls(world: World) -> None:
    policy = ResidencyPolicy(2)
    for user in ("a", "b"):
        contexts = [context(n, replicas=1, unfinished=[[float(n == user)]]) for n in ("b", "a")]
        assert world.ask(policy, *contexts) == {}
        world.now += 5
    idle_now = [context(n, replicas=1, unfinished=[[0]]) for n in ("b", "a")]
    assert world.ask(policy, *idle_now, context("c", queued=1)) == {"a": 0}


def test_idle_time_counts_from_the_last_sign_of_use(world: World) -> None:
    policy = ResidencyPolicy()
    world.ask(policy, context("a", replicas=1, unfinished=[[1]]))
    world.now += 59
    assert world.ask(policy, context("a", replicas=1, unfinished=[[0]])) == {}
    assert world.row("a").idle_limit_s == 60
    world.now += 1
    assert world.ask(policy, context("a", replicas=1, unfinished=[[0]])) == {"a": 0}


def test_model_that_is_seen_up_for_the_first_time_is_taken_as_just_used(world: World) -> None:
    assert world.ask(ResidencyPolicy(1), context("a", replicas=1), context("b", queued=1)) == {}


def test_model_that_comes_back_starts_a_new_idle_time(world: World) -> None:
    policy = ResidencyPolicy()
    world.ask(policy, context("a", replicas=1, unfinished=[[1]]))
    world.ask(policy, context("a"))
    world.now += 500
    assert world.ask(policy, context("a", replicas=1)) == {}


def test_model_that_serve_starts_anew_is_loading_and_not_failed(world: World) -> None:
    policy = ResidencyPolicy()
    world.alive = Counter("a")
    world.ask(policy, context("a", replicas=1))
    world.alive = Counter()
    world.ask(policy, context("a"))
    world.now += 500
    world.ask(policy, context("a", replicas=1, up=0))
    assert world.row("a").started_at == world.now
    assert world.row("a").waiting


def test_time_in_the_queue_orders_the_models_that_wait(world: World) -> None:
    policy = ResidencyPolicy(1)
    full = context("a", replicas=1, unfinished=[[1]])
    world.ask(policy, full, context("b"), context("c", queued=1))
    world.now += 1
    world.ask(policy, full, context("b", queued=9), context("c", queued=1))
    world.now += 1
    assert world.ask(policy, context("b", queued=9), context("c", queued=1)) == {"c": 1}


def test_model_that_nobody_waited_for_meanwhile_goes_to_the_end(world: World) -> None:
    policy = ResidencyPolicy(1)
    full = context("a", replicas=1, unfinished=[[1]])
    for queued in ({"b": 1, "c": 0}, {"b": 0, "c": 1}, {"b": 1, "c": 1}):
        world.ask(policy, full, *(context(n, queued=q) for n, q in queued.items()))
        world.now += 1
    assert world.ask(policy, context("b", queued=1), context("c", queued=1)) == {"c": 1}


def test_model_that_was_up_meanwhile_waits_from_now(world: World) -> None:
    policy = ResidencyPolicy(1)
    full = context("a", replicas=1, unfinished=[[1]])
    up_again = context("b", replicas=1, queued=1)
    for b, c in ((context("b", queued=1), 0), (up_again, 1), (context("b", queued=1), 1)):
        world.ask(policy, full, b, context("c", queued=c))
        world.now += 1
    assert world.ask(policy, context("b", queued=1), context("c", queued=1)) == {"c": 1}


def test_min_replicas_are_the_policys_own_and_serves_are_nothing(world: World) -> None:
    assert world.ask(ResidencyPolicy(), context("a", model={"min_replicas": 2, "max_replicas": 3})) == {"a": 2}


def test_foreign_deployments_are_left_as_they_are(world: World) -> None:
    """The ingress has no policy_kwargs; it takes no place either."""
    ingress = context("Ingress", replicas=1, kwargs={})
    policy = ResidencyPolicy(1)
    assert world.ask(policy, ingress, context("a", queued=1)) == {"a": 1}
    world.now += 9999
    assert world.ask(policy, ingress, context("Other", queued=7, kwargs={})) == {}
    assert set(world.told.table.rows) == {"a"}


def test_watch_is_made_once_and_not_for_an_application_without_models(world: World) -> None:
    policy = ResidencyPolicy()
    world.ask(policy, context("Ingress", kwargs={}))
    assert not world.watches
    for _ in range(3):
        world.ask(policy, context("a"))
    assert [watch.starts for watch in world.watches] == [1]


def test_broken_context_changes_nothing_and_is_logged(world: World, log: list[logging.LogRecord]) -> None:
    policy = ResidencyPolicy()
    assert world.ask(policy, context("a", queued=1), SimpleNamespace(deployment_name="b")) == {}
    (record,) = log
    assert record.exc_info
    assert world.ask(policy, context("a", queued=1)) == {"a": 1}, "it goes on afterwards"


@pytest.mark.parametrize(
    "kwargs",
    [{"colour": "red"}, {"model": {"colour": "red"}, "sizes": {}}, {"model": {}, "sizes": {"colour": 1}}, {"model": 7}],
)
def test_unknown_policy_kwargs_do_not_raise(
    world: World, log: list[logging.LogRecord], kwargs: dict[str, object]
) -> None:
    assert world.ask(ResidencyPolicy(), context("a", queued=1, kwargs=kwargs)) == {}
    assert log


def test_model_that_is_removed_is_forgotten(world: World) -> None:
    policy = ResidencyPolicy(1)
    world.ask(policy, context("a", replicas=1, unfinished=[[1]]), context("b"))
    world.ask(policy, context("b"))
    assert set(world.told.table.rows) <= {"b"}
    assert world.ask(policy, context("b", queued=1)) == {"b": 1}


def test_models_at_rest_cost_a_decision_nothing_until_something_of_them_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def noting(models: Mapping[str, Model], *args: Any, **more: Any) -> dict[str, Decision]:
        asked.append(set(models))
        return decide(models, *args, **more)

    monkeypatch.setattr(module, "decide", noting)
    server = server_of(world, a=Deployment(), b=Deployment(), stays=Deployment({"min_replicas": 1}))
    server.step()
    server.up("stays")
    server.step()
    assert asked[0] == {"a", "b", "stays"}
    assert asked[-1] == {"stays"}

    server.models["a"].queued = 1
    server.step()
    assert asked[-1] == {"a", "stays"}
    server.up("a")
    assert asked[-1] == {"a", "stays"}

    world.wish("b", "start")
    server.step()
    assert asked[-1] == {"a", "b", "stays"}
    assert server.models["b"].target == 1


def test_model_at_rest_is_told_anew_where_it_could_run_when_nodes_change(world: World) -> None:
    gpu = Deployment(placement=placed("a", 0, {"GPU": 1.0}))
    world.resources = {"n": {"CPU": 1.0}}
    server = server_of(world, a=gpu)
    server.step()
    server.step()
    assert world.row("a").placements == {"a": "no node has GPU: 1"}
    world.resources = {"n": {"CPU": 1.0}, "m": {"GPU": 1.0}}
    server.step()
    assert world.row("a").placements == {}


def test_nothing_is_told_while_all_rest(world: World) -> None:
    server = server_of(world, a=Deployment())
    server.step()
    table = world.told.table
    server.step()
    server.step()
    assert world.told.table is table


def test_table_tells_the_life_and_the_cap(world: World) -> None:
    world.ask(ResidencyPolicy(2), context("a"))
    assert (world.told.table.life, world.told.table.cap) == ("life", 2)


# Settings


@pytest.mark.parametrize(("environment", "up"), [("1", 1), ("3", 3), ("", 2), (None, 2)])
def test_cap_of_the_environment_comes_first(
    world: World, monkeypatch: pytest.MonkeyPatch, environment: str | None, up: int
) -> None:
    if environment is not None:
        monkeypatch.setenv("MAX_CONCURRENT_MODELS", environment)
    decided = world.ask(ResidencyPolicy(max_concurrent_models=2), *(context(n, queued=1) for n in "abcd"))
    assert list(decided.values()) == [1] * up


@pytest.mark.parametrize(("environment", "configured"), [("0", 3), ("many", 3), ("", 0)])
def test_cap_below_one_or_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: str, configured: int
) -> None:
    monkeypatch.setenv("MAX_CONCURRENT_MODELS", environment)
    with pytest.raises(ValueError, match=r"."):
        ResidencyPolicy(max_concurrent_models=configured)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("memory_limit", 0), ("memory_limit", -1), ("memory_low_water", -0.1), ("memory_high_water", -0.1)],
)
def test_memory_setting_that_makes_no_sense_is_refused(world: World, setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        ResidencyPolicy(**{setting: value})  # type: ignore[arg-type]


# Taking over ---------------------------------------------------------------------------------------------------------


def test_nothing_is_decided_before_the_first_look(world: World) -> None:
    policy = ResidencyPolicy()
    world.looked = False
    assert world.ask(policy, context("a", queued=1)) == {}
    world.now += 60
    assert world.ask(policy, context("a", queued=1)) == {}
    assert world.told.table == Table(), "the board still has what the policy before it said"
    world.looked = True
    assert world.ask(policy, context("a", queued=1)) == {"a": 1}


def test_policy_that_takes_over_replicas_is_quiet_until_their_reports_are_there(world: World) -> None:
    world.restored = Table("life", 3, {"a": Row(replicas=1, started_at=NOW - 99, last_used=NOW - 99)})
    policy = ResidencyPolicy()
    nothing_yet, busy = context("a", replicas=1), context("a", replicas=1, unfinished=[[1]])
    assert world.ask(policy, nothing_yet) == {}
    world.now += RESTART_S - 0.01
    assert world.ask(policy, nothing_yet) == {}
    assert world.told.table == Table()
    world.now += 0.01
    assert world.ask(policy, busy) == {}
    assert world.row("a").last_used == world.now


def test_policy_that_takes_over_no_replicas_decides_at_once(world: World) -> None:
    world.restored = Table("life", 3, {"a": Row(peak_mb=7, auto_done=True)})
    assert world.ask(ResidencyPolicy(), context("a", queued=1)) == {"a": 1}


def test_policy_that_takes_over_knows_who_was_used_last(world: World) -> None:
    used = {"a": NOW - 10, "b": NOW - 20}
    rows = {
        n: Row(replicas=1, running=1, started_at=NOW - 50, up_since=NOW - 40, last_used=at) for n, at in used.items()
    }
    world.restored = Table("life", 2, rows)
    policy = ResidencyPolicy(2)
    contexts = [context("a", replicas=1), context("b", replicas=1), context("c", queued=1)]
    world.ask(policy, *contexts)
    world.now += RESTART_S
    assert world.ask(policy, *contexts) == {"b": 0}


def test_policy_that_takes_over_forgets_models_that_are_removed(world: World) -> None:
    world.restored = Table("life", rows={"a": Row(peak_mb=7), "removed": Row(peak_mb=8)})
    server_of(world, a=Deployment()).step()
    assert world.told.table.rows.keys() == {"a"}
    assert world.row("a").peak_mb == 7


def test_policy_that_takes_over_a_start_goes_on_with_it(world: World) -> None:
    server = server_of(world, a=Deployment())
    wish = world.wish("a", "start")
    server.step()
    server.start("a")
    server.step()
    world.restored = world.told.table
    server.policy = ResidencyPolicy()
    server.step()
    assert server.step(RESTART_S) == {}
    assert world.row("a").wish_at == NOW + 0.1
    server.up("a")
    assert world.answer(wish) == ""


def test_wish_that_was_answered_before_a_takeover_is_taken_down_after_it(world: World) -> None:
    """The policy before this one may have ended between both."""
    server = server_with_one(world)
    world.take_down = False
    wish = world.wish("a", "stop")
    server.step()
    server.down("a")
    assert world.answer(wish) == ""
    world.restored = world.told.table
    server.policy, world.take_down = ResidencyPolicy(), True
    server.models["a"].queued = 1
    assert server.step() == {"a": 1}
    assert world.told.done == [wish]
    server.up("a")
    assert server.models["a"].target == 1


# Failures ------------------------------------------------------------------------------------------------------------


def test_model_without_a_process_did_not_start(world: World) -> None:
    policy = ResidencyPolicy(1)
    world.ask(policy, context("a", replicas=1, up=0, queued=1))
    world.alive = Counter("a")
    world.now += 2 * BACK_OFF_S
    assert world.ask(policy, context("a", replicas=1, up=0)) == {}, "it is loading"
    world.alive = Counter()
    assert world.ask(policy, context("a", replicas=1)) == {}, "it is up"
    world.now += 2 * BACK_OFF_S
    assert world.ask(policy, context("a", replicas=1, up=0)) == {"a": 0}


def lose_start(server: Server) -> None:
    """Model a is started, and its process ends without a word."""
    a = server.models["a"]
    a.queued = 1
    server.step()
    assert a.target == 1
    server.start("a")
    server.step()
    server.die("a")


def test_start_that_was_lost_is_tried_again(world: World) -> None:
    server = server_of(world, a=Deployment())
    lose_start(server)
    assert server.step() == {"a": 0}
    assert world.row("a").ended_why == "its process was lost while it was starting, and it is tried again"
    assert server.models["a"].target == 1, "Serve does not end what is waited for"
    server.models["a"].queued = 0
    assert server.step() == {"a": 0}
    assert world.row("a").failure is None
    server.models["a"].queued = 1
    assert server.step() == {"a": 1}
    server.up("a")
    assert (world.row("a").lost, server.models["a"].running) == (0, 1)


def test_start_that_is_lost_again_and_again_is_a_failure(world: World) -> None:
    server = server_of(world, a=Deployment())
    for lost in range(1, STARTS):
        lose_start(server)
        server.models["a"].queued = 0
        assert server.step() == {"a": 0}
        assert (world.row("a").lost, world.row("a").failure) == (lost, None)
    lose_start(server)
    server.models["a"].queued = 0
    assert server.step() == {}
    assert world.row("a").failure == "its process ended while it was starting"
    assert server.step(BACK_OFF_S) == {"a": 0}
    assert world.row("a").lost == 0


def test_start_that_says_why_it_failed_is_not_tried_again(world: World) -> None:
    server = server_of(world, a=Deployment())
    lose_start(server)
    server.models["a"].queued = 0
    world.reports = [Report("a", "r0", HERE, failure="OSError: no weights")]
    assert server.step() == {}
    assert (world.row("a").lost, world.row("a").failure) == (0, "OSError: no weights")


def test_start_that_nobody_asked_for_is_tried_again(world: World) -> None:
    server = server_of(world, a=Deployment(model={"auto_start": True}))
    server.step()
    server.start("a")
    server.step()
    server.die("a")
    assert [server.step(), server.step()] == [{"a": 0}, {"a": 1}]


def test_model_may_take_a_while_until_it_has_a_process(world: World) -> None:
    server = server_of(world, a=Deployment(queued=1))
    server.step()
    server.step(NO_PROCESS_S)
    assert world.row("a").waiting
    server.step()
    assert not world.row("a").waiting


def test_last_words_are_the_failure_and_are_heard_once(world: World) -> None:
    server = server_of(world, a=Deployment(queued=1))
    server.step()
    server.start("a")
    words = Report("a", "r0", HERE, failure="OSError: no weights")
    world.reports = [words]
    server.die("a")
    server.models["a"].queued = 0
    server.step()
    assert world.row("a").failure == "OSError: no weights"
    assert world.told.heard == [words]
    server.step(BACK_OFF_S)
    assert world.row("a").failure == "OSError: no weights"


def test_failure_is_forgotten_once_the_model_is_tried_again(world: World) -> None:
    world.take_down = False
    server = server_of(world, a=Deployment(queued=1))
    server.step()
    world.reports = [Report("a", "r0", HERE, failure="OSError: no weights")]
    server.models["a"].queued = 0
    server.step(NO_PROCESS_S)
    assert server.step(BACK_OFF_S) == {"a": 0}
    server.models["a"].queued = 1
    assert server.step() == {"a": 1}
    server.step()
    assert world.row("a").failure is None, "its last words are still on the board"


def test_failure_is_forgotten_when_a_second_attempt_of_serve_succeeds(world: World) -> None:
    server = server_of(world, a=Deployment(queued=1))
    server.step()
    world.reports = [Report("a", "r0", HERE, failure="OSError: no weights")]
    server.step()
    server.up("a")
    assert world.row("a").failure is None


def test_load_time_is_measured_and_an_earlier_servers_is_shown_before(world: World) -> None:
    server = server_of(world, a=Deployment(queued=1, sizes={"load_s": 30}))
    server.step()
    assert world.row("a").load_s == 30
    server.step(4)
    server.up("a")
    assert world.row("a").load_s == pytest.approx(4.1)
