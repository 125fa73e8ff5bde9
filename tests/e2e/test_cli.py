"""`llm-manager` against a real server with a real model."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.cli.terminal import at_terminal
from tests.e2e.serving import ROOT, Serving, wait_for

APPLICATIONS = ()
MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module", autouse=True)
def _up(serving: Serving) -> None:
    wait_for("the model is up", lambda: serving.statuses()[MODEL] == "running", 180)


def begun(serving: Serving, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ingress.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "LLM_MANAGER_URL": serving.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cli(serving: Serving, *arguments: str, status: int = 0) -> str:
    process = begun(serving, *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return out


def models(serving: Serving) -> dict[str, Any]:
    return {model["name"]: model for model in json.loads(cli(serving, "ps", "--all", "--json"))["models"]}


def test_model_answers(serving: Serving) -> None:
    assert "Paris" in cli(serving, "run", MODEL, QUESTION, "--temperature", "0")
    chunks = cli(serving, "run", "gpt-3.5-turbo", QUESTION, "--max-tokens", "2", "--json").splitlines()
    assert json.loads(chunks[-1])["usage"]["completion_tokens"] == 2


def test_chat_remembers_at_a_terminal(serving: Serving) -> None:
    environment = {"LLM_MANAGER_URL": serving.url}
    with at_terminal("run", "org/echo", "--verbose", environment=environment) as terminal:
        terminal.wait(">>> ")
        terminal.type("first words\n")
        terminal.wait("first words")  # typed
        terminal.wait("first words")  # answered
        terminal.wait("first token after ")
        terminal.wait(">>> ")
        terminal.type("/bye\n")
        assert terminal.ended() == 0


def test_models_are_started_shown_and_stopped(serving: Serving) -> None:
    assert "org/echo" in cli(serving, "start", "org/echo")
    shown = cli(serving, "ps")
    assert {MODEL, "org/echo"} <= {line.split()[0] for line in shown.splitlines()}
    assert models(serving)["org/echo"]["status"] == "running"
    cli(serving, "stop", "parrot")
    assert models(serving)["org/echo"]["status"] == "stopped"
    cli(serving, "start", "none", status=1)
    cli(serving, "start", "org/echo", "--no-wait")
    wait_for("it is up", lambda: models(serving)["org/echo"]["status"] == "running", 60)


def test_log_is_followed_until_the_model_stops(serving: Serving) -> None:
    cli(serving, "start", "org/echo")
    following = begun(serving, "logs", "org/echo", "-f", "--json")
    assert following.stdout is not None
    first = json.loads(following.stdout.readline())
    assert first["log"]["message"]
    cli(serving, "stop", "org/echo")
    out, err = following.communicate(timeout=60)
    assert following.returncode == 0, err
    assert all(json.loads(line)["log"] for line in out.splitlines())
    assert len(cli(serving, "logs", "org/echo", "-n", "1").splitlines()) == 1


def test_usage_and_devices_are_shown(serving: Serving) -> None:
    cli(serving, "run", MODEL, QUESTION, "--max-tokens", "2")
    wait_for(
        "the request is recorded",
        lambda: json.loads(cli(serving, "usage", "--range", "1h", "--json"))["totals"]["completion_tokens"] >= 2,
        30,
    )
    assert MODEL in cli(serving, "usage", "--by", "model")
    titles, *nodes = cli(serving, "devices").splitlines()
    assert titles.startswith("NODE")
    assert " processors " in nodes[0]


def test_ps_is_there_at_once(serving: Serving) -> None:
    def seconds() -> float:
        began = time.perf_counter()
        cli(serving, "ps")
        return time.perf_counter() - began

    taken = [seconds() for _ in range(10)]
    print(f"\nps: median {statistics.median(taken):.3f} s, from {min(taken):.3f} to {max(taken):.3f}")
    assert min(taken) < 1.0  # what it takes on a busy machine; 0.2 s on a quiet one
