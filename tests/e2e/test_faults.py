"""What clients see while processes die, hang, or have no disk left: behind Serve's own proxy, on a Ray of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.serving import Serving, application, wait_for
from tests.e2e.test_crashes import busy_connections
from tests.e2e.test_residency import CHAT, body, chat

NAME = "llm-manager"
TOKENS = 40  # two seconds


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    slow = {"engine": "echo", "engine_args": {"interval_ms": 50}}
    server = Serving(
        tmp_path_factory.mktemp("faults"),
        [
            application(
                NAME,
                "/",
                [
                    {"name": "slow", **slow, "auto_start": True},
                    {"name": "other", **slow},
                    {"name": "fast", "engine": "echo"},
                    {"name": "loads", "engine": "echo", "engine_args": {"load_seconds": 3}},
                ],
                cap=2,
                ingress_replicas=2,
            )
        ],
    )
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def whole(faulty: Serving) -> Serving:
    """With all its processes, whatever the test before has done to them."""
    wait_for("two ingress replicas", lambda: len(faulty.replicas(NAME, "Ingress")) == 2, 60)
    wait_for("a keeper", lambda: faulty.replicas(NAME, "Keeper"), 60)
    chat(faulty.url, "slow")
    return faulty


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Opens a connection for each request."""
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        yield client


async def last_event(client: httpx.AsyncClient, url: str, began: Callable[[], None] = lambda: None) -> str:
    """Of a stream from `slow`. began: called once it has begun."""
    request = body("slow", tokens=TOKENS, stream=True)
    async with client.stream("POST", url + CHAT, json=request) as answer:
        assert answer.status_code == 200, await answer.aread()
        lines = [line async for line in _telling(answer.aiter_lines(), began) if line]
    return lines[-1].removeprefix("data: ")


async def _telling(lines: AsyncIterator[str], began: Callable[[], None]) -> AsyncIterator[str]:
    yield await anext(lines)
    began()
    async for line in lines:
        yield line


async def eight_streams(client: httpx.AsyncClient, url: str, fault: Callable[[], None]) -> list[str]:
    """The last events of streams in whose midst the fault happens."""
    begun = 0
    all_have = asyncio.Event()

    def began() -> None:
        nonlocal begun
        begun += 1
        if begun == 8:
            all_have.set()

    streams = [asyncio.create_task(last_event(client, url, began)) for _ in range(8)]
    await asyncio.wait_for(all_have.wait(), 30)
    fault()
    return await asyncio.gather(*streams)


@contextlib.asynccontextmanager
async def loading(whole: Serving, client: httpx.AsyncClient) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """Requests that wait for a model whose process has just been started."""
    requests = [asyncio.create_task(client.post(whole.url + CHAT, json=body("loads"))) for _ in range(4)]
    await asyncio.to_thread(wait_for, "its process", lambda: whole.replicas(NAME, "loads"), 30)
    try:
        yield requests
    finally:
        await asyncio.gather(*requests)
        await client.post(f"{whole.url}/api/models/loads/stop")


async def test_replica_that_is_killed_while_it_starts_is_started_again(
    whole: Serving, client: httpx.AsyncClient
) -> None:
    async with loading(whole, client) as requests:
        (replica,) = whole.replicas(NAME, "loads")
        replica.kill()
        assert {answer.status_code for answer in await asyncio.gather(*requests)} == {200}


async def test_start_that_is_killed_again_and_again_is_a_failure(whole: Serving, client: httpx.AsyncClient) -> None:
    def kill() -> bool:
        for replica in whole.replicas(NAME, "loads"):
            with contextlib.suppress(psutil.NoSuchProcess):
                replica.kill()
        return all(request.done() for request in requests)

    async with loading(whole, client) as requests:
        await asyncio.to_thread(wait_for, "an answer", kill, 60)
        answers = await asyncio.gather(*requests)
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(503, "model_load_failed")}


async def test_killed_ingress_replica_costs_no_request_that_had_not_begun(
    whole: Serving, client: httpx.AsyncClient
) -> None:
    """Neither of its ingress replicas is told apart: the one that dies has some of them."""
    requests = [asyncio.create_task(client.post(whole.url + CHAT, json=body("slow", tokens=TOKENS))) for _ in range(16)]
    (replica,) = whole.replicas(NAME, "slow")
    await asyncio.to_thread(wait_for, "all of them run", lambda: busy_connections(replica) >= 16, 20)
    whole.replicas(NAME, "Ingress")[0].kill()
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {"hello " * TOKENS}


async def test_killed_ingress_replica_costs_no_operator_an_answer(whole: Serving, client: httpx.AsyncClient) -> None:
    """Both replicas have some of those who start a model, which takes three seconds."""
    starts = [asyncio.create_task(client.post(f"{whole.url}/api/models/loads/start")) for _ in range(16)]
    await asyncio.to_thread(wait_for, "its process", lambda: whole.replicas(NAME, "loads"), 30)
    assert not any(start.done() for start in starts)
    whole.replicas(NAME, "Ingress")[0].kill()
    answers = await asyncio.gather(*starts)
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    await client.post(f"{whole.url}/api/models/loads/stop")


async def test_streams_of_a_killed_ingress_replica_end_with_an_error_event(
    whole: Serving, client: httpx.AsyncClient
) -> None:
    ends = await eight_streams(client, whole.url, whole.replicas(NAME, "Ingress")[0].kill)
    cut = [json.loads(end)["error"] for end in ends if end != "[DONE]"]
    assert 0 < len(cut) < 8, "some went through the other one"
    assert {error["code"] for error in cut} == {"engine_failed"}


async def test_slots_of_a_killed_ingress_replica_do_not_keep_a_models_place(
    whole: Serving, client: httpx.AsyncClient
) -> None:
    """Serve would wait for them as long as an answer may take: ten minutes."""
    await eight_streams(client, whole.url, whole.replicas(NAME, "Ingress")[0].kill)
    stop = await client.post(f"{whole.url}/api/models/slow/stop", params={"wait": False})
    assert stop.status_code == 202
    wait_for("the place is free", lambda: not whole.replicas(NAME, "slow"), 20)


async def test_controller_that_is_killed_cuts_no_stream_and_costs_no_request(
    whole: Serving, client: httpx.AsyncClient
) -> None:
    (controller,) = whole.named("ray::ServeController")
    assert set(await eight_streams(client, whole.url, controller.kill)) == {"[DONE]"}
    answer = await client.post(whole.url + CHAT, json=body("slow"))
    assert answer.status_code == 200
    wait_for("another one is there", lambda: whole.named("ray::ServeController") not in ([], [controller]), 30)


async def test_proxy_that_is_killed_is_back_within_seconds(whole: Serving, client: httpx.AsyncClient) -> None:
    (proxy,) = whole.named("ray::ProxyActor")
    proxy.kill()
    killed_at = time.monotonic()
    await asyncio.to_thread(wait_for, "an answer", lambda: answers(whole.url), 60)
    assert time.monotonic() - killed_at < 15, "Serve's own way takes half a minute"


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.post(url + CHAT, json=body("slow"), timeout=10).status_code == 200
    return False


async def test_replica_that_hangs_is_replaced_and_its_requests_are_answered(
    whole: Serving, client: httpx.AsyncClient
) -> None:
    (replica,) = whole.replicas(NAME, "slow")
    streams = [asyncio.create_task(last_event(client, whole.url)) for _ in range(2)]
    await asyncio.to_thread(wait_for, "they run", lambda: busy_connections(replica) >= 2, 20)
    waiting = asyncio.create_task(client.post(whole.url + CHAT, json=body("slow", tokens=TOKENS)))
    await asyncio.to_thread(wait_for, "it runs", lambda: busy_connections(replica) >= 3, 20)
    replica.send_signal(signal.SIGSTOP)
    try:
        answer = await asyncio.wait_for(waiting, 90)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "hello " * TOKENS
        for end in await asyncio.wait_for(asyncio.gather(*streams), 10):
            assert end == "[DONE]" or json.loads(end)["error"]["code"] == "engine_failed"
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            replica.kill()


async def test_client_that_reads_a_byte_a_second_hurts_nobody_else(whole: Serving, client: httpx.AsyncClient) -> None:
    chat(whole.url, "fast")
    before = memory_mb(whole)
    request = json.dumps(body("fast", tokens=200_000, stream=True))
    with socket.create_connection(("127.0.0.1", whole.port)) as sock:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(request)}\r\n"
        )
        sock.sendall(f"{head}\r\n{request}".encode())
        for _ in range(3):
            assert sock.recv(1)
            began = time.monotonic()
            answer = await client.post(whole.url + CHAT, json=body("fast"))
            assert answer.status_code == 200
            assert time.monotonic() - began < 5
            await asyncio.sleep(1)  # the pace of the client
        assert memory_mb(whole) < before + 30, "the answer has 40 MB"


def memory_mb(serving: Serving) -> float:
    """Of those between the engine and the client."""
    between = [*serving.named("ray::ProxyActor"), *serving.replicas(NAME, "Ingress")]
    return sum(process.memory_full_info().uss for process in between) / 2**20


@pytest.fixture
def full_disk(whole: Serving) -> Iterator[Path]:
    """The keeper's folder is on a disk that takes nothing."""
    folder = Path(whole.config.parent, "data")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    try:
        (folder / "filler").write_bytes(b"x" * 64 * 2**10)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_keeper_on_a_full_disk_stops_no_request_and_keeps_the_logs_once_there_is_room(
    whole: Serving, full_disk: Path
) -> None:
    (keeper,) = whole.replicas(NAME, "Keeper")
    keeper.kill()
    wait_for("another keeper", lambda: whole.replicas(NAME, "Keeper") not in ([], [keeper]), 30)
    assert answers(whole.url)

    def stats() -> httpx.Response:
        return httpx.get(f"{whole.url}/api/logs/stats", timeout=30)

    wait_for("it says so", lambda: stats().json().get("error", {}).get("code") == "keeper_gone", 30)
    (full_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", full_disk], check=True)
    wait_for("the logs are kept", lambda: stats().status_code == 200, 30)
