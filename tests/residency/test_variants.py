"""Which deployments are one model, and which of them is it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest

from deployments.residency import Decision
from deployments.residency.variants import BETTER, NEXT_START, Choice, Group, Placer
from tests.residency.groups import grouped
from tests.residency.world import context, placed

GPU = {"GPU": 1.0}
MAC = {"metal": 1.0}
CPU = {"CPU": 0.01}
GPU_NODE = {"gpu": {"CPU": 8.0, "GPU": 1.0}}
MAC_NODE = {"mac": {"CPU": 4.0, "metal": 1.0}}
CPU_NODE = {"cpu": {"CPU": 4.0}}
NO_GPU, NO_MAC, NO_CPU = "no node has GPU: 1", "no node has metal: 1", "no node has CPU: 0.01"


def group(**replicas: int) -> Group:
    """A model that prefers a GPU to a Mac to a CPU, with its replicas by the kind of placement."""
    names = {"gpu": "a", "mac": "a~1", "cpu": "a~2"}
    contexts: dict[Hashable, Any] = {
        rank: context(names[kind], replicas=replicas.get(kind, 0), placement=placed("a", rank, needs))
        for rank, (kind, needs) in enumerate({"gpu": GPU, "mac": MAC, "cpu": CPU}.items())
    }
    (found,) = grouped(contexts).values()
    return found


def test_deployments_of_one_model_are_grouped_in_order_of_preference() -> None:
    contexts: dict[Hashable, Any] = {
        0: context("a~1", placement=placed("a", 1), model={"priority": 1}, queued=2, metrics={"m": {"r1": 1}}),
        1: context("a", placement=placed("a", 0), model={"priority": 7}, queued=3, metrics={"m": {"r2": 2}}),
        2: context("b"),
        3: context("Ingress", kwargs={}),
    }
    groups = grouped(contexts)
    assert {name: [v.name for v in found.variants] for name, found in groups.items()} == {"a": ["a", "a~1"], "b": ["b"]}
    a = groups["a"]
    assert (a.model.priority, a.queued, a.latest("m")) == (7, 5, {"r1": 1, "r2": 2})
    assert [v.key for v in a.variants] == [1, 0]


@pytest.mark.parametrize(
    ("up", "nodes", "chosen", "why_not"),
    [
        pytest.param({}, GPU_NODE | CPU_NODE, "a", {"a~1": NO_MAC, "a~2": BETTER}, id="the first that there is"),
        pytest.param({}, MAC_NODE, "a~1", {"a": NO_GPU, "a~2": BETTER}, id="the next where the first is not"),
        pytest.param(
            {},
            {"n": {}},
            "a",
            {"a": NO_GPU, "a~1": NO_MAC, "a~2": NO_CPU},
            id="the first where none is: a node may come",
        ),
        pytest.param({}, {}, "a", {"a~1": BETTER, "a~2": BETTER}, id="the first where nothing is known"),
        pytest.param(
            {"mac": 1}, MAC_NODE | GPU_NODE, "a~1", {"a": NEXT_START, "a~2": BETTER}, id="one that is up stays"
        ),
        pytest.param(
            {"mac": 1},
            CPU_NODE,
            "a~2",
            {"a": NO_GPU, "a~1": NO_MAC},
            id="one whose node is gone makes way for the next",
        ),
        pytest.param(
            {"cpu": 1}, {"n": {}}, "a~2", {"a": NO_GPU, "a~1": NO_MAC, "a~2": NO_CPU}, id="but not for one that is not"
        ),
        pytest.param(
            {"mac": 1}, {}, "a~1", {"a": NEXT_START, "a~2": BETTER}, id="one that is up where nothing is known"
        ),
    ],
)
def test_model_is(up: dict[str, int], nodes: dict[str, Any], chosen: str, why_not: dict[str, str]) -> None:
    choice = Placer(nodes).choose(group(**up), "")
    assert (choice.chosen.name, choice.why_not) == (chosen, why_not)


def changes(choice: Choice, decision: Decision) -> dict[str, int]:
    return {variant.name: replicas for variant, replicas in choice.changes(decision).items()}


def test_of_two_that_are_up_the_last_choice_stays_and_the_other_one_goes() -> None:
    nodes = GPU_NODE | MAC_NODE
    for before, other in (("a", "a~1"), ("a~1", "a")):
        choice = Placer(nodes).choose(group(gpu=1, mac=1), before)
        assert (choice.chosen.name, choice.moving) == (before, False)
        assert changes(choice, Decision(1, "idle")) == {other: 0}
    assert Placer(MAC_NODE).choose(group(gpu=1, mac=1), "a").chosen.name == "a~1", "it must be possible"


def test_only_what_is_to_change_is_changed() -> None:
    choice = Placer(GPU_NODE).choose(group(gpu=1), "a")
    assert changes(choice, Decision(1, "idle")) == {}
    assert changes(choice, Decision(3, "in use")) == {"a": 3}
    assert changes(choice, Decision(0, "no demand")) == {"a": 0}


def test_lost_variant_stays_until_the_next_one_may_start() -> None:
    choice = Placer(MAC_NODE).choose(group(gpu=2), "a")
    assert (choice.moving, choice.replicas) == (True, 2)
    assert changes(choice, Decision(2, "waits")) == {}
    assert changes(choice, Decision(1, "moves", granted=True)) == {"a": 0, "a~1": 1}
    assert changes(choice, Decision(0, "nobody waits")) == {"a": 0}


def test_processes_where_no_node_can_be_do_not_count() -> None:
    living = {"a": 1, "a~1": 2, "b": 7}
    assert Placer(MAC_NODE).choose(group(gpu=1), "a").processes(living) == 2
    assert Placer(MAC_NODE | GPU_NODE).choose(group(gpu=1), "a").processes(living) == 3
    assert Placer({"n": {}}).choose(group(gpu=1), "a").processes(living) == 1, "but those of the chosen one"
