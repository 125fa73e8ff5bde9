from __future__ import annotations

import base64
import time

import numpy as np
import openai
import pytest

from deployments.errors import RETRY_HEADER, EngineFailed
from deployments.processes import is_alive
from tests.engines.vllm.serving import Served, await_that

TEXTS = ["A cat sits on the mat.", "A kitten rests on a rug.", "Shares fell sharply on Monday."]


@pytest.fixture(scope="module")
def client(embeddings: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{embeddings.url}/v1", api_key="-", default_headers=embeddings.headers)


def test_like_texts_have_like_vectors(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=TEXTS, encoding_format="float")
    cat, kitten, shares = (np.array(entry.embedding) for entry in answer.data)
    assert cat.shape == (384,)
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-2)
    assert cat @ kitten > 0.5 > 0.2 > cat @ shares
    assert answer.model == "text-embedding-3-small"
    assert answer.usage.prompt_tokens > 15


def test_base64_holds_the_same_numbers(embeddings: Served) -> None:
    plain, packed = (
        embeddings.post("/v1/embeddings", model="mini", input=TEXTS[0], encoding_format=form).json()["data"][0]
        for form in ("float", "base64")
    )
    numbers = np.frombuffer(base64.b64decode(packed["embedding"]), dtype=np.float32)
    assert np.allclose(numbers, plain["embedding"], atol=1e-6)


def test_fewer_dimensions_are_refused_where_the_model_has_not_learnt_them(embeddings: Served) -> None:
    response = embeddings.post("/v1/embeddings", model="mini", input="a", dimensions=64)
    assert response.status_code == 400
    assert "matryoshka" in response.json()["error"]["message"].lower()


def test_score_and_rerank_prefer_what_is_alike(embeddings: Served) -> None:
    scored = embeddings.post("/v1/score", model="mini", queries=TEXTS[0], documents=TEXTS[1:])
    assert scored.status_code == 200, scored.text
    like, unlike = (entry["score"] for entry in scored.json()["data"])
    assert like > unlike
    ranked = embeddings.post("/v1/rerank", model="mini", query=TEXTS[0], documents=TEXTS[:0:-1], top_n=1)
    assert ranked.status_code == 200, ranked.text
    (best,) = ranked.json()["results"]
    assert best["document"]["text"] == TEXTS[1]


def test_unknown_name_and_other_modes_routes_are_not_served(embeddings: Served) -> None:
    assert embeddings.post("/v1/embeddings", model="nobody", input="a").status_code == 404
    chat = embeddings.post("/v1/chat/completions", model="mini", messages=[{"role": "user", "content": "a"}])
    assert chat.status_code == 404


def test_engine_that_is_killed_is_unhealthy_and_its_requests_may_go_elsewhere(embeddings: Served) -> None:
    """The last test of this engine."""
    embeddings.loop.run(embeddings.engine.check_health())
    core = next(process for process in embeddings.family if "EngineCore" in process.cmdline()[0])
    core.kill()
    await_that("its death is seen", lambda: embeddings.engine._engine.errored, 5)
    with pytest.raises(EngineFailed):
        embeddings.loop.run(embeddings.engine.check_health())
    response = embeddings.post("/v1/embeddings", model="mini", input="a")
    assert response.status_code == 503
    assert response.headers[RETRY_HEADER] == "1"
    assert response.json()["error"]["code"] == "engine_failed"
    began = time.monotonic()
    embeddings.loop.run(embeddings.engine.stop())
    assert time.monotonic() - began < 5
    assert not any(map(is_alive, embeddings.family))
