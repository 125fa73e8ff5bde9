from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_main import ROOT, python

GOOD = "[{name: a, engine: echo}]"
POLICY = "autoscaling_policy: {policy_function: 'deployments.residency:ResidencyPolicy', policy_kwargs: %s}"


def written(folder: Path, models: str, args: str = "", application: str = "", http: str = "{}") -> Path:
    path = folder / "serve.yaml"
    path.write_text(
        f"http_options: {http}\napplications:\n"
        f"- import_path: ingress.app:build\n  {application}\n  args:\n    {args}\n    models: {models}\n"
    )
    return path


def test_good_configuration_has_no_mistakes(cli: Run, tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    ended = cli("config", "check", str(path))
    assert (ended.status, ended.out) == (0, f"{path}: no mistakes; 1 model.\n")
    assert json.loads(cli("config", "check", str(path), "--json").out) == {"valid": True, "mistakes": [], "models": 1}


def test_project_s_own_configuration_is_good(cli: Run) -> None:
    assert cli("config", "check", str(ROOT / "serve_config.yaml")).status == 0


def test_every_mistake_is_told_with_its_path(cli: Run, tmp_path: Path) -> None:
    path = written(tmp_path, "[{name: a, engine: echo, colour: red}, {name: a b, engine: echo}]")
    ended = cli("config", "check", str(path))
    assert (ended.status, ended.out) == (1, "")
    first, second = ended.err.splitlines()
    assert first.startswith(f"{path}: models[0].colour: ")
    assert second.startswith(f"{path}: models[1].name: ")
    ended = cli("config", "check", str(path), "--json")
    assert ended.status == 1
    told = json.loads(ended.out)
    assert not told["valid"]
    assert [mistake.partition(":")[0] for mistake in told["mistakes"]] == ["models[0].colour", "models[1].name"]


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ({"http": "{host: 0.0.0.0}"}, "http_options.host (0.0.0.0) listens beyond this machine"),
        ({"application": POLICY % "{max_concurrent_models: 0}"}, "policy_kwargs: max_concurrent_models must be"),
        ({"application": POLICY % "{colour: red}"}, "policy_kwargs: "),
        ({"args": "keys: [{name: a, key_env: NOBODY_HAS_IT}]"}, "keys[0].key_env: "),
        ({"application": "{"}, "serve.yaml: "),
    ],
)
def test_all_that_the_server_checks_is_checked(cli: Run, tmp_path: Path, given: dict[str, str], mistake: str) -> None:
    ended = cli("config", "check", str(written(tmp_path, GOOD, **given)))
    assert ended.status == 1
    assert mistake in ended.err


def test_file_that_is_not_there_is_wrong_usage(cli: Run, tmp_path: Path) -> None:
    assert cli("config", "check", str(tmp_path / "none.yaml")).status == 2


def test_ray_is_not_even_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from ingress.cli.main import run; status = run(sys.argv[1:]); "
        "print(status, sorted({'ray', 'fastapi'} & set(sys.modules)))"
    )
    ended = python("-c", script, "config", "check", str(written(tmp_path, GOOD)))
    assert ended.stdout.splitlines()[-1] == "0 []"
