from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from ingress.cli import serve
from ingress.launch import _options
from tests.cli.conftest import Run
from tests.cli.test_config import GOOD, written
from tests.cli.test_main import python


@pytest.mark.parametrize("config", ["serve_config.yaml", "-odd.yaml"])
@pytest.mark.parametrize(("host", "port"), [(None, None), ("::1", None), (None, 9001), ("0.0.0.0", 1)])
def test_launch_reads_what_serve_writes(config: str, host: str | None, port: int | None) -> None:
    command = serve.launch(config, host, port)
    assert command[:4] == [sys.executable, "-u", "-m", "ingress.launch"]
    read = _options(command[4:])
    assert (str(read.config), read.host, read.port) == (config, host, port)


def test_haproxy_is_chosen_in_the_environment() -> None:
    assert serve.environment({"A": "1"}, False) == {"A": "1"}
    assert serve.environment({"A": "1"}, True) == {"A": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}


def test_launch_takes_the_place_of_the_command_and_listens_where_it_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, http="{port: 1}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = python("-m", "ingress.cli", "serve", str(path), "--port", port)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Port {port} on 127.0.0.1 is taken")


def test_haproxy_needs_keys_before_anything_starts(tmp_path: Path) -> None:
    ended = python("-m", "ingress.cli", "serve", str(written(tmp_path, GOOD)), "--haproxy", LLM_MANAGER_KEYS="")
    assert ended.returncode == 2
    assert "HAProxy listens beyond this machine" in ended.stderr


def test_port_and_configuration_that_cannot_be_are_wrong_usage(cli: Run, tmp_path: Path) -> None:
    assert cli("serve", str(written(tmp_path, GOOD)), "--port", "0").status == 2
    assert cli("serve", str(tmp_path / "none.yaml")).status == 2
