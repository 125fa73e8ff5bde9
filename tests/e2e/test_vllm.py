"""vLLM through the ingress: OpenAI's and Anthropic's packages, adapters, embeddings, replicas, and swaps with MLX."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import NotFoundError, OpenAI
from openai.types.chat import ChatCompletionToolParam

from tests.e2e.serving import Serving, wait_for
from tests.e2e.test_openai_sdk import FRANCE, SCHEMA, check_stream

APPLICATIONS = ("engines",)

MODEL = "smol-vllm"
START_S = 300
CITY: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def url(serving: Serving, vllm: None) -> Iterator[str]:
    """At the end no process of an engine is left."""
    url = f"{serving.url}/engines"
    yield url
    assert httpx.post(f"{url}/api/models/stop-all", timeout=120).status_code == 200
    assert serving.models_with_processes("engines") == set()
    wait_for("vLLM's processes are gone", lambda: serving.named("VLLM::") == [], 10)


@pytest.fixture(scope="module")
def client(url: str) -> OpenAI:
    started = httpx.post(f"{url}/api/models/{MODEL}/start", timeout=START_S)
    assert started.status_code == 200, started.text
    return OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0)


def told(url: str, name: str) -> dict[str, Any]:
    model: dict[str, Any] = httpx.get(f"{url}/api/models/{name}", timeout=30).json()["model"]
    return model


def test_chat_answers_under_each_name(client: OpenAI) -> None:
    for name in (MODEL, "gpt-4o"):
        answer = client.chat.completions.create(model=name, messages=FRANCE, max_tokens=12, temperature=0)
        assert "Paris" in (answer.choices[0].message.content or "")
        assert answer.model == name
        assert answer.usage is not None


def test_stream_brings_role_text_finish_and_usage(client: OpenAI) -> None:
    check_stream(client, MODEL)


def test_tool_is_called_as_its_schema_wants(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Weather in Rome?"}],
        tools=[CITY],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        max_tokens=60,
        temperature=0,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_structured_output_follows_its_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=FRANCE,
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "sky", "schema": SCHEMA, "strict": True}},
    )
    assert json.loads(answer.choices[0].message.content or "").keys() == {"sky", "warm"}


def test_logprobs_come_with_the_tokens(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=FRANCE, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [len(token.top_logprobs) for token in logprobs.content or []] == [2, 2, 2]


def test_response_is_made_and_asked_for_again(client: OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="What is the capital of France?", max_output_tokens=12)
    assert made.output_text
    again = client.responses.retrieve(made.id)
    assert (again.id, again.output_text) == (made.id, made.output_text)
    with pytest.raises(NotFoundError):
        client.responses.retrieve("resp_unknown")


def test_anthropics_package_is_answered(client: OpenAI, url: str) -> None:
    anthropic = Anthropic(base_url=url, api_key="none", timeout=120, max_retries=0)
    message = anthropic.messages.create(
        model=MODEL, max_tokens=12, messages=[{"role": "user", "content": "What is the capital of France?"}]
    )
    assert message.content
    assert message.usage.output_tokens <= 12
    counted = anthropic.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "hello"}])
    assert counted.input_tokens > 0


def test_text_is_tokenized_and_back(client: OpenAI, url: str) -> None:
    tokens = httpx.post(f"{url}/tokenize", json={"model": MODEL, "prompt": "hello world"}, timeout=60).json()["tokens"]
    text = httpx.post(f"{url}/detokenize", params={"model": MODEL}, json={"tokens": tokens}, timeout=60).json()
    assert text["prompt"] == "hello world"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user"}], "temperature": 9}, "temperature"),
        ("/v1/embeddings", {"input": "a"}, "model"),
    ],
)
def test_bad_request_is_told_in_the_contracts_shape(
    client: OpenAI, url: str, path: str, body: dict[str, Any], param: str
) -> None:
    answer = httpx.post(url + path, json={"model": MODEL, **body}, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert isinstance(error["code"], str)


@pytest.mark.parametrize("path", ["/collective_rpc", "/v1/load_lora_adapter", "/sleep", "/invocations"])
def test_private_routes_of_the_engine_are_not_reached(client: OpenAI, url: str, path: str) -> None:
    answer = httpx.post(url + path, json={"model": MODEL}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "route_not_found")


def test_adapter_changes_the_answer_and_runs_beside_its_base(client: OpenAI) -> None:
    def ask(name: str) -> str:
        answer = client.chat.completions.create(model=name, messages=FRANCE, max_tokens=12, temperature=0)
        assert answer.model == name
        return str(answer.choices[0].message.content)

    base = ask(MODEL)
    with client.chat.completions.create(
        model=MODEL, messages=FRANCE, max_tokens=60, temperature=0, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        next(stream)
        assert ask("smol-vllm-poet") != base
        assert sum(bool(chunk.choices) for chunk in stream) > 5
    assert ask(MODEL) == base


@pytest.mark.timeout(2 * START_S)
async def test_load_brings_a_second_replica_that_takes_its_part(client: OpenAI, url: str, serving: Serving) -> None:
    body = {"model": MODEL, "messages": FRANCE, "max_tokens": 200, "ignore_eos": True}
    answered: list[int] = []
    enough = asyncio.Event()

    async def keep_asking(http: httpx.AsyncClient) -> None:
        while not enough.is_set():
            answered.append((await http.post(f"{url}/v1/chat/completions", json=body)).status_code)

    async with httpx.AsyncClient(timeout=START_S) as http:
        clients = [asyncio.create_task(keep_asking(http)) for _ in range(4)]
        await asyncio.to_thread(wait_for, "two replicas", lambda: told(url, MODEL)["replicas"] == 2, START_S)
        await asyncio.to_thread(wait_for, "both work", lambda: _busy(serving) == 2, START_S)
        enough.set()
        await asyncio.gather(*clients)
    assert set(answered) == {200}
    await asyncio.to_thread(wait_for, "one is left", lambda: told(url, MODEL)["replicas"] == 1, START_S)


def _busy(serving: Serving) -> int:
    """Replicas whose engine has worked in the last moment."""
    return sum(worker.cpu_percent(0.5) > 10 for worker in serving.named("VLLM::Worker"))


def test_embedding_model_takes_the_place_under_the_cap(client: OpenAI, url: str) -> None:
    vectors = client.with_options(timeout=START_S).embeddings.create(model="minilm", input=["a cat", "a kitten", "tax"])
    cat, kitten, tax = (item.embedding for item in vectors.data)
    assert len(cat) == 384
    assert _dot(cat, kitten) > _dot(cat, tax)
    scores = httpx.post(
        f"{url}/v1/score", json={"model": "minilm", "text_1": "a cat", "text_2": ["a kitten", "tax"]}, timeout=60
    ).json()["data"]
    assert scores[0]["score"] > scores[1]["score"]
    ranked = httpx.post(
        f"{url}/v1/rerank", json={"model": "minilm", "query": "a cat", "documents": ["tax", "a kitten"]}, timeout=60
    ).json()["results"]
    assert ranked[0]["index"] == 1
    assert told(url, MODEL)["status"] in ("stopped", "stopping")


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_mlx_and_vllm_swap_under_one_cap(client: OpenAI, url: str, serving: Serving) -> None:
    answer = client.with_options(timeout=START_S).chat.completions.create(
        model="smol-mlx", messages=FRANCE, max_tokens=12, temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert serving.models_with_processes("engines") == {"smol-mlx"}
    wait_for("vLLM's processes are gone", lambda: serving.named("VLLM::") == [], 10)
