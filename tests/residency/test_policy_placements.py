"""A model at several placements, its replicas, and pools, as the policy sees and says them."""

from __future__ import annotations

import pytest

from deployments.residency import ResidencyPolicy
from deployments.residency.board import Report
from deployments.residency.decision import BACK_OFF_S, SETTLE_S
from deployments.residency.policy import MEMORY, RESTART_S
from deployments.residency.variants import BETTER, NEXT_START
from tests.residency.world import HERE, STEP_S, Deployment, Server, World, placed, server_of

GPU = {"CPU": 0.01, "GPU": 1.0}
CPU = {"CPU": 0.01}
GPU_NODE = {"CPU": 8.0, "GPU": 1.0}
CPU_NODE = {"CPU": 8.0}


def server_of_variants(world: World, cap: int = 3, **b: float) -> Server:
    """Model a, which prefers a GPU; there is none. b: sizes of its second placement."""
    world.resources = {HERE: CPU_NODE}
    first = Deployment(placement=placed("a", 0, GPU))
    second = Deployment(placement=placed("a", 1, CPU), sizes={"kind": "cpu", **b})
    return server_of(world, ResidencyPolicy(cap), **{"a": first, "a~1": second})


def server_on_a_gpu(world: World, cap: int = 3, **b: float) -> Server:
    """The same model, up on a GPU and asked about long enough for its reports to have settled."""
    server = server_of_variants(world, cap, **b)
    world.resources = {HERE: CPU_NODE, "gpu": GPU_NODE}
    server.models["a"].queued = 1
    assert server.step() == {"a": 1}
    server.up("a")
    server.step(2 * SETTLE_S)
    return server


def lose_the_gpu(world: World, server: Server) -> None:
    """Its node dies, and Serve is about to replace the replica."""
    server.die("a")
    world.resources = {HERE: CPU_NODE}


# Which placement -----------------------------------------------------------------------------------------------------


def test_request_for_any_variant_starts_the_one_that_is_possible(world: World) -> None:
    server = server_of_variants(world)
    server.models["a"].queued = 1
    assert server.step() == {"a~1": 1}
    row = world.row("a")
    assert (row.deployment, row.placements) == ("a~1", {"a": "no node has GPU: 1"})
    assert set(world.told.table.rows) == {"a"}


def test_demand_of_all_variants_is_the_models(world: World) -> None:
    server = server_of_variants(world)
    server.models["a"].queued, server.models["a~1"].queued = 1, 1
    server.step()
    assert world.row("a").queued == 2
    server.up("a~1")
    server.models["a"].queued = 0
    server.models["a~1"].unfinished = 3
    server.step()
    assert (world.row("a").queued, world.row("a").unfinished) == (0, 3)


def test_better_placement_that_comes_later_is_taken_at_the_next_start(world: World) -> None:
    server = server_of_variants(world)
    server.models["a"].queued = 1
    server.step()
    server.models["a"].queued = 0
    server.up("a~1")
    world.resources["gpu"] = GPU_NODE
    assert server.step() == {}
    assert (world.row("a").deployment, world.row("a").placements) == ("a~1", {"a": NEXT_START})
    assert server.step(60) == {"a~1": 0}
    server.down("a~1")
    assert (world.row("a").deployment, world.row("a").placements) == ("a", {"a~1": BETTER})
    server.models["a~1"].queued = 1
    assert server.step() == {"a": 1}


def test_model_is_not_started_beside_a_process_of_another_variant(world: World) -> None:
    server = server_on_a_gpu(world)
    assert server.step(60) == {"a": 0}
    del world.resources["gpu"]
    world.resources["other"] = GPU_NODE
    server.models["a~1"].queued = 1
    assert server.step() == {}
    server.down("a")
    assert server.models["a"].target == 1


def test_model_that_nothing_can_hold_is_asked_for_at_its_first_placement(world: World) -> None:
    server = server_of_variants(world)
    world.resources = {HERE: {}}
    server.models["a"].queued = 1
    assert server.step() == {"a": 1}, "an autoscaler may bring such a node"
    assert world.row("a").placements == {"a": "no node has CPU: 0.01, GPU: 1", "a~1": "no node has CPU: 0.01"}
    world.resources = {HERE: CPU_NODE}
    assert server.step() == {"a": 0, "a~1": 1}, "another node came"


def test_model_with_one_placement_is_its_own_deployment(world: World) -> None:
    server = server_of(world, a=Deployment())
    server.step()
    assert (world.row("a").deployment, world.row("a").placements) == ("a", {})


def test_variant_that_does_not_start_is_tried_again_and_no_other_one(world: World) -> None:
    server = server_of_variants(world)
    world.resources["gpu"] = GPU_NODE
    server.models["a"].queued = 1
    server.step()
    server.start("a")
    server.step()
    words = Report("a", "r0", "gpu", failure="OSError: no weights", deployment="a")
    world.reports = [words]
    server.die("a")
    server.models["a"].queued = 0
    server.step()
    assert world.row("a").failure == "OSError: no weights"
    assert server.step(BACK_OFF_S) == {"a": 0}
    server.models["a"].queued = 1
    assert server.step() == {"a": 1}
    assert server.models["a~1"].target == 0


# A node goes ---------------------------------------------------------------------------------------------------------


def test_model_whose_node_is_gone_starts_at_the_next_placement_at_once(world: World) -> None:
    server = server_on_a_gpu(world, cap=1)
    server.models["b"] = Deployment(queued=1)
    server.models["a"].unfinished = 1
    server.step()
    lose_the_gpu(world, server)
    server.models["a"].unfinished, server.models["a~1"].queued = 0, 1
    assert server.step() == {"a": 0, "a~1": 1}
    row = world.row("a")
    assert (row.deployment, row.waiting, row.failure) == ("a~1", True, None)
    assert server.models["b"].target == 0, "it has kept its place"
    server.up("a~1")
    assert world.row("a").up_since == world.now


def test_lost_variant_that_serve_keeps_for_those_who_wait_is_ended_once_they_have_moved(world: World) -> None:
    server = server_on_a_gpu(world)
    lose_the_gpu(world, server)
    server.models["a"].queued = 1
    assert server.step() == {"a": 0, "a~1": 1}
    assert server.models["a"].target == 1, "Serve's own will"
    world.alive["a"] = 1  # its actor waits for a node
    assert server.step() == {"a": 0}
    server.models["a"].queued = 0
    assert server.step() == {"a": 0}
    assert server.step() == {}
    assert world.row("a").deployment == "a~1"


def test_model_whose_node_is_gone_and_that_nobody_waits_for_is_down(world: World) -> None:
    server = server_on_a_gpu(world)
    lose_the_gpu(world, server)
    assert server.step() == {}, "requests that it cut off may come back"
    assert server.step(SETTLE_S + STEP_S) == {"a": 0}
    assert world.row("a").reason == "no node can hold it any more"
    assert server.step(60) == {}
    server.models["a~1"].queued = 1
    assert server.step() == {"a~1": 1}


def test_model_stays_where_one_of_several_nodes_goes(world: World) -> None:
    server = server_on_a_gpu(world)
    world.resources["other"] = GPU_NODE
    server.models["a"].unfinished = 1
    server.step()
    server.die("a")
    del world.resources["gpu"]
    assert server.step() == {}
    assert world.row("a").deployment == "a", "Serve starts it on the other one"


def test_next_placement_waits_for_its_memory_and_others_for_the_place(world: World) -> None:
    world.nodes, world.free = {HERE: 1000.0}, 1000.0
    server = server_on_a_gpu(world, cap=2, memory_mb=600)
    server.models["b"] = Deployment(queued=1, sizes={"memory_mb": 500}, metrics={MEMORY: {"r0": 500}})
    server.step()
    world.reports = [Report("b", "r0", HERE)]
    server.models["b"].unfinished = 1
    server.up("b")
    lose_the_gpu(world, server)
    server.models["a~1"].queued, server.models["c"] = 1, Deployment(queued=1)
    assert server.step() == {}
    assert world.row("a").reason == "waits: it needs 600 MB of memory, and 400 MB are free"
    assert (world.row("a").deployment, world.row("a").waiting) == ("a~1", True)
    server.models["b"].unfinished = 0
    server.step()
    assert server.step(2 * SETTLE_S) == {"b": 0}
    server.down("b")
    assert (server.models["a"].target, server.models["a~1"].target) == (0, 1)


def test_measured_memory_of_one_variant_is_not_the_others(world: World) -> None:
    server = server_of_variants(world, estimate_mb=300)
    world.resources["gpu"] = GPU_NODE
    server.models["a"].sizes = {"kind": "gpu", "estimate_mb": 100}
    server.models["a"].queued, server.models["a"].metrics = 1, {MEMORY: {"r0": 170}}
    server.step()
    server.up("a")
    assert world.row("a").reserved_mb == 170
    lose_the_gpu(world, server)
    server.models["a~1"].queued = 1
    server.step()
    assert world.row("a").reserved_mb == 300


def test_memory_is_taken_where_the_placement_can_be(world: World) -> None:
    world.nodes, world.free = {HERE: 1000.0, "gpu": 500.0}, 1000.0
    server = server_of_variants(world)
    world.resources["gpu"] = GPU_NODE
    server.models["a"].sizes = {"memory_mb": 600}
    server.models["a"].queued = 1
    assert server.step() == {}
    assert world.row("a").reason == "it needs 600 MB of memory, and the limit is 450 MB"


# Wishes and taking over ----------------------------------------------------------------------------------------------


def test_wishes_are_for_the_model_wherever_it_is(world: World) -> None:
    server = server_of_variants(world)
    start = world.wish("a", "start")
    assert server.step() == {"a~1": 1}
    server.up("a~1")
    assert world.answer(start) == ""
    stop = world.wish("a", "stop")
    assert server.step() == {"a~1": 0}
    assert world.answer(stop) is None
    server.down("a~1")
    assert world.answer(stop) == ""


def test_restart_moves_the_model_to_a_better_placement(world: World) -> None:
    server = server_of_variants(world)
    world.wish("a", "start")
    server.step()
    server.up("a~1")
    world.resources["gpu"] = GPU_NODE
    restart = world.wish("a", "restart")
    assert server.step() == {"a~1": 0}
    server.down("a~1")
    assert server.models["a"].target == 1
    server.up("a")
    assert world.answer(restart) == ""


@pytest.mark.parametrize("known", [True, False])
def test_policy_that_takes_over_goes_on_with_the_variant_that_is_up(world: World, known: bool) -> None:
    server = server_of_variants(world)
    server.models["a"].queued = 1
    server.step()
    server.models["a"].queued = 0
    server.up("a~1")
    if known:
        world.restored = world.told.table
    world.resources["gpu"] = GPU_NODE
    server.policy = ResidencyPolicy()
    assert server.step() == {}
    assert server.step(RESTART_S) == {}
    row = world.row("a")
    assert (row.deployment, row.replicas, row.running) == ("a~1", 1, 1)
    assert server.step(60) == {"a~1": 0}


# Replicas ------------------------------------------------------------------------------------------------------------

SCALED = {"max_replicas": 4, "target_ongoing_requests": 10, "downscale_delay_s": 30}


def server_under_load(world: World) -> tuple[Server, Deployment]:
    """Model a, up with four replicas for 40 requests."""
    a = Deployment(model=SCALED, queued=1)
    server = server_of(world, a=a)
    server.step()
    server.up("a")
    a.unfinished = 40
    assert server.step() == {"a": 4}, "in one step"
    server.up("a")
    return server, a


def test_replicas_follow_the_load_down_to_what_was_needed_at_most_meanwhile(world: World) -> None:
    server, a = server_under_load(world)
    a.unfinished = 5
    assert server.step() == {}
    a.unfinished = 25
    assert server.step(20) == {}
    a.unfinished = 5
    assert server.step(10 - STEP_S) == {}
    assert server.step() == {"a": 3}
    assert server.step(STEP_S) == {}
    assert server.step(30) == {"a": 1}


def test_load_that_comes_back_has_all_replicas_for_another_delay(world: World) -> None:
    server, a = server_under_load(world)
    a.unfinished = 5
    server.step()
    a.unfinished = 31
    server.step(29)
    a.unfinished = 5
    assert server.step(29) == {}
    assert server.step(29) == {}
    assert server.step(1) == {"a": 1}


def test_idle_model_is_reduced_to_one_and_goes_after_its_own_time(world: World) -> None:
    server, a = server_under_load(world)
    a.unfinished = 0
    server.step()
    assert server.step(30) == {"a": 1}
    assert server.step(29.8) == {}
    assert server.step() == {"a": 0}


def test_model_with_several_replicas_is_unloaded_as_serve_lets_it(world: World) -> None:
    """Serve takes two steps."""
    server, a = server_under_load(world)
    a.unfinished = 0
    world.wish("a", "stop")
    assert server.step() == {"a": 0}
    assert a.target == 1
    assert server.step() == {"a": 0}
    assert a.target == 0
    assert server.step() == {}


def test_load_time_does_not_count_as_quiet(world: World) -> None:
    """While it loads, everybody who waits may have joined one call."""
    a = Deployment(model=SCALED, target=4, running=0, queued=1)
    server = server_of(world, a=a)
    world.alive["a"] = 4
    server.step()
    assert server.step(60) == {}
    server.up("a")
    assert server.step(29) == {}
    assert server.step(2) == {"a": 1}


def test_next_policy_knows_how_long_fewer_replicas_were_enough(world: World) -> None:
    server, a = server_under_load(world)
    a.unfinished = 5
    server.step()
    server.step(20)
    world.restored = world.told.table
    server.policy = ResidencyPolicy()
    server.step()
    server.step(RESTART_S)
    assert server.step(9) == {"a": 1}


# Pools ---------------------------------------------------------------------------------------------------------------


def test_pools_places_are_taken_until_its_last_process_is_gone(world: World) -> None:
    pool = Deployment(model={"places": 2, "max_replicas": 2, "target_ongoing_requests": 1}, queued=1)
    server = server_of(world, ResidencyPolicy(4), p=pool, a=Deployment(), b=Deployment())
    server.step()
    server.up("p")
    pool.unfinished = 2
    assert server.step() == {"p": 2}
    server.up("p")
    pool.unfinished = 0
    server.step()
    assert server.step(30) == {"p": 1}
    server.models["a"].queued = 1
    assert server.step() == {}, "one of its processes is still ending"
    assert world.row("a").reason == "waits for room that is being freed"
    world.alive["p"] = 1
    assert server.step() == {"a": 1}


def test_pool_that_the_cap_cannot_hold_is_refused(world: World) -> None:
    server = server_of(world, ResidencyPolicy(2), p=Deployment(model={"places": 3}))
    wish = world.wish("p", "start")
    assert server.step() == {}
    server.step()
    assert world.answer(wish) == "it takes 3 places, and there are 2"
