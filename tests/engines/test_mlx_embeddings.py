"""An embedding model: its vectors, its route and its thread."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.engines import EngineSpec
from deployments.engines.mlx import EmbeddingEngine, MLXEngine, create
from deployments.errors import EngineFailed, InternalError, ModelNotFound
from tests.engines.bad_requests import EMBEDDING_NEEDS_MODEL
from tests.engines.conftest import eventually

TEXTS = ["The cat sits outside.", "A feline rests in the garden.", "ß 🦙"]

# Computed with transformers on PyTorch: mean of the last layer's tokens, length 1.
FIRST = [
    [0.13884, 0.00013, 0.04263, 0.04575, -0.05863, -0.00674],
    [0.08261, 0.00529, 0.01223, 0.07135, 0.00172, 0.04416],
]
COSINES = {(0, 1): 0.5312, (0, 2): -0.0395, (1, 2): -0.0799}


@pytest.fixture(scope="module")
async def engine(minilm: Path) -> AsyncIterator[EmbeddingEngine]:
    engine = EmbeddingEngine(EngineSpec(("mini", "org/mini:alias"), minilm, {"prefill_step_size": 64}, "embedding"))
    await engine.start()
    yield engine
    await engine.stop()


async def post(engine: EmbeddingEngine, **body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(engine.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as http:
        return await http.post("/v1/embeddings", json={"model": "mini", **body})


async def vectors(engine: EmbeddingEngine, given: Any, **body: Any) -> np.ndarray[Any, Any]:
    response = await post(engine, input=given, **body)
    assert response.status_code == 200, response.text
    return np.array([entry["embedding"] for entry in response.json()["data"]])


async def test_vectors_are_those_of_the_reference(engine: EmbeddingEngine) -> None:
    found = await vectors(engine, TEXTS)
    assert found.shape == (3, 384)
    assert np.allclose(found[:2, :6], FIRST, atol=1e-4)
    for (i, j), cosine in COSINES.items():
        assert found[i] @ found[j] == pytest.approx(cosine, abs=2e-4)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


async def test_answer_has_openais_shape(engine: EmbeddingEngine) -> None:
    response = await post(engine, input=TEXTS, model="org/mini:alias")
    answer = response.json()
    assert {key: answer[key] for key in ("object", "model")} == {"object": "list", "model": "org/mini:alias"}
    assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [("embedding", i) for i in range(3)]
    assert answer["usage"] == {"prompt_tokens": 21, "total_tokens": 21}
    assert engine.context_length == 256


async def test_neighbours_in_a_batch_do_not_change_a_vector(engine: EmbeddingEngine) -> None:
    alone = await vectors(engine, TEXTS[0])
    padded = await vectors(engine, [TEXTS[0], "a long text " * 20])
    assert np.allclose(alone[0], padded[0], atol=1e-5)


async def test_tokens_and_their_text_have_the_same_vector(engine: EmbeddingEngine) -> None:
    tokens = [101, 1996, 4937, 7719, 2648, 1012, 102]
    text = await vectors(engine, TEXTS[0])
    assert np.allclose(await vectors(engine, tokens), text, atol=1e-5)
    assert np.allclose((await vectors(engine, [tokens, [101, 102]]))[0], text[0], atol=1e-5)


async def test_base64_holds_the_same_numbers(engine: EmbeddingEngine) -> None:
    response = await post(engine, input=TEXTS[0], encoding_format="base64")
    packed = np.frombuffer(base64.b64decode(response.json()["data"][0]["embedding"]), "<f4")
    assert np.allclose(packed, (await vectors(engine, TEXTS[0], encoding_format="float"))[0], atol=1e-5)


@pytest.mark.parametrize(("body", "param"), EMBEDDING_NEEDS_MODEL)
async def test_bad_request_names_its_field(engine: EmbeddingEngine, body: dict[str, Any], param: str) -> None:
    response = await post(engine, **body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_unknown_model_and_route_are_not_found(engine: EmbeddingEngine) -> None:
    response = await post(engine, input="a", model="other")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(engine.app), base_url="http://engine") as http:
        assert (await http.post("/v1/chat/completions", json={})).status_code == 404
        assert (await http.get("/health")).json() == {"status": "ok"}


async def test_matryoshka_model_shortens_its_vectors(minilm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(minilm, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [64, 8]}))
    engine = EmbeddingEngine(EngineSpec(("mini",), folder, mode="embedding"))
    await engine.start()
    whole, short = await vectors(engine, TEXTS[0]), await vectors(engine, TEXTS[0], dimensions=8)
    assert np.allclose(short[0], whole[0][:8] / np.linalg.norm(whole[0][:8]), atol=1e-5)
    for dimensions in (9, 385):
        response = await post(engine, input="a", dimensions=dimensions)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "dimensions")
    await engine.stop()


async def test_pooling_comes_from_the_folder(minilm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(minilm, tmp_path / "model")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    engine = EmbeddingEngine(EngineSpec(("mini",), folder, mode="embedding"))
    await engine.start()
    vector = (await vectors(engine, TEXTS[0]))[0]
    assert abs(np.linalg.norm(vector) - 1) > 0.1
    assert not np.allclose(vector[:6] / np.linalg.norm(vector), FIRST[0], atol=1e-2)
    await engine.stop()


async def test_requests_that_wait_are_run_together_and_each_gets_its_own(engine: EmbeddingEngine) -> None:
    alone = [(await vectors(engine, text))[0] for text in TEXTS]
    together = await asyncio.gather(*(vectors(engine, text) for text in TEXTS * 3))
    for found, want in zip(together, alone * 3, strict=True):
        assert np.allclose(found[0], want, atol=1e-5)


async def test_cancelled_texts_are_dropped(engine: EmbeddingEngine) -> None:
    embedder = engine.embedder
    assert embedder is not None
    waiting = asyncio.create_task(embedder.embed([[101] * 50] * 300))
    await asyncio.to_thread(eventually, lambda: len(embedder._waiting) > 0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(30):
        assert (await vectors(engine, TEXTS[0])).shape == (1, 384)


async def test_batch_that_fails_fails_alone(engine: EmbeddingEngine) -> None:
    assert engine.embedder is not None
    with pytest.raises(InternalError):
        await engine.embedder.embed([["no token"]])  # type: ignore[list-item]
    await engine.check_health()
    assert (await vectors(engine, TEXTS[0])).shape == (1, 384)


async def test_stop_ends_the_thread_and_the_waiting_texts(minilm: Path) -> None:
    threads = threading.active_count()
    engine = EmbeddingEngine(EngineSpec(("mini",), minilm, {"prefill_step_size": 64}, "embedding"))
    await engine.start()
    assert engine.embedder is not None
    waiting = asyncio.create_task(engine.embedder.embed([[101] * 50] * 300))
    await asyncio.to_thread(eventually, lambda: len(engine.embedder._waiting) > 0)  # type: ignore[union-attr]
    await engine.stop()
    with pytest.raises(EngineFailed):
        await waiting
    with pytest.raises(EngineFailed):
        await engine.check_health()
    assert (await post(engine, input="a")).status_code == 503
    assert threading.active_count() <= threads + 1  # asyncio's own pool may have grown


async def test_context_is_no_longer_than_the_models_positions(minilm: Path) -> None:
    for asked, length in ((None, 256), (40, 40), (400, 400), (4000, 512)):
        args = {} if asked is None else {"context_length": asked}
        engine = EmbeddingEngine(EngineSpec(("mini",), minilm, args, "embedding"))
        await engine.start()
        assert engine.context_length == length
        await engine.stop()


async def test_adapters_are_refused(engine: EmbeddingEngine, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without adapters"):
        await engine.load_adapter("a", tmp_path)
    with pytest.raises(ModelNotFound):
        await engine.unload_adapter("a")


async def test_start_without_weights_or_folder_tells_why(minilm: Path, tmp_path: Path) -> None:
    engine = EmbeddingEngine(EngineSpec(("mini",), tmp_path, mode="embedding"))
    with pytest.raises(FileNotFoundError):
        await engine.start()
    await engine.stop()
    shutil.copy(minilm / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="No safetensors"):
        await engine.start()
    with pytest.raises(EngineFailed):
        await engine.check_health()
    await engine.stop()


def test_mode_decides_the_engine(tmp_path: Path) -> None:
    assert isinstance(create(EngineSpec(("m",), tmp_path, mode="embedding")), EmbeddingEngine)
    assert isinstance(create(EngineSpec(("m",), tmp_path, mode="completion")), MLXEngine)
    with pytest.raises(ValueError, match="not transcription"):
        create(EngineSpec(("m",), tmp_path, mode="transcription"))
