"""LoRA adapters beside their base model."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from deployments.engines import EngineSpec
from deployments.engines.mlx import MLXEngine
from deployments.engines.mlx.jobs import Job, Sampling
from deployments.errors import EngineFailed, ModelNotFound
from tests.engines.conftest import eventually
from tests.engines.lora_folders import LAYERS, RANK, WIDTH, matrices, mlx_lm, peft

BODY: dict[str, Any] = {"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
async def engine(smollm2: Path) -> AsyncIterator[MLXEngine]:
    engine = MLXEngine(EngineSpec(("m", "alias"), smollm2, max_adapters=2))
    await engine.start()
    yield engine
    await engine.stop()


def client(engine: MLXEngine) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(engine.app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60)


async def complete(engine: MLXEngine, model: str, **more: Any) -> str:
    async with client(engine) as http:
        response = await http.post("/v1/completions", json={**BODY, "model": model, **more})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == model
    return str(answer["choices"][0]["text"])


async def logprobs(engine: MLXEngine, model: str) -> list[float]:
    async with client(engine) as http:
        response = await http.post("/v1/completions", json={**BODY, "model": model, "logprobs": 1})
    found: list[float] = response.json()["choices"][0]["logprobs"]["token_logprobs"]
    return found


async def test_adapter_answers_under_its_name_and_the_base_as_before(engine: MLXEngine, tmp_path: Path) -> None:
    before = await complete(engine, "m")
    assert before.startswith(" Paris")
    await engine.load_adapter("poet", peft(tmp_path))
    adapted, base = await asyncio.gather(complete(engine, "poet"), complete(engine, "m"))
    assert adapted != before
    assert base == before
    await engine.check_health()
    await engine.unload_adapter("poet")
    async with client(engine) as http:
        gone = await http.post("/v1/completions", json={**BODY, "model": "poet"})
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    assert await complete(engine, "alias") == before


async def test_both_formats_answer_alike(engine: MLXEngine, tmp_path: Path) -> None:
    await engine.load_adapter("peft", peft(tmp_path / "a"))
    await engine.load_adapter("mlx", mlx_lm(tmp_path / "b"))
    assert await logprobs(engine, "peft") == await logprobs(engine, "mlx")
    await engine.unload_adapter("peft")
    await engine.load_adapter("peft", peft(tmp_path / "c", use_rslora=True, lora_alpha=2 * RANK**0.5))
    assert await logprobs(engine, "peft") == await logprobs(engine, "mlx")
    for name in ("peft", "mlx"):
        await engine.unload_adapter(name)


async def test_adapters_layers_add_the_matrices_product(engine: MLXEngine, tmp_path: Path) -> None:
    await engine.load_adapter("poet", peft(tmp_path, seed=3))
    assert engine.generator is not None
    base = dict(engine.generator.model_provider.model.named_modules())
    adapted = dict(engine._generators["poet"].model_provider.model.named_modules())
    x = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)
    for path, (a, b) in matrices(3).items():
        want = np.array(base[path](mx.array(x))) + 2 * (x @ a @ b)
        assert np.allclose(np.array(adapted[path](mx.array(x))), want, rtol=1e-3, atol=1e-2)
    await engine.unload_adapter("poet")


async def test_adapter_shares_the_weights(engine: MLXEngine, tmp_path: Path) -> None:
    before = mx.get_active_memory()
    await engine.load_adapter("poet", peft(tmp_path))
    taken = mx.get_active_memory() - before
    assert taken <= 2 * len(LAYERS) * RANK * WIDTH * 4 + 4096
    assert own_arrays(engine, "poet") == {f"{path}.{name}" for path in LAYERS for name in ("lora_a", "lora_b")}
    await engine.unload_adapter("poet")
    assert mx.get_active_memory() <= before


def own_arrays(engine: MLXEngine, name: str) -> set[str]:
    """What the adapter's model does not share with the base."""
    assert engine.generator is not None
    shared = {id(array) for _, array in tree_flatten(engine.generator.model_provider.model.parameters())}
    adapted = tree_flatten(engine._generators[name].model_provider.model.parameters())
    return {path for path, array in adapted if id(array) not in shared}


async def test_base_and_adapter_progress_side_by_side(engine: MLXEngine, tmp_path: Path) -> None:
    await engine.load_adapter("poet", peft(tmp_path, seed=2))
    await engine.load_adapter("cook", peft(tmp_path / "cook", seed=5))
    counts = dict.fromkeys(("m", "poet", "cook"), 0)
    enough = asyncio.Event()

    async def stream(name: str) -> None:
        generator = engine._generators[name]
        submission = generator.submit([Job("Once upon a time", Sampling(logit_bias={0: -100, 2: -100}), 500)])
        async for _ in submission:
            counts[name] += 1
            if min(counts.values()) >= 10:
                enough.set()
            if enough.is_set():
                break
        submission.close()

    async with asyncio.timeout(60):
        await asyncio.gather(*map(stream, counts))
    assert enough.is_set()
    for name in ("poet", "cook"):
        await engine.unload_adapter(name)


async def test_unloading_ends_the_adapters_thread_and_its_answers_only(engine: MLXEngine, tmp_path: Path) -> None:
    threads = threading.active_count()
    await engine.load_adapter("poet", peft(tmp_path))
    assert threading.active_count() > threads
    generator = engine._generators["poet"]
    long = {"prompt": "Once", "max_tokens": 4000, "temperature": 1.5}
    async with client(engine) as http:
        waiting = asyncio.create_task(http.post("/v1/completions", json={**long, "model": "poet"}))
        await asyncio.to_thread(eventually, lambda: generator.running == 1)
        await engine.unload_adapter("poet")
        async with asyncio.timeout(5):
            assert (await waiting).status_code == 503
    assert not generator.generation_available()
    assert (await complete(engine, "m")).startswith(" Paris")


async def test_dead_thread_of_an_adapter_fails_the_health_check(smollm2: Path, tmp_path: Path) -> None:
    engine = MLXEngine(EngineSpec(("m",), smollm2, max_adapters=1))
    await engine.start()
    await engine.load_adapter("poet", peft(tmp_path))
    adapter = engine._generators["poet"]
    adapter.requests.put("not a request")
    await asyncio.to_thread(eventually, lambda: not adapter.generation_available())
    with pytest.raises(EngineFailed):
        await engine.check_health()
    async with client(engine) as http:
        assert (await http.get("/health")).status_code == 503
        assert (await http.post("/v1/completions", json={**BODY, "model": "poet"})).status_code == 503
    await engine.stop()


TENSOR = "base_model.model.{}.lora_{}.weight"
BAD: list[tuple[Callable[[Path], Path], str]] = [
    (lambda to: to, "has no adapter_config.json"),
    (lambda to: peft(to, use_dora=True), "use_dora"),
    (lambda to: peft(to, modules_to_save=["lm_head"]), "modules_to_save"),
    (lambda to: peft(to, peft_type="IA3"), "'IA3'"),
    (lambda to: peft(to, bias="all"), "bias 'all'"),
    (lambda to: peft(to, rank_pattern={"q_proj": 2}), "rank_pattern"),
    (lambda to: peft(to, init_lora_weights="pissa_niter_4"), "pissa_niter_4"),
    (lambda to: peft(to, r="8"), "r must be a positive integer, not '8'"),
    (
        lambda to: peft(to, r=8),
        r"lora_a of model\.layers\.28\.self_attn\.o_proj is \(576, 4\) and should be \(576, 8\)",
    ),
    (lambda to: peft(to, lora_alpha=None), "lora_alpha must be a number"),
    (
        lambda to: peft(to, tensors={TENSOR.format(LAYERS[0], "B"): None}),
        r"only one of the two matrices of model\.layers\.28\.self_attn\.q_proj",
    ),
    (
        lambda to: peft(to, tensors={TENSOR.format("model.layers.99.x", c): mx.zeros((4, 4)) for c in "AB"}),
        r"model\.layers\.99\.x, which this model does not have",
    ),
    (
        lambda to: peft(to, tensors={TENSOR.format("model.norm", c): mx.zeros((4, 4)) for c in "AB"}),
        "a RMSNorm: only linear layers",
    ),
    (
        lambda to: peft(to, tensors={"base_model.model.model.embed_tokens.lora_embedding_A": mx.zeros((4, 4))}),
        "embed_tokens.lora_embedding_A is no LoRA matrix of a layer",
    ),
    (lambda to: mlx_lm(to, fine_tune_type="dora"), "'dora'"),
    (lambda to: mlx_lm(to, fine_tune_type="full"), "'full'"),
    (lambda to: mlx_lm(to, lora_parameters=None), "lora_parameters"),
    (lambda to: mlx_lm(to, lora_parameters={"rank": 4, "alpha": 8}), "lora_parameters.scale"),
    (lambda to: mlx_lm(to, tensors={f"{LAYERS[0]}.m": mx.zeros((4,))}), r"q_proj\.m is no LoRA matrix"),
]


@pytest.mark.parametrize(("write", "reason"), BAD, ids=[reason for _, reason in BAD])
async def test_adapter_that_cannot_be_served_is_refused(
    engine: MLXEngine, tmp_path: Path, write: Callable[[Path], Path], reason: str
) -> None:
    threads = threading.active_count()
    with pytest.raises(ValueError, match=reason):
        await engine.load_adapter("bad", write(tmp_path))
    await engine.check_health()
    assert threading.active_count() <= threads
    async with client(engine) as http:
        assert (await http.post("/v1/completions", json={**BODY, "model": "bad"})).status_code == 404
    assert (await complete(engine, "m", max_tokens=1)) == " Paris"


async def test_adapter_without_its_weights_is_refused(engine: MLXEngine, tmp_path: Path) -> None:
    peft(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="cannot be read"):
        await engine.load_adapter("bad", tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors"):
        await engine.load_adapter("bad", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        await engine.load_adapter("bad", tmp_path)


async def test_names_and_room_for_adapters_are_kept(engine: MLXEngine, tmp_path: Path) -> None:
    folder = peft(tmp_path)
    for name in ("m", "alias"):
        with pytest.raises(ValueError, match="taken"):
            await engine.load_adapter(name, folder)
    await asyncio.gather(engine.load_adapter("a", folder), engine.load_adapter("b", folder))
    with pytest.raises(ValueError, match="taken"):
        await engine.load_adapter("a", folder)
    with pytest.raises(ValueError, match="at most 2 adapters"):
        await engine.load_adapter("c", folder)
    for name in ("m", "c"):
        with pytest.raises(ModelNotFound):
            await engine.unload_adapter(name)
    for name in ("a", "b"):
        await engine.unload_adapter(name)


async def test_loaded_adapter_needs_its_folder_no_more(engine: MLXEngine, tmp_path: Path) -> None:
    folder = peft(tmp_path / "a")
    await engine.load_adapter("poet", folder)
    before = await complete(engine, "poet")
    shutil.rmtree(folder)
    assert await complete(engine, "poet") == before
    await engine.unload_adapter("poet")
