"""The routes over parts that answer at once: they answer what the document says, whatever they are asked."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

import pytest

from deployments.cache import wire
from deployments.config import ModelConfig, Settings
from deployments.history.past import Past
from ingress.auth import Access
from ingress.limits import Limits
from tests.openapi.conformance import conforms, operations, schema_of
from tests.test_app import Keeper, NoKeeper, Server, served
from tests.test_outbox import record

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from within Ray's own modules
    from ingress.app import api

MODELS = (
    ModelConfig(name="org/chat", aliases=("parrot",), engine="echo", auto_start=True),
    ModelConfig(name="embedding", engine="echo", mode="embedding"),
    ModelConfig(name="rerank", engine="vllm", mode="rerank"),
    ModelConfig(name="transcription", engine="vllm", mode="transcription"),
)
SCHEMA = schema_of(api.openapi(), ["org/chat", "parrot", "embedding", "rerank", "transcription", "nope"])
SCHEMA.app = api
SAID: dict[str, Any] = {
    "/usage/sums": {"totals": {"requests": 1}, "groups": []},
    "/usage/throughput": {"rows": [], "since": 0.0, "until": 60.0, "bucket_s": 1},
    "/usage/recent": {"rows": [asdict(record())]},
    "/activity/requests": {"running": [], "tokens_per_second": {"org/chat": 1.5}},
    "/activity/cancel": {"found": True},
    "/history": {"success": True, "message": "30 points", **Past().told(60, 1e9)},
    "/logs/stats": {},
    "/logs/clear": {"deleted": 1},
    wire.STATS: {"entries": 0},
    wire.CLEAR: 0,
}


class Kept(Keeper):
    async def ask(self, path: str, data: Any = None, *, within_s: float = 5.0) -> Any:
        return SAID[path]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = served(monkeypatch, Settings(models=MODELS, max_body_mb=0.01), Kept())
    server.access = Access((), Limits(NoKeeper(), "one"), without_keys=True)  # the client has no address
    return server


@pytest.mark.parametrize(("method", "path"), [one for one in operations(api.openapi()) if one[1] != "/metrics"])
def test_answers_are_those_of_the_document(server: Server, method: str, path: str) -> None:
    seen = conforms(SCHEMA, method, path, lambda case: case.call(), examples=10)
    assert seen - {401, 403}
