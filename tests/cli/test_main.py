"""What all commands have in common: exit statuses, --url, keys, --json, pipes, colours."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from ingress.cli.main import COMMANDS
from tests.cli.conftest import Run
from tests.cli.server import Server
from tests.cli.test_ps import model

ROOT = Path(__file__).parents[2]
ASKING = [
    ("ps",),
    ("run", "m", "hello"),
    ("start", "m"),
    ("stop", "m"),
    ("stop", "--all"),
    ("pin", "m"),
    ("unpin", "m"),
    ("logs", "m"),
    ("devices",),
    ("usage",),
    ("requests",),
    ("cancel", "1"),
    ("ps", "--watch"),
]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60)


def test_project_s_script_is_the_command_line() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"llm-manager": "ingress.cli.main:main"}


def test_nothing_heavy_is_imported() -> None:
    names = ", ".join(f"ingress.cli.{module}" for module in sorted({*COMMANDS.values(), "chat", "__init__"}))
    script = f"import sys, {names}; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in python("-c", script).stdout.split()}
    assert "click" in loaded
    assert not loaded & {"ray", "fastapi", "starlette", "pydantic", "yaml", "psutil", "huggingface_hub", "mlx", "numpy"}


def test_help_names_every_command_and_its_purpose(cli: Run) -> None:
    ended = cli("--help")
    assert ended.status == 0
    listed = [line.split()[0] for line in ended.out.partition("Commands:")[2].strip().splitlines()]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", ASKING)
def test_server_that_is_not_there_is_status_3(cli: Run, command: tuple[str, ...]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        ended = cli(*command, "--url", url)
    assert ended.status == 3
    assert ended.err.startswith(f"Error: {url} cannot be reached: ")
    assert "Connection refused" in ended.err
    assert ended.out == ""


@pytest.mark.parametrize("command", ASKING)
@pytest.mark.parametrize(("status", "exit_status"), [(401, 4), (403, 4), (404, 1), (429, 1), (500, 1), (503, 1)])
def test_refusal_is_told_with_its_code(
    cli: Run, server: Server, command: tuple[str, ...], status: int, exit_status: int
) -> None:
    for route in (
        "GET /api/models",
        "GET /api/models/stream",
        "GET /api/models/m/logs/stream",
        "GET /api/devices/info",
        "GET /api/usage",
        "GET /api/requests",
        "POST /api/requests/1/cancel",
        "POST /api/models/stop-all",
        *(f"POST /api/models/m/{action}" for action in ("start", "stop", "pin", "unpin")),
        "POST /v1/chat/completions",
    ):
        server.refuses(route, status, "Not so.", "some_code")
    ended = cli(*command)
    assert (ended.status, ended.out) == (exit_status, "")
    assert ended.err == "Error: Not so. [some_code]\n"


def test_missing_key_is_told_with_the_remedy(cli: Run, server: Server) -> None:
    server.refuses("GET /api/models", 401, "A key is needed.", "invalid_api_key")
    assert "LLM_MANAGER_KEY" in cli("ps").err


def test_key_of_the_environment_is_sent(cli: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.says("GET /api/models", {"models": []})
    assert cli("ps").status == 0
    assert "authorization" not in server.asked[0].headers
    monkeypatch.setenv("LLM_MANAGER_KEY", " sk-1 ")
    assert cli("ps").status == 0
    assert server.asked[1].headers["authorization"] == "Bearer sk-1"
    monkeypatch.setenv("LLM_MANAGER_KEY", "a\nb")
    assert cli("ps").status == 2
    assert len(server.asked) == 2


def test_url_may_have_a_prefix(cli: Run, server: Server) -> None:
    server.says("GET /ops/api/models", {"models": []})
    assert cli("ps", "--url", f"{server.url}/ops/").status == 0


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a", "http://", "http://a:b", "http://a/?b=1"])
def test_url_that_is_none_is_wrong_usage(cli: Run, url: str) -> None:
    ended = cli("ps", "--url", url)
    assert ended.status == 2
    assert "Invalid value for '--url'" in ended.err


@pytest.mark.parametrize(
    "command",
    [
        ("nothing",),
        ("ps", "--nothing"),
        ("ps", "m"),
        ("start",),
        ("stop",),
        ("stop", "m", "--all"),
        ("logs",),
        ("cancel",),
    ],
)
def test_wrong_usage_is_status_2(cli: Run, server: Server, command: tuple[str, ...]) -> None:
    assert cli(*command).status == 2
    assert server.asked == []


def test_answer_of_something_else_is_told_as_such(cli: Run, server: Server) -> None:
    server.says("GET /api/models", b"<html>")
    ended = cli("ps")
    assert ended.status == 1
    assert "is no LLM-Manager" in ended.err
    server.says("GET /api/models", b"<html>Bad gateway\n</html>", 502)
    assert cli("ps").err == "Error: The answer was 502 <html>Bad gateway\n"


def test_version_is_the_package_s(cli: Run) -> None:
    number = metadata.version("llm-manager")
    assert cli("version").out == f"llm-manager {number}\n"
    assert json.loads(cli("version", "--json").out) == {"version": number}


def test_reader_that_has_gone_is_no_error(server: Server) -> None:
    server.says("GET /api/models", {"models": [model(f"m{i}") for i in range(2000)]})
    command = f"{sys.executable} -m ingress.cli ps --url {server.url} | head -1; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines()[1:] == ["0"]
    assert ended.stderr == ""
