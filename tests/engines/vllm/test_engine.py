from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest

from deployments.engines import EngineSpec
from deployments.engines.vllm.engine import VLLMEngine
from deployments.errors import EngineFailed
from deployments.processes import is_alive
from tests.engines.vllm.serving import SMALL, Loop, Served, await_that, processes, same_environment


@pytest.fixture
def loop(served: Served) -> Loop:
    return served.loop


def test_engine_says_its_context_and_counts_no_memory_twice(served: Served) -> None:
    assert served.engine.context_length == 1024
    assert served.engine.device_mb() == 0


def test_engine_that_has_not_started_is_not_healthy_and_can_be_stopped(loop: Loop, smollm2: Path) -> None:
    engine = VLLMEngine(EngineSpec(("smol",), smollm2))
    with pytest.raises(EngineFailed, match="not started"):
        loop.run(engine.check_health())
    with pytest.raises(RuntimeError):
        _ = engine.app
    loop.run(engine.stop())


def test_engine_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="folder"):
        VLLMEngine(EngineSpec(("smol",)))


def test_failed_start_says_why_and_leaves_no_process(loop: Loop, smollm2: Path, tmp_path: Path) -> None:
    before = processes()
    folder = shutil.copytree(smollm2, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Nobody"]}))
    engine = VLLMEngine(EngineSpec(("other",), folder, SMALL))
    with same_environment(), pytest.raises(Exception, match="Nobody"):
        loop.run(engine.start())
    loop.run(engine.stop())
    assert processes() == before


def test_stop_in_the_midst_of_a_start_leaves_no_process(loop: Loop, smollm2: Path) -> None:
    before = processes()
    engine = VLLMEngine(EngineSpec(("smol",), smollm2, SMALL))
    with same_environment():
        start = asyncio.run_coroutine_threadsafe(engine.start(), loop.loop)
        await_that("it has a process", lambda: processes() > before, 60)
        begun = processes() - before
        start.cancel()
        began = time.monotonic()
        loop.run(engine.stop())
    assert time.monotonic() - began < 5
    assert not any(map(is_alive, begun))
    assert processes() == before


def test_stop_leaves_no_process(served: Served) -> None:
    """The last test of this engine."""
    assert len(served.family) > 1
    began = time.monotonic()
    served.loop.run(served.engine.stop())
    assert time.monotonic() - began < 5
    assert not any(map(is_alive, served.family))
