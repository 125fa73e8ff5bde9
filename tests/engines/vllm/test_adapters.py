from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.errors import InvalidRequest
from tests.engines.vllm.serving import Served, await_that, write_adapter


def test_adapters_and_their_base_answer_side_by_side(served: Served, smollm2: Path, tmp_path: Path) -> None:
    base = served.said()
    for seed, name in enumerate(("org/first", "second")):
        served.loop.run(served.engine.load_adapter(name, write_adapter(tmp_path / str(seed), smollm2, seed)))
    try:
        with ThreadPoolExecutor() as pool:
            names = ["smol", "org/first", "second"] * 2
            answers = list(pool.map(served.chat, names))
        assert [answer["model"] for answer in answers] == names
        said = [answer["choices"][0]["message"]["content"] for answer in answers]
        assert said[:3] == said[3:]
        assert said[0] == base
        assert len(set(said)) == 3
    finally:
        for name in ("org/first", "second"):
            served.loop.run(served.engine.unload_adapter(name))


def test_adapter_that_is_unloaded_is_unknown(served: Served, smollm2: Path, tmp_path: Path) -> None:
    served.loop.run(served.engine.load_adapter("gone", write_adapter(tmp_path / "a", smollm2, 1)))
    served.loop.run(served.engine.unload_adapter("gone"))
    assert served.post("/v1/completions", model="gone", prompt="a").status_code == 404
    assert served.loop.run(served.engine._engine.list_loras()) == []
    with pytest.raises(InvalidRequest, match="cannot be found"):
        served.loop.run(served.engine.unload_adapter("gone"))


def test_adapter_whose_files_have_changed_is_loaded_anew(served: Served, smollm2: Path, tmp_path: Path) -> None:
    """Also what vLLM keeps of prompts, computed with the weights before."""
    prompt = "Tell me, in a word or two, " * 20
    said = []
    for seed in (1, 2):
        folder = write_adapter(tmp_path / str(seed), smollm2, seed)
        adapter = folder.rename(tmp_path / "adapter")
        served.loop.run(served.engine.load_adapter("changing", adapter))
        said.append(served.said("changing", content=prompt, max_tokens=4))
        served.loop.run(served.engine.unload_adapter("changing"))
        adapter.rename(tmp_path / f"before-{seed}")
    assert said[0] != said[1]


def test_adapter_that_does_not_fit_is_refused_with_the_reason(served: Served, smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="adapter"):
        served.loop.run(served.engine.load_adapter("empty", tmp_path))
    with pytest.raises(InvalidRequest, match="conflicts"):
        served.loop.run(served.engine.load_adapter("smol", write_adapter(tmp_path / "a", smollm2, 1)))
    assert served.said() == "The capital of France is Paris."


def test_no_more_adapters_than_the_model_was_started_for(served: Served, smollm2: Path, tmp_path: Path) -> None:
    """And an answer that an adapter has begun is finished by it."""
    for seed, name in enumerate(("first", "second")):
        served.loop.run(served.engine.load_adapter(name, write_adapter(tmp_path / name, smollm2, seed)))
    third = write_adapter(tmp_path / "third", smollm2, 3)
    with pytest.raises(InvalidRequest, match="at most 2 adapters"):
        served.loop.run(served.engine.load_adapter("third", third))
    with ThreadPoolExecutor() as pool:
        long = pool.submit(served.chat, "first", max_tokens=30, ignore_eos=True)
        await_that("it is being answered", lambda: served.unfinished)
        served.loop.run(served.engine.unload_adapter("first"))
        assert long.done() or not served.unfinished
        assert long.result()["usage"]["completion_tokens"] == 30
    served.loop.run(served.engine.load_adapter("third", third))
    assert served.said() == "The capital of France is Paris."
    for name in ("second", "third"):
        served.loop.run(served.engine.unload_adapter(name))
