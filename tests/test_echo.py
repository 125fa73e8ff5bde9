"""The echo engine's app: OpenAI's shapes without weights."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.types import Message, Scope

from deployments import engines
from deployments.engines import EngineSpec
from deployments.engines.echo import EchoEngine
from deployments.errors import ModelNotFound

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"


def engine(**args: Any) -> EchoEngine:
    return EchoEngine(EngineSpec(("echo/one", "alias"), None, args, max_adapters=2))


def embedder(**args: Any) -> EchoEngine:
    return EchoEngine(EngineSpec(("echo/one", "alias"), None, args, mode="embedding"))


async def ask(path: str, body: Any, *, of: EchoEngine | None = None, method: str = "POST") -> httpx.Response:
    transport = httpx.ASGITransport((of or engine(tokens=3)).app)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, content=content)


def chat(content: Any = "one two", **more: Any) -> dict[str, Any]:
    return {"model": "alias", "messages": [{"role": "user", "content": content}], **more}


def completion(prompt: Any = "one two", **more: Any) -> dict[str, Any]:
    return {"model": "alias", "prompt": prompt, **more}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, which ends with [DONE]."""
    *parts, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


async def test_chat_repeats_the_words_of_the_last_message() -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two"}]
    response = await ask(CHAT, chat(messages=messages))
    assert response.status_code == 200
    answer = response.json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "chat.completion",
        "model": "alias",
        "system_fingerprint": f"fp_echo_{os.getpid()}",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "one two one ", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
    }


async def test_completion_repeats_the_prompt() -> None:
    answer = (await ask(COMPLETIONS, completion())).json()
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "one two one ", "logprobs": None, "finish_reason": "length"}]
    assert answer["usage"]["completion_tokens"] == 3


async def test_model_comes_back_as_the_client_named_it() -> None:
    for name in ("echo/one", "alias"):
        assert (await ask(CHAT, chat(model=name))).json()["model"] == name


async def test_ids_differ() -> None:
    assert (await ask(CHAT, chat())).json()["id"] != (await ask(CHAT, chat())).json()["id"]


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({}, 3),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 4}, 4),
        ({"max_tokens": 5, "max_completion_tokens": 4}, 4),
        ({"max_tokens": None}, 3),
    ],
)
async def test_length_is_what_the_request_sets_or_the_engines_default(limits: dict[str, Any], count: int) -> None:
    assert (await ask(CHAT, chat(**limits))).json()["usage"]["completion_tokens"] == count


async def test_empty_prompt_has_an_answer_too() -> None:
    assert (await ask(CHAT, chat(""))).json()["choices"][0]["message"]["content"] == "… … … "


async def test_chat_stream_has_the_role_first_the_reason_last_and_then_done() -> None:
    response = await ask(CHAT, chat(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    chunks = events(response)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["model"] for chunk in chunks} == {"alias"}
    assert {chunk["system_fingerprint"] for chunk in chunks} == {f"fp_echo_{os.getpid()}"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "one "},
        {"content": "two "},
        {"content": "one "},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["length"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_completion_stream_has_a_token_an_event() -> None:
    chunks = events(await ask(COMPLETIONS, completion(stream=True)))
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [c["choices"][0]["text"] for c in chunks] == ["one ", "two ", "one ", ""]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, "length"]


async def test_usage_is_the_last_event_when_it_is_asked_for() -> None:
    *chunks, last = events(await ask(CHAT, chat(stream=True, stream_options={"include_usage": True})))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_words_that_json_must_escape_come_through_a_stream() -> None:
    words = ['"quoted"', "back\\slash", "ß", "🦙", "\\u0000"]
    chunks = events(await ask(CHAT, chat(" ".join(words), stream=True, max_tokens=5)))
    assert [c["choices"][0]["delta"]["content"].strip() for c in chunks[1:-1]] == words


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        pytest.param(CHAT, b"{", 400, None, id="not JSON"),
        pytest.param(CHAT, [1], 400, None, id="not an object"),
        pytest.param(CHAT, {"model": "alias"}, 400, "messages", id="no messages"),
        pytest.param(CHAT, chat(messages=[]), 400, "messages", id="empty messages"),
        pytest.param(CHAT, chat(messages="hi"), 400, "messages", id="messages in words"),
        pytest.param(CHAT, chat([{"type": "image_url"}]), 400, "messages[0].content", id="parts"),
        pytest.param(CHAT, chat(messages=[{"content": "a"}, "b"]), 400, "messages[1].content", id="no object"),
        pytest.param(CHAT, chat(max_tokens=-1), 400, "max_tokens", id="negative length"),
        pytest.param(CHAT, chat(max_tokens=1.5), 400, "max_tokens", id="broken length"),
        pytest.param(CHAT, chat(max_tokens=2**63), 400, "max_tokens", id="endless length"),
        pytest.param(CHAT, chat(max_tokens=True), 400, "max_tokens", id="true length"),
        pytest.param(CHAT, chat(model="other"), 404, "model", id="another model"),
        pytest.param(COMPLETIONS, {"model": "alias"}, 400, "prompt", id="no prompt"),
        pytest.param(COMPLETIONS, completion(["a"]), 400, "prompt", id="a list of prompts"),
    ],
)
async def test_bad_request_is_an_error_that_names_the_field(path: str, body: Any, status: int, param: str) -> None:
    response = await ask(path, body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")


async def test_length_of_zero_is_refused() -> None:
    assert (await ask(CHAT, chat(max_tokens=0))).status_code == 400


async def test_stream_options_that_are_no_object_are_refused() -> None:
    assert (await ask(CHAT, chat(stream=True, stream_options="usage"))).status_code == 400


async def test_unknown_route_and_wrong_method_have_openais_shape() -> None:
    response = await ask("/v1/embeddings", {})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "route_not_found")
    response = await ask(CHAT, b"", method="GET")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


# Embeddings ----------------------------------------------------------------------------------------------------------


async def embed(given: Any, of: EchoEngine | None = None, **more: Any) -> dict[str, Any]:
    response = await ask(EMBEDDINGS, {"model": "alias", "input": given, **more}, of=of or embedder())
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_same_text_has_the_same_vector_and_another_text_another() -> None:
    answer = await embed(["one two", "three", "one two"])
    assert answer["object"] == "list"
    assert answer["model"] == "alias"
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [("embedding", i) for i in range(3)]
    first, second, third = (entry["embedding"] for entry in answer["data"])
    assert first == third != second
    assert len(first) == 32
    assert math.hypot(*first) == pytest.approx(1)


async def test_vectors_come_in_base64_too() -> None:
    plain = (await embed("one"))["data"][0]["embedding"]
    packed = base64.b64decode((await embed("one", encoding_format="base64"))["data"][0]["embedding"])
    assert struct.unpack("<32f", packed) == pytest.approx(plain)


async def test_vector_is_as_long_as_the_request_or_the_arguments_say() -> None:
    short = (await embed([1, 2, 3], dimensions=5))["data"][0]["embedding"]
    assert len(short) == 5
    assert math.hypot(*short) == pytest.approx(1)
    answer = await embed([[1, 2, 3], [4]], embedder(dimensions=8))
    assert [len(entry["embedding"]) for entry in answer["data"]] == [8, 8]
    assert answer["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [True]}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 33}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"model": "other"}, "model"),
        ({"model": [1]}, "model"),
    ],
)
async def test_bad_embedding_request_names_the_field(fields: dict[str, Any], param: str) -> None:
    response = await ask(EMBEDDINGS, {"model": "alias", "input": "a", **fields}, of=embedder())
    assert response.status_code == (404 if param == "model" else 400)
    assert response.json()["error"]["param"] == param


async def test_embedding_model_does_not_generate() -> None:
    assert (await ask(CHAT, chat(), of=embedder())).status_code == 404


# Adapters ------------------------------------------------------------------------------------------------------------


async def test_adapter_marks_its_words_and_answers_under_its_name(tmp_path: Path) -> None:
    echo = engine(tokens=3)
    await echo.load_adapter("poet", tmp_path)
    answer = (await ask(CHAT, chat(model="poet"), of=echo)).json()
    assert answer["model"] == "poet"
    assert answer["choices"][0]["message"]["content"] == "poet:one poet:two poet:one "
    assert (await ask(CHAT, chat(), of=echo)).json()["choices"][0]["message"]["content"] == "one two one "
    await echo.unload_adapter("poet")
    gone = await ask(CHAT, chat(model="poet"), of=echo)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")


async def test_adapter_is_not_served_before_it_is_loaded(tmp_path: Path) -> None:
    echo = engine(adapter_seconds=3600)
    loading = asyncio.create_task(echo.load_adapter("poet", tmp_path))
    await asyncio.sleep(0.05)
    assert (await ask(CHAT, chat(model="poet"), of=echo)).status_code == 404
    with pytest.raises(ModelNotFound):
        await echo.unload_adapter("poet")
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    with pytest.raises(ValueError, match="is no folder"):
        await echo.load_adapter("poet", tmp_path / "gone")


async def test_adapters_need_a_free_name_and_room(tmp_path: Path) -> None:
    echo = engine()
    with pytest.raises(ValueError, match="'alias' is taken"):
        await echo.load_adapter("alias", tmp_path)
    await echo.load_adapter("a", tmp_path)
    with pytest.raises(ValueError, match="'a' is taken"):
        await echo.load_adapter("a", tmp_path)
    await echo.load_adapter("b", tmp_path)
    with pytest.raises(ValueError, match="at most 2 adapters"):
        await echo.load_adapter("c", tmp_path)
    with pytest.raises(ModelNotFound):
        await echo.unload_adapter("c")


# The life of the engine ----------------------------------------------------------------------------------------------


class Client:
    """Sends the request, and leaves when the test says so."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._messages: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": "POST",
            "path": CHAT,
            "query_string": b"",
            "headers": [],
        }
        self.sent: list[Message] = []
        self.leaves = asyncio.Event()
        self.got = asyncio.Event()

    async def receive(self) -> Message:
        if self._messages:
            return self._messages.pop()
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.got.set()


async def test_stream_ends_when_the_client_leaves() -> None:
    slow = engine(tokens=10**9, interval_ms=1)
    client = Client(chat(stream=True))
    async with asyncio.timeout(10):
        answer = asyncio.ensure_future(slow.app(client.scope, client.receive, client.send))
        await client.got.wait()
        client.leaves.set()
        await answer
    assert slow.running == 0
    assert b"[DONE]" not in b"".join(m.get("body", b"") for m in client.sent)


async def test_answer_in_one_piece_ends_when_the_client_leaves() -> None:
    slow = engine(tokens=10**9, interval_ms=1)
    client = Client(chat())
    client.leaves.set()
    async with asyncio.timeout(10):
        await slow.app(client.scope, client.receive, client.send)
    assert slow.running == 0


async def test_running_counts_the_answers_being_written() -> None:
    slow = engine(tokens=10**9, interval_ms=1)
    clients = [Client(chat(stream=True)) for _ in range(3)]
    async with asyncio.timeout(10):
        answers = asyncio.gather(*(slow.app(c.scope, c.receive, c.send) for c in clients))
        for client in clients:
            while len(client.sent) < 3:  # status, role, first word
                client.got.clear()
                await client.got.wait()
        assert slow.running == 3
        for client in clients:
            client.leaves.set()
        await answers
    assert slow.running == 0


async def test_loading_takes_as_long_as_it_is_told() -> None:
    loading = asyncio.create_task(engine(load_seconds=3600).start())
    await asyncio.sleep(0)
    assert not loading.done()
    loading.cancel()
    async with asyncio.timeout(10):
        await engine().start()


async def test_engine_is_found_by_its_name() -> None:
    made = engines.create("echo", EngineSpec(("a",)))
    assert isinstance(made, EchoEngine)
    await made.start()
    await made.check_health()
    await made.stop()
    with pytest.raises(ValueError, match="'none'"):
        engines.create("none", EngineSpec(("a",)))


@pytest.mark.parametrize(
    "args", [{"tokens": 0}, {"interval_ms": -1}, {"load_seconds": -1}, {"adapter_seconds": -1}, {"colour": "red"}]
)
def test_bad_arguments_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        engine(**args)
