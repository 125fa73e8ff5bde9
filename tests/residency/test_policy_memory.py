"""What models take of memory, what is free, and how long a model stays by its requests' own word."""

from __future__ import annotations

from collections import Counter

import pytest

from deployments.residency import ResidencyPolicy
from deployments.residency.board import Report
from deployments.residency.decision import SETTLE_S
from deployments.residency.policy import (
    KEEP_ALIVE,
    KEEP_ALIVE_AT,
    MEMORY,
    NODE_FREE,
    NODE_TOTAL,
)
from tests.residency.world import HERE, Deployment, Server, World, context, reserves, server_of, server_with_one

# keep_alive ----------------------------------------------------------------------------------------------------------


def keeps(*said: tuple[float, float]) -> dict[str, dict[str, float]]:
    """Metrics of replicas, each with what its last request said, and when."""
    return {
        KEEP_ALIVE: {f"r{i}": seconds for i, (seconds, _) in enumerate(said)},
        KEEP_ALIVE_AT: {f"r{i}": at for i, (_, at) in enumerate(said)},
    }


def test_newest_keep_alive_wins(world: World) -> None:
    server = server_with_one(world)
    server.models["a"].metrics = keeps((5, 100), (7, 200), (0, 0))
    server.step()
    assert (world.row("a").keep_alive_s, world.row("a").idle_limit_s) == (7, 7)
    server.models["a"].metrics = keeps((9, 300), (7, 200))
    server.step()
    assert world.row("a").keep_alive_s == 9


def test_keep_alive_of_nought_unloads_as_soon_as_reports_have_settled(world: World) -> None:
    server = server_with_one(world)
    server.models["a"].metrics = keeps((0, 100))
    server.models["a"].unfinished = 1
    assert server.step() == {}
    server.models["a"].unfinished = 0
    assert server.step() == {}
    assert server.step(SETTLE_S) == {"a": 0}


def test_negative_keep_alive_is_for_ever(world: World) -> None:
    server = server_with_one(world)
    server.models["a"].metrics = keeps((-1, 100))
    assert server.step(99_999) == {}
    assert world.row("a").idle_limit_s is None


def test_replica_that_nobody_told_anything_keeps_the_models_own_time(world: World) -> None:
    server = server_with_one(world)
    server.models["a"].metrics = keeps((0, 0))
    server.step(10)
    assert (world.row("a").keep_alive_s, world.row("a").idle_limit_s) == (None, 60)


def test_keep_alive_is_forgotten_once_the_model_is_unloaded(world: World) -> None:
    server = server_with_one(world)
    server.models["a"].metrics = keeps((-1, 100))
    server.step()
    world.wish("a", "stop")
    server.step()
    server.models["a"].metrics = keeps((0, 0))
    server.models["a"].queued = 1
    server.down("a")
    server.up("a")
    assert world.row("a").keep_alive_s is None
    assert server.step(60) == {"a": 0}


# Memory: what a model takes ------------------------------------------------------------------------------------------


def test_size_is_what_is_configured_else_measured_else_said_else_estimated(world: World) -> None:
    said = [Report("a", "r0", HERE, need_mb=30)]
    for sizes, metrics, reports, size in (
        ({"memory_mb": 10, "estimate_mb": 40}, reserves(20), said, 10),
        ({"memory_mb": 0, "estimate_mb": 40}, reserves(20), said, 0),
        ({"estimate_mb": 40}, reserves(20), said, 20),
        ({"estimate_mb": 40}, {}, said, 30),
        ({"estimate_mb": 40}, {}, [], 40),
        ({}, {}, [], 0),
    ):
        world.reports = [*reports]
        world.alive = Counter("a")
        world.ask(ResidencyPolicy(), context("a", replicas=1, sizes=sizes, metrics=metrics))
        assert world.row("a").reserved_mb == size


def test_measured_peak_is_kept_also_while_the_model_is_down(world: World) -> None:
    server = server_with_one(world, Deployment(sizes={"estimate_mb": 50}, metrics=reserves(70)))
    server.models["a"].metrics = reserves(60)
    server.step()
    row = world.row("a")
    assert (row.measured_mb, row.peak_mb, row.reserved_mb) == (60, 70, 70)
    server.step(60)
    server.down("a")
    row = world.row("a")
    assert (row.measured_mb, row.peak_mb, row.reserved_mb) == (0, 70, 70)


def test_replica_that_takes_most_counts(world: World) -> None:
    two = {"max_replicas": 2}
    world.ask(ResidencyPolicy(), context("a", replicas=2, metrics={MEMORY: {"r0": 5, "r1": 9}}, model=two))
    assert world.row("a").reserved_mb == 9


def test_models_share_a_nodes_limit(world: World) -> None:
    world.nodes, world.free = {HERE: 1000.0}, 1000.0
    sizes = {"memory_mb": 500}
    server = server_of(
        world, ResidencyPolicy(3, memory_limit=900), a=Deployment(queued=1, sizes=sizes), b=Deployment(sizes=sizes)
    )
    server.step()
    server.up("a")
    server.models["b"].queued = 1
    server.step()
    assert world.row("b").reason == "waits: it needs 500 MB of memory, and 400 MB are free"
    assert server.step(SETTLE_S) == {"a": 0}


def test_node_that_only_ray_knows_has_its_share_of_rays_figure(world: World) -> None:
    world.nodes = {HERE: 1000.0}
    server = server_of(world, a=Deployment(queued=1, sizes={"memory_mb": 901}))
    assert server.step() == {}
    assert world.row("a").refused


# Memory: what is free ------------------------------------------------------------------------------------------------


def with_b(world: World, free: float, **report: float) -> tuple[Server, Deployment]:
    """Model a is up and has work on a node of 1,000 MB with 100 MB low water; b, of 300 MB, is asked for."""
    world.nodes, world.free = {HERE: 1000.0}, free
    a = Deployment(queued=1, sizes={"memory_mb": 400})
    b = Deployment(sizes={"memory_mb": 300})
    policy = ResidencyPolicy(3, memory_limit=1.0, memory_low_water=0.1, memory_high_water=0.1)
    server = Server(world, policy, a=a, b=b)
    server.step()
    world.reports = [Report("a", "r0", HERE)]
    a.metrics, a.unfinished = reserves(report.get("measured", 400)), 1
    server.up("a")
    b.queued = 1
    return server, b


@pytest.mark.parametrize(("free", "starts"), [(400, 1), (399, 0)])
def test_beside_other_models_measured_memory_counts_above_the_low_water_mark(
    world: World, free: float, starts: int
) -> None:
    server, b = with_b(world, free)
    server.step()
    assert b.target == starts


@pytest.mark.parametrize(("free", "starts"), [(550, 1), (549, 0)])
def test_what_was_promised_to_a_replica_and_is_not_taken_yet_is_not_free(
    world: World, free: float, starts: int
) -> None:
    server, b = with_b(world, free, measured=250)
    server.step()
    assert b.target == starts


@pytest.mark.parametrize(("free", "starts"), [(800, 1), (799, 0)])
def test_replica_that_has_not_said_where_it_is_has_its_memory_promised_too(
    world: World, free: float, starts: int
) -> None:
    server, b = with_b(world, free)
    server.die("a")  # Serve is about to replace it
    server.step()
    assert b.target == starts


def test_replica_that_is_ending_is_promised_nothing(world: World) -> None:
    """Its report is still there, and Serve does not tell any more what it takes."""
    server, b = with_b(world, 400)
    world.wish("a", "stop")
    b.queued = 0
    assert server.step() == {"a": 0}
    b.queued = 1
    assert server.step() == {"b": 1}


def test_other_nodes_memory_is_what_their_replicas_report(world: World) -> None:
    world.nodes, world.free = {HERE: 10.0, "far": 500.0}, 10.0
    policy = ResidencyPolicy(memory_limit=1.0, memory_low_water=0, memory_high_water=0)
    far = {MEMORY: {"r0": 100.0}, NODE_TOTAL: {"r0": 1000.0}, NODE_FREE: {"r0": 300.0}}
    a = Deployment(queued=1, sizes={"memory_mb": 100}, metrics=far)
    b = Deployment(sizes={"memory_mb": 301})
    server = Server(world, policy, a=a, b=b)
    server.step()
    world.reports = [Report("a", "r0", "far")]
    a.unfinished = 1
    server.up("a")
    b.queued = 1
    server.step()
    assert world.row("b").reason == "waits: it needs 301 MB of memory, and 300 MB are free"
    far[NODE_FREE]["r0"] = 301.0
    assert server.step() == {"b": 1}


def test_idle_models_go_from_the_low_water_mark_until_the_high_water_mark(world: World) -> None:
    world.nodes, world.free = {HERE: 1000.0}, 500.0
    policy = ResidencyPolicy(memory_limit=1.0, memory_low_water=0.1, memory_high_water=0.3)
    sizes = {"memory_mb": 100}
    server = Server(world, policy, **{n: Deployment(queued=1, sizes=sizes) for n in "abc"})
    for name in "abc":
        server.step()
        server.up(name)
    world.free = 100
    assert server.step(SETTLE_S) == {}, "not under the low-water mark"
    world.free = 99
    assert len(server.step()) == 3, "300 - 99 MB are more than two give"
    world.free = 299
    server.step()
    for name in "abc":
        server.down(name)
    server.models["a"].queued = 1
    assert server.step() == {"a": 1}
    server.up("a")
    assert server.step(2 * SETTLE_S) == {"a": 0}, "it is short until the high-water mark"
    world.free = 300
    server.models["b"].queued = 1
    server.step()
    server.up("b")
    world.free = 101
    assert server.step(2 * SETTLE_S) == {}, "it is short only under the low-water mark again"


# Memory: models of unknown size --------------------------------------------------------------------------------------


def test_model_of_unknown_size_starts_and_waits_for_its_memory_once_it_knows(world: World) -> None:
    world.nodes, world.free = {HERE: 1000.0}, 1000.0
    server = server_of(world, a=Deployment(queued=1))
    assert server.step() == {"a": 1}
    assert not world.row("a").granted, "nothing is reserved yet"
    server.start("a")
    world.reports = [Report("a", "r0", HERE, need_mb=800)]
    server.step()
    assert (world.row("a").granted, world.row("a").reserved_mb) == (True, 800)


def test_paused_load_is_granted_when_there_is_memory(world: World) -> None:
    world.nodes, world.free = {HERE: 1000.0}, 600.0
    policy = ResidencyPolicy(3, memory_limit=1.0, memory_low_water=0, memory_high_water=0)
    a, b = Deployment(queued=1, sizes={"memory_mb": 400}), Deployment()
    server = Server(world, policy, a=a, b=b)
    server.step()
    world.reports = [Report("a", "r0", HERE)]
    a.metrics, a.unfinished = reserves(400), 1
    server.up("a")
    b.queued = 1
    assert server.step() == {"b": 1}
    server.start("b")
    world.reports.append(Report("b", "r0", HERE, need_mb=500))
    world.free = 499
    server.step()
    assert not world.row("b").granted
    assert world.row("b").reason == "waits: it needs 500 MB of memory, and 499 MB are free"
    world.free = 500
    server.step()
    assert world.row("b").granted, "what it waits for is not promised to it before"
    assert world.row("b").reason == "loads"


def test_paused_load_takes_the_memory_of_an_idle_model(world: World) -> None:
    world.nodes, world.free = {HERE: 1000.0}, 600.0
    policy = ResidencyPolicy(3, memory_limit=1.0, memory_low_water=0, memory_high_water=0)
    server = Server(world, policy, a=Deployment(queued=1, sizes={"memory_mb": 400}), b=Deployment())
    server.step()
    server.up("a")
    server.models["b"].queued = 1
    server.step(2 * SETTLE_S)
    server.start("b")
    world.reports = [Report("b", "r0", HERE, need_mb=700)]
    assert server.step() == {"a": 0}
    assert not world.row("b").granted
    world.free = 1000
    server.down("a")
    assert world.row("b").granted


def test_model_whose_size_is_never_known_is_up_all_the_same(world: World) -> None:
    """What it is measured to take when it is up is not waited for."""
    world.nodes, world.free = {HERE: 1000.0}, 100.0
    server = server_with_one(world, Deployment(metrics=reserves(5000)))
    assert (world.row("a").granted, world.row("a").refused) == (True, False)
    assert world.row("a").reason == "idle"
    assert server.step(60) == {"a": 0}


def test_memory_of_a_start_is_reserved_where_its_size_is_known(world: World) -> None:
    world.nodes, world.free = {HERE: 1000.0}, 1000.0
    server = server_of(world, a=Deployment(queued=1, sizes={"estimate_mb": 100}))
    server.step()
    assert world.row("a").granted


def test_paused_load_waits_for_its_turn_from_when_it_knew_its_size(world: World) -> None:
    """The request that waits for it does not put that off."""
    world.nodes, world.free = {HERE: 1000.0}, 600.0
    policy = ResidencyPolicy(3, max_swap_wait_s=30, memory_limit=1.0, memory_low_water=0, memory_high_water=0)
    a, b = Deployment(queued=1, sizes={"memory_mb": 400}, metrics=reserves(400)), Deployment()
    server = Server(world, policy, a=a, b=b)
    server.step()
    world.reports = [Report("a", "r0", HERE)]
    server.up("a")
    a.unfinished = b.queued = 1
    server.step()
    server.start("b")
    server.step(100)
    world.reports.append(Report("b", "r0", HERE, need_mb=700))
    server.step()
    assert server.step(29) == {}
    assert server.step(1) == {"a": 0}
