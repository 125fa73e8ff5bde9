from __future__ import annotations

import socket
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from deployments.config import ConfigError
from ingress.launch import changed, checked, dead_ray, is_free, main, read

OURS = """
  - name: ours
    import_path: ingress.app:build
    args: {models: [{name: a, engine: echo}]}
"""
OTHER = """
  - name: other
    import_path: other.app:build
    args: {anything: 1}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "serve.yaml"
    path.write_text(dedent(text))
    return path


def test_settings_and_address_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, f"http_options: {{host: 0.0.0.0, port: 9001}}\napplications:{OURS}")
    settings, host, port = read(path)
    assert [model.name for model in settings.models] == ["a"]
    assert (host, port) == ("0.0.0.0", 9001)


@pytest.mark.parametrize("options", ["", "http_options:\n", "http_options: {}\n"])
def test_address_has_serves_defaults(tmp_path: Path, options: str) -> None:
    _, host, port = read(written(tmp_path, f"{options}applications:{OURS}"))
    assert (host, port) == ("127.0.0.1", 8000)


def test_applications_of_others_are_not_looked_at(tmp_path: Path) -> None:
    settings, _, _ = read(written(tmp_path, f"applications:{OTHER}{OURS}"))
    assert [model.name for model in settings.models] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "not a Serve configuration", id="empty"),
        pytest.param("- 1", "not a Serve configuration", id="a list"),
        pytest.param("a: 1", "must be a list of applications", id="no applications"),
        pytest.param(f"applications:{OTHER}", "has 0", id="only another's"),
        pytest.param(f"applications:{OURS}{OURS}", "has 2", id="twice"),
        pytest.param(f"http_options: {{port: http}}\napplications:{OURS}", "http", id="a port in words"),
    ],
)
def test_file_that_serve_could_not_run_is_a_value_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("applications:", id="null applications"),
        pytest.param("applications: [1]", id="an application that is a number"),
        pytest.param(f"http_options: 5\napplications:{OURS}", id="http_options that are a number"),
    ],
)
def test_file_of_another_shape_is_a_value_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(written(tmp_path, text))


def test_mistakes_in_args_carry_their_path(tmp_path: Path) -> None:
    path = written(tmp_path, "applications: [{import_path: 'ingress.app:build', args: {models: [{name: a b}]}}]")
    with pytest.raises(ConfigError, match=r"models\[0\]\.name: "):
        read(path)


def test_application_without_args_is_told_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="models: Field required"):
        read(written(tmp_path, "applications: [{import_path: 'ingress.app:build'}]"))


def test_text_that_is_not_yaml_and_missing_file_raise_what_main_reports(tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError):
        read(written(tmp_path, "a: [1"))
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.yaml")


def test_port_is_taken_while_somebody_listens_and_free_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        assert not is_free("0.0.0.0", port)
    assert is_free("127.0.0.1", port)


def test_port_is_free_although_old_connections_linger_on_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listening.accept()
            accepted.close()  # this side closes first: its end stays in TIME_WAIT
    assert is_free("127.0.0.1", port)


def test_address_that_is_not_this_machines_is_not_free() -> None:
    assert not is_free("192.0.2.1", 0)


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """Where `ray start` notes its address."""
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_ray_that_was_killed_is_not_waited_for(tmp_path: Path, noted: Path) -> None:
    env = {"RAY_TMPDIR": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        noted.write_text(f"{address}\n")
        assert dead_ray(env) is None
    assert dead_ray(env) == address
    assert dead_ray({**env, "RAY_ADDRESS": "auto"}) is None, "as the operator says"


@pytest.mark.parametrize("text", ["", "nowhere", "::"])
def test_note_that_names_no_ray_is_one_of_a_dead_one(tmp_path: Path, noted: Path, text: str) -> None:
    noted.write_text(text)
    assert dead_ray({"RAY_TMPDIR": str(tmp_path)}) == text


def test_without_a_note_serve_looks_by_itself(tmp_path: Path) -> None:
    assert dead_ray({"RAY_TMPDIR": str(tmp_path)}) is None


def test_server_for_others_without_keys_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, f"http_options: {{host: 0.0.0.0}}\napplications:{OURS}")
    assert main([str(path)]) == 2
    assert "http_options.host (0.0.0.0) listens beyond this machine" in capsys.readouterr().err
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    assert main([str(written(tmp_path, f"applications:{OURS}"))]) == 2
    assert "HAProxy listens beyond this machine" in capsys.readouterr().err


def test_keys_of_the_environment_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MANAGER_KEYS", "sk-0123456789abcdef")
    settings, _, _ = read(written(tmp_path, f"applications:{OURS}"))
    assert [key.name for key in settings.keys] == ["environment-1"]
    monkeypatch.setenv("LLM_MANAGER_KEYS", "short")
    with pytest.raises(ConfigError, match="its key 1 is shorter"):
        read(written(tmp_path, f"applications:{OURS}"))


def test_other_host_and_port_come_before_the_file_s(tmp_path: Path) -> None:
    path = written(tmp_path, f"http_options: {{host: 127.0.0.1, root_path: /x}}\napplications:{OURS}")
    assert checked(path, {"port": 9001})[1:] == ("127.0.0.1", 9001)
    with pytest.raises(ConfigError, match=r"http_options\.host \(0\.0\.0\.0\)"):
        checked(path, {"host": "0.0.0.0"})
    with changed(path, {"port": 9001}) as file:
        data = yaml.safe_load(file.read_text())
        assert data["http_options"] == {"host": "127.0.0.1", "root_path": "/x", "port": 9001}
        assert data["applications"] == yaml.safe_load(path.read_text())["applications"]
    assert not file.exists()
    with changed(path, {}) as file:
        assert file == path


@pytest.mark.parametrize(
    ("kwargs", "message"), [("{max_concurrent_models: 0}", "at least 1"), ("{colour: red}", "colour"), ("null", None)]
)
def test_policy_s_mistakes_are_found_before_it_is_made(tmp_path: Path, kwargs: str, message: str | None) -> None:
    policy = f"{{policy_function: 'deployments.residency:ResidencyPolicy', policy_kwargs: {kwargs}}}"
    path = written(tmp_path, f"applications:{OURS}    autoscaling_policy: {policy}\n")
    if message is None:
        assert read(path).port == 8000
        return
    with pytest.raises(ConfigError, match=rf"autoscaling_policy\.policy_kwargs: .*{message}"):
        read(path)
