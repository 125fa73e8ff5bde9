"""Keys and limits with two ingress replicas, through the clients that people use; and a server without keys."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import psutil
import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI

from tests.e2e.keys import ALICE, HASTY, LIMIT, OPERATOR, TOKENS, WORDY
from tests.e2e.serving import Serving, application, wait_for

APPLICATIONS = ("keys",)

CHAT = "/v1/chat/completions"


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, **more}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def own_address() -> str:
    """One of this machine that is not its loopback."""
    addresses = [a.address for own in psutil.net_if_addrs().values() for a in own if a.family == socket.AF_INET]
    found = [address for address in addresses if not address.startswith("127.")]
    if not found:
        pytest.skip("this machine has no address but its loopback")
    return found[0]


@pytest.fixture(scope="module")
def url(serving: Serving) -> str:
    return f"{serving.url}/keys"


@pytest.fixture(scope="module")
def alice(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=ALICE, max_retries=0)


def test_openais_client_is_let_in_with_its_key(alice: OpenAI) -> None:
    answer = alice.chat.completions.create(**body("mine"))
    assert answer.choices[0].message.content
    chunks = list(alice.chat.completions.create(**body("alias-of-mine"), stream=True))
    assert chunks[-1].choices[0].finish_reason
    assert [model.id for model in alice.models.list()] == ["mine"]


def test_openais_client_learns_what_it_may_not(url: str, alice: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        OpenAI(base_url=f"{url}/v1", api_key="sk-wrong", max_retries=0).models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        alice.chat.completions.create(**body("theirs"))
    assert missing.value.code == "model_not_found"
    assert httpx.post(f"{url}/api/models/mine/stop", headers=bearer(ALICE)).status_code == 403


def test_anthropics_client_reads_its_errors(url: str) -> None:
    message: Any = {"model": "mine", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
    with pytest.raises(anthropic.AuthenticationError) as unknown:
        Anthropic(base_url=url, api_key="sk-wrong", max_retries=0).messages.create(**message)
    assert unknown.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    known = Anthropic(base_url=url, api_key=ALICE, max_retries=0)
    with pytest.raises(anthropic.NotFoundError):
        known.messages.create(**{**message, "model": "theirs"})
    with pytest.raises(anthropic.BadRequestError):  # let in; the echo engine has no such route
        known.messages.create(**message)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/api/models",
        "/nothing",
        "//health",
        "/v1/../health/x",
        "/%2e%2e/health/x",
        "/health%2f",
        "/HEALTH",
    ],
)
def test_path_in_any_spelling_needs_a_key(serving: Serving, path: str) -> None:
    """Sent as it is: clients tidy theirs."""
    with socket.create_connection(("127.0.0.1", serving.port)) as connection:
        connection.sendall(f"GET /keys{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_open_paths_need_none(url: str) -> None:
    for path in ("/", "/health", "/docs", "/openapi.json"):
        assert httpx.get(url + path).status_code == 200


def test_operator_starts_and_stops_models(url: str) -> None:
    for what, status in (("start", "running"), ("stop", "stopped")):
        answer = httpx.post(f"{url}/api/models/theirs/{what}", headers=bearer(OPERATOR), timeout=60)
        assert answer.status_code == 200, answer.text
        assert httpx.get(f"{url}/api/models/theirs", headers=bearer(OPERATOR)).json()["model"]["status"] == status


def test_burst_over_two_ingress_replicas_stays_near_the_limit(serving: Serving, url: str) -> None:
    """Each replica lets through at most what is left by its knowledge, which is a fifth of a second old."""
    wait_for("two ingress replicas", lambda: len(serving.replicas("keys", "Ingress")) == 2, 30)
    wait_for("a minute with enough of it left", lambda: time.time() % 60 < 40, 25)

    async def burst(client: AsyncOpenAI, n: int) -> list[int]:
        async def one() -> int:
            try:
                await client.chat.completions.create(**body("theirs"))
            except openai.RateLimitError:
                return 429
            return 200

        return await asyncio.gather(*(one() for _ in range(n)))

    async def all_of_them() -> list[int]:
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key=HASTY, max_retries=0, timeout=60)
        seen = await burst(client, 5)
        await asyncio.sleep(0.5)  # the replicas tell each other
        for _ in range(6):
            seen += await burst(client, 5)
            await asyncio.sleep(0.5)
        return seen

    seen = asyncio.run(all_of_them())
    assert LIMIT <= seen.count(200) <= LIMIT + 5
    answer = httpx.post(f"{url}{CHAT}", json=body("theirs"), headers=bearer(HASTY))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-ratelimit-limit-requests"] == str(LIMIT)
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"


def test_tokens_of_answers_and_streams_are_counted_for_their_key(url: str) -> None:
    wait_for("a minute with enough of it left", lambda: time.time() % 60 < 40, 25)

    def ask(stream: bool) -> httpx.Response:
        return httpx.post(f"{url}{CHAT}", json=body("theirs", stream=stream), headers=bearer(WORDY), timeout=60)

    assert [ask(stream).status_code for stream in (False, True)] == [200, 200]
    wait_for("its tokens are used up", lambda: ask(True).status_code == 429, 15)
    refused = ask(False)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"

    def used() -> int:
        answer = httpx.get(f"{url}/api/usage", params={"key": "wordy"}, headers=bearer(OPERATOR), timeout=30)
        return int(answer.json()["totals"]["total_tokens"])

    wait_for("the same tokens are in its usage", lambda: used() >= TOKENS, 15)


def test_full_queue_is_a_429(url: str) -> None:
    """The model takes seconds to load: all wait for it, two at most at each of the two ingress replicas."""
    with ThreadPoolExecutor(12) as pool:
        asked = [
            pool.submit(httpx.post, f"{url}{CHAT}", json=body("narrow"), headers=bearer(OPERATOR), timeout=60)
            for _ in range(12)
        ]
        answers = [one.result() for one in asked]
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    assert 2 <= codes.count(200) <= 4
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full"
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265/api/version", "http://169.254.169.254/", "file:///etc/passwd"]
)
def test_engine_is_sent_to_no_private_address(url: str, address: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": address}}]
    data = body("mine", messages=[{"role": "user", "content": content}])
    answer = httpx.post(f"{url}{CHAT}", json=data, headers=bearer(ALICE))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_url")


BOB = "sk-bob-0123456789abc"

# On all addresses --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`serve run` on all addresses, which asks nobody whether there are keys."""
    models = [{"name": "parrot", "engine": "echo"}]
    told = application("told", "/told", models, cap=1, allow_without_keys=True)
    keyed = application("keyed", "/keyed", models, cap=1, keys=[{"name": "bob", "key_env": "KEY_OF_BOB"}])
    server = Serving(
        tmp_path_factory.mktemp("exposed"),
        [application("bare", "/bare", models, cap=1), told, keyed],
        {"KEY_OF_BOB": BOB},
        host="0.0.0.0",
    )
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()
    assert server.left_behind() == []


def test_server_without_keys_answers_its_own_machine_alone(exposed: Serving) -> None:
    outside = f"http://{own_address()}:{exposed.port}"
    assert httpx.post(f"{exposed.url}/bare{CHAT}", json=body("parrot"), timeout=60).status_code == 200
    for headers in ({}, {"host": "localhost"}, {"x-forwarded-for": "127.0.0.1"}):
        answer = httpx.post(f"{outside}/bare{CHAT}", json=body("parrot"), headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "keys_required"
    assert httpx.post(f"{outside}/bare/api/models/stop-all").status_code == 403
    assert httpx.get(f"{outside}/bare/health").status_code == 200


def test_server_that_was_told_to_answers_all(exposed: Serving) -> None:
    outside = f"http://{own_address()}:{exposed.port}"
    assert httpx.post(f"{outside}/told{CHAT}", json=body("parrot"), timeout=60).status_code == 200


def test_key_of_the_environment_reaches_the_ingress_as_a_hash(exposed: Serving) -> None:
    outside = f"http://{own_address()}:{exposed.port}/keyed"
    assert httpx.get(f"{outside}/v1/models").status_code == 401
    assert httpx.get(f"{outside}/v1/models", headers=bearer(BOB)).status_code == 200
    assert BOB not in exposed.log.read_text()


def test_page_of_somebody_else_reaches_no_server_without_keys(exposed: Serving) -> None:
    answer = httpx.post(f"{exposed.url}/bare/api/models/stop-all", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert json.loads(answer.text)["success"] is False


def test_start_with_a_key_of_the_environment_tells_when_it_is_ready(tmp_path: Path) -> None:
    models = [{"name": "parrot", "engine": "echo", "auto_start": True}]
    server = Serving(tmp_path, [application("llm-manager", "/", models, cap=1)], {"LLM_MANAGER_KEYS": BOB})
    server.start((sys.executable, "-u", "-m", "ingress.launch"))
    try:
        wait_for("ready", lambda: "is ready at" in server.log.read_text(), 120)
        assert "Authorization: Bearer YOUR_KEY" in server.log.read_text()
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/v1/models", headers=bearer(BOB)).status_code == 200
        assert BOB not in server.log.read_text()
    finally:
        server.stop()


def test_start_on_all_addresses_without_keys_is_refused_at_once(tmp_path: Path) -> None:
    server = Serving(
        tmp_path, [application("llm-manager", "/", [{"name": "a", "engine": "echo"}], cap=1)], host="0.0.0.0"
    )
    server.start((sys.executable, "-u", "-m", "ingress.launch"))
    assert server.wait_ended(30) == 2
    assert "http_options.host (0.0.0.0) listens beyond this machine" in server.log.read_text()
