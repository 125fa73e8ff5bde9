"""Which paths lead to an engine, of which models, and what arrives there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve

from deployments.config import ModelConfig, Settings
from deployments.server import SECRET_HEADER
from ingress import states
from ingress.endpoints import ENDPOINTS
from tests.test_app import Server, error_of

MODELS = (
    ModelConfig(name="chat", engine="echo"),
    ModelConfig(name="completion", engine="echo", mode="completion"),
    ModelConfig(name="embedding", engine="echo", mode="embedding"),
    ModelConfig(name="rerank", engine="vllm", mode="rerank"),
    ModelConfig(name="transcription", engine="vllm", mode="transcription"),
)
REPLICA = SimpleNamespace(url="http://10.0.0.2:77", headers={SECRET_HEADER.decode(): "s3cret"})
FORM = {"content-type": "multipart/form-data; boundary=xx"}
AUDIO = (
    b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\xff\x00--xx \r\n'
    b'--xx\r\nContent-Disposition: form-data; name="model"\r\n\r\ntranscription\r\n--xx--\r\n'
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(states, "TTL_S", -1.0)
    server = Server(Settings(models=MODELS))
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=server))
    return server


FIT = {
    "/v1/chat/completions": {"chat"},
    "/v1/completions": {"chat", "completion"},
    "/v1/responses": {"chat"},
    "/v1/messages": {"chat"},
    "/v1/messages/count_tokens": {"chat"},
    "/v1/embeddings": {"embedding"},
    "/pooling": {"embedding", "rerank"},
    "/v1/score": {"embedding", "rerank"},
    "/score": {"embedding", "rerank"},
    "/v1/rerank": {"embedding", "rerank"},
    "/v2/rerank": {"embedding", "rerank"},
    "/rerank": {"embedding", "rerank"},
    "/v1/audio/transcriptions": {"transcription"},
    "/v1/audio/translations": {"transcription"},
    "/tokenize": {"chat", "completion", "embedding", "rerank"},
    "/detokenize": {"chat", "completion", "embedding", "rerank"},
}


@pytest.mark.parametrize(("path", "modes"), FIT.items())
async def test_path_is_answered_by_models_of_its_modes_and_no_other(server: Server, path: str, modes: set[str]) -> None:
    for model in MODELS:
        answer = await server.ask("POST", path, json={"model": model.name})
        if model.mode in modes:
            told = answer.json()
            assert (told["to"], told["method"], told["target"]) == (model.name, "POST", path)
        else:
            message = error_of(answer, 400, "wrong_mode", "model")["message"]
            assert repr(model.name) in message
            fitting = [other for other, modes in FIT.items() if model.mode in modes]
            assert message.endswith(f"use one of {', '.join(e.path for e in ENDPOINTS if e.path in fitting)}.")


PRIVATE = [
    "/collective_rpc",
    "/sleep",
    "/wake_up",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/invocations",
    "/ping",
    "/load",
    "/version",
    "/server_info",
    "/reset_prefix_cache",
    "/start_profile",
    "/scale_elastic_ep",
    "/update_weights",
    "/tokenizer_info",
    "/inference/v1/generate",
    "/v1/chat/completions/render",
]
SPELLED = [
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/chat/completions/../../../sleep",
    "/v1/chat/../sleep",
    "/v1/chat/completions/%2e%2e/sleep",
    "/v1/chat/completions%3F/../sleep",
    "/v1/chat/completions%23",
    "/v1/chat/completions;",
    "/V1/chat/completions",
    "/v1/chat%5Ccompletions",
    "/%2Fv1/chat/completions",
    "/v1/responses/../sleep/cancel",
]


@pytest.mark.parametrize("path", [*PRIVATE, *SPELLED])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_other_paths_of_engines_are_not_there(server: Server, method: str, path: str) -> None:
    error_of(await server.raw(method, path), 404, "route_not_found")


@pytest.mark.parametrize("path", ["/v1%2Fchat/completions", "/v1/chat/complet%69ons", "/v1/chat/completions%0A"])
async def test_engine_is_asked_for_the_path_of_the_list_however_it_was_spelled(server: Server, path: str) -> None:
    answer = await server.raw("POST", path, json={"model": "chat"})
    assert answer.json()["target"] == "/v1/chat/completions"


@pytest.mark.parametrize("id_", ["..", ".", "%2e%2e", "a%2Fb", "..%2Fsleep", "%3Fa", "a%0Ab", "a b", "%C3%9F"])
async def test_odd_id_reaches_no_replica(server: Server, id_: str) -> None:
    for method, path in (("GET", f"/v1/responses/{id_}"), ("POST", f"/v1/responses/{id_}/cancel")):
        answer = await server.raw(method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] in ("response_not_found", "route_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/responses/resp_1", "GET"),
        ("GET", "/v1/responses/resp_1/cancel", "POST"),
        ("POST", "/v1/models", "GET"),
    ],
)
async def test_wrong_method_is_a_405_that_names_the_right_one(
    server: Server, method: str, path: str, allowed: str
) -> None:
    answer = await server.ask(method, path)
    error_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


async def test_query_goes_on_to_the_engine(server: Server) -> None:
    told = (await server.ask("POST", "/v1/messages?beta=true&a=%2F", json={"model": "chat"})).json()
    assert told["target"] == "/v1/messages?beta=true&a=%2F"


async def test_applications_prefix_is_not_part_of_the_path(server: Server) -> None:
    server.root = "/ops"
    assert (await server.ask("POST", "/tokenize", json={"model": "chat"})).json()["target"] == "/tokenize"


async def test_form_goes_on_as_it_came(server: Server) -> None:
    told = (await server.ask("POST", "/v1/audio/transcriptions", content=AUDIO, headers=FORM)).json()
    assert told["to"] == "transcription"
    assert told["body"].encode("latin-1") == AUDIO
    assert told["headers"]["content-type"] == FORM["content-type"]


async def test_error_under_messages_is_anthropics_too(server: Server) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = await server.ask("POST", path, json={"model": "nope"})
        error_of(answer, 404, "model_not_found", "model")
        assert answer.json()["type"] == "error"
    answer = await server.ask("POST", "/v1/chat/completions", json={"model": "nope"})
    assert answer.json().keys() == {"error"}


# Follow-ups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/responses/resp_1?stream=true&starting_after=3"), ("POST", "/v1/responses/resp_1/cancel")],
)
async def test_follow_up_goes_to_the_replica_that_holds_the_response(server: Server, method: str, path: str) -> None:
    await server.responses.keep("resp_1", "chat", REPLICA)
    told = (await server.ask(method, path)).json()
    assert (told["to"], told["method"], told["target"], told["body"]) == (REPLICA.url, method, path, "")


async def test_follow_up_of_a_response_that_nobody_knows_is_a_404(server: Server) -> None:
    for method, path in (("GET", "/v1/responses/resp_1"), ("POST", "/v1/responses/resp_1/cancel")):
        answer: Any = await server.ask(method, path)
        assert "resp_1" in error_of(answer, 404, "response_not_found", "id")["message"]
