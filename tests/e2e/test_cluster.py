"""A cluster of several nodes: where models and the ingress run, and what a change of one model leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.nodes import Nodes, nodes
from tests.e2e.serving import Serving, application, free_port, wait_for

CHAT = "/v1/chat/completions"
SLOW: dict[str, Any] = {"engine": "echo", "engine_args": {"interval_ms": 50}}
STEADY = {"name": "steady", **SLOW}
OTHER = {"name": "other", "engine": "echo", "engine_args": {"interval_ms": 50, "tokens": 3}}
CHANGED = {"name": "other", "engine": "echo", "engine_args": {"interval_ms": 40, "tokens": 5}}
ADDED = {"name": "added", "engine": "echo", "engine_args": {"tokens": 4}}
PLACED: list[dict[str, Any]] = [
    {"name": "left", **SLOW, "placements": [{"resources": {"left": 0.1}}]},
    {
        "name": "right",
        **SLOW,
        "placements": [{"num_gpus": 1, "accelerator_type": "H100"}, {"resources": {"left": 0.1}}],
    },
    {
        "name": "spanning",
        **SLOW,
        "placements": [
            {
                "placement_group_bundles": [{"GPU": 1, "CPU": 0.25}, {"GPU": 1, "CPU": 0.25}],
                "placement_group_strategy": "STRICT_SPREAD",
            }
        ],
    },
]
Processes = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes() as made:
        made.add("left", gpus=1, resources={"left": 1})
        made.add("right", gpus=2, resources={"accelerator_type:H100": 1})
        yield made


@pytest.fixture(scope="module")
def spread(cluster: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Our application on the cluster, with an ingress replica on each node that lends CPUs."""
    one = application(
        "app", "/", [*PLACED, STEADY, OTHER], cap=6, ingress_replicas=2, ingress_replicas_per_node=1, warm_start=False
    )
    with served(
        Serving(tmp_path_factory.mktemp("cluster"), [one], {"RAY_ADDRESS": cluster.address}, proxies="HeadOnly")
    ) as it:
        yield it


@pytest.fixture(scope="module", params=["proxy", "haproxy"])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Our application on one node, behind Serve's own proxy and behind HAProxy."""
    haproxy = request.param == "haproxy"
    if haproxy and sys.platform != "linux":
        pytest.skip("Ray brings HAProxy on Linux only")
    one = application("app", "/", [STEADY, OTHER], cap=4, allow_without_keys=haproxy)
    with served(Serving(tmp_path_factory.mktemp("alone"), [one], behind_haproxy() if haproxy else None)) as it:
        yield it


def behind_haproxy() -> dict[str, str]:
    ports = {name: str(free_port()) for name in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")}
    # Serve keeps an ingress reachable for this long while load balancers learn that it goes.
    return {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1", **ports}


@contextlib.contextmanager
def served(serving: Serving) -> Iterator[Serving]:
    serving.start()
    try:
        serving.wait_ready()
        yield serving
    finally:
        serving.stop()


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}


def ask(serving: Serving, model: str) -> str:
    answer = httpx.post(serving.url + CHAT, json=body(model, max_tokens=1), timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["system_fingerprint"])


def placement(serving: Serving, model: str) -> str:
    return str(httpx.get(f"{serving.url}/api/models/{model}", timeout=30).json()["model"]["placement"])


async def whole_stream(serving: Serving, model: str, tokens: int) -> int:
    """Words of a stream that must be whole."""
    async with (
        httpx.AsyncClient(timeout=120) as client,
        client.stream("POST", serving.url + CHAT, json=body(model, max_tokens=tokens, stream=True)) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        text = (await answer.aread()).decode()
    assert text.endswith("data: [DONE]\n\n")
    return text.count('"content": "hello "')


@contextlib.asynccontextmanager
async def asking(serving: Serving, model: str) -> AsyncIterator[list[tuple[int, str]]]:
    """Asks again and again meanwhile: status and text of each answer."""
    seen: list[tuple[int, str]] = []

    async def ask_on() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            while True:
                answer = await client.post(serving.url + CHAT, json=body(model, max_tokens=1))
                seen.append((answer.status_code, answer.text))
                await asyncio.sleep(0.1)

    task = asyncio.create_task(ask_on())
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def change_leaves_the_rest(serving: Serving, beside: list[dict[str, Any]], processes: Processes) -> None:
    """Changes, adds and removes a model while others are asked."""

    def words(model: str) -> int:
        answer = httpx.post(serving.url + CHAT, json=body(model), timeout=60)
        return answer.text.count("hello") if answer.status_code == 200 else 0

    def known(model: str) -> bool:
        return httpx.post(serving.url + CHAT, json=body(model), timeout=60).status_code != 404

    ask(serving, "steady")
    assert words("other") == 3
    before = processes("app:steady"), processes("app:Ingress")
    async with asking(serving, "steady") as seen:
        streams = [asyncio.create_task(whole_stream(serving, name, 300)) for name in ("steady", "other")]
        await asyncio.to_thread(wait_for, "requests are answered", lambda: len(seen) > 3, 30)
        steps: list[tuple[list[dict[str, Any]], str, Callable[[], bool]]] = [
            ([STEADY, CHANGED], "the change is seen", lambda: words("other") == 5),
            ([STEADY, CHANGED, ADDED], "the new model answers", lambda: words("added") == 4),
            ([STEADY, CHANGED], "it is gone", lambda: not known("added")),
        ]
        for models, what, look in steps:
            await asyncio.to_thread(serving.change, "app", [*beside, *models])
            await asyncio.to_thread(wait_for, what, look, 60)
            answered = len(seen)
            await asyncio.to_thread(wait_for, "requests are answered", lambda n=answered: len(seen) > n + 5, 30)
            assert {status for status, _ in seen} == {200}, [one for one in seen if one[0] != 200][:3]
        assert await asyncio.gather(*streams) == [300, 300]
    assert processes("app:steady") == before[0]
    assert processes("app:Ingress") != before[1]


async def test_change_of_one_model_leaves_the_others_up_and_every_stream_whole(alone: Serving) -> None:
    await change_leaves_the_rest(alone, [], lambda name: [p.pid for p in alone.named(f"ray::ServeReplica:{name}")])


def test_head_without_cpus_holds_no_model_and_each_other_node_an_ingress(cluster: Nodes, spread: Serving) -> None:
    def has(deployment: str, *names: str) -> Callable[[], bool]:
        return lambda: sorted(cluster.replicas(deployment)) == list(names)

    wait_for("an ingress on each node that lends CPUs", has("app:Ingress", "left", "right"), 60)
    wait_for("the keeper beside the control service", has("app:Keeper", "head"), 60)
    ask(spread, "steady")
    assert "head" not in cluster.replicas("app:steady")


def test_each_model_runs_where_its_placement_says(cluster: Nodes, spread: Serving) -> None:
    for model in ("left", "right"):
        ask(spread, model)
        assert sorted(cluster.replicas(f"app:{model}")) == [model]


def test_engine_that_spans_nodes_gets_a_placement_group_of_their_bundles(cluster: Nodes, spread: Serving) -> None:
    ask(spread, "spanning")
    [group] = cluster.placement_groups()
    assert (group["state"], group["strategy"]) == ("CREATED", "STRICT_SPREAD")
    assert [dict(bundle) for bundle in group["bundles"].values()] == [{"GPU": 1, "CPU": 0.25}] * 2
    assert len(set(group["bundles_to_node_id"].values())) == 2
    assert httpx.post(f"{spread.url}/api/models/spanning/stop", timeout=60).status_code == 200
    wait_for("the group is given back", lambda: not cluster.placement_groups(), 30)


async def test_change_of_one_model_leaves_other_nodes_alone(cluster: Nodes, spread: Serving) -> None:
    def processes(name: str) -> list[int]:
        return [pid for pids in cluster.replicas(name).values() for pid in pids]

    await change_leaves_the_rest(spread, PLACED, processes)


def test_model_moves_to_its_next_placement_when_its_node_goes(cluster: Nodes, spread: Serving) -> None:
    ask(spread, "left")
    ask(spread, "right")
    [stays] = cluster.replicas("app:left")["left"]
    assert placement(spread, "right") == "right"
    cluster.kill("right")
    wait_for("it moves on", lambda: moved(spread), 90)
    ask(spread, "right")
    assert sorted(cluster.replicas("app:right~1")) == ["left"]
    assert cluster.replicas("app:left") == {"left": [stays]}
    ask(spread, "left")


def moved(serving: Serving) -> bool:
    with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):  # the ingress that was asked may just have gone
        return placement(serving, "right") == "right~1"
    return False
