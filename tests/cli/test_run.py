from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingress.cli.answer import Answer
from tests.cli.conftest import Run
from tests.cli.server import Asked, Events, Said, Server
from tests.e2e.serving import wait_for

ROOT = Path(__file__).parents[2]
ROUTE = "POST /v1/chat/completions"
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
DONE = "[DONE]"


def chunk(content: str | None = None, reasoning: str | None = None, finish: str | None = None) -> dict[str, Any]:
    delta = {"content": content, "reasoning_content": reasoning}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


ANSWER = (chunk(""), chunk(reasoning="Hm."), chunk("Good"), chunk(" day."), chunk(finish="stop"), USAGE, DONE)


@pytest.fixture(autouse=True)
def model(server: Server) -> None:
    server.streams(ROUTE, *ANSWER)


def started(server: Server, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ingress.cli", "run", *arguments],
        cwd=ROOT,
        env={**os.environ, "LLM_MANAGER_URL": server.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )


def test_answer_alone_goes_to_a_pipe(cli: Run, server: Server) -> None:
    ended = cli("run", "org/a", "Hello?")
    assert (ended.status, ended.out, ended.err) == (0, "Good day.\n", "")
    assert server.asked[0].data == {
        "model": "org/a",
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_options_are_in_the_request(cli: Run, server: Server) -> None:
    cli("run", "org/a", "Hello?", "--system", "Be short.", "--temperature", "0", "--max-tokens", "5")
    data = server.asked[0].data
    assert data["messages"][0] == {"role": "system", "content": "Be short."}
    assert (data["temperature"], data["max_tokens"]) == (0, 5)


@pytest.mark.parametrize("arguments", [("org/a",), ("org/a", "-")])
def test_prompt_is_read_from_a_pipe(server: Server, arguments: tuple[str, ...]) -> None:
    out, _ = started(server, *arguments).communicate("Two\nlines\n", timeout=60)
    assert out == "Good day.\n"
    assert server.asked[0].data["messages"] == [{"role": "user", "content": "Two\nlines"}]


def test_pipe_without_a_prompt_is_wrong_usage(server: Server) -> None:
    process = started(server, "org/a")
    process.communicate(" \n", timeout=60)
    assert process.returncode == 2
    assert server.asked == []


def test_json_is_a_chunk_a_line(cli: Run) -> None:
    assert [json.loads(line) for line in cli("run", "org/a", "Hello?", "--json").lines] == list(ANSWER[:-1])


def test_verbose_tells_times_and_tokens_on_stderr(cli: Run) -> None:
    ended = cli("run", "org/a", "Hello?", "--verbose")
    assert ended.out == "Good day.\n"
    assert re.fullmatch(
        r"first token after \d+\.\d\d s; 3 tokens in \d+\.\d\d s, [\d.]+ tokens/s; prompt: 7 tokens; end: stop\n",
        ended.err,
    )


def test_pace_is_that_after_the_first_token() -> None:
    answer = Answer(1.0, 1.5, 3.5, usage={"prompt_tokens": 1, "completion_tokens": 5}, finish_reason="length")
    assert answer.figures() == (
        "first token after 0.50 s; 5 tokens in 2.00 s, 2.0 tokens/s; prompt: 1 tokens; end: length"
    )


def test_error_in_the_middle_follows_what_came(cli: Run, server: Server) -> None:
    server.streams(ROUTE, chunk("Good"), {"error": {"message": "Cancelled.", "code": "request_cancelled"}})
    ended = cli("run", "org/a", "Hello?")
    assert (ended.status, ended.out) == (1, "Good\n")
    assert ended.err == "Error: Cancelled. [request_cancelled]\n"


@pytest.mark.parametrize(("whole", "status"), [(True, 1), (False, 3)])
def test_answer_that_breaks_off_is_a_failure(cli: Run, server: Server, whole: bool, status: int) -> None:
    server.streams(ROUTE, chunk("Good"), whole=whole)
    ended = cli("run", "org/a", "Hello?")
    assert (ended.status, ended.out) == (status, "Good\n")


def test_interrupt_stops_the_answer_and_is_status_130(server: Server) -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield chunk("more ")
            server.hung_up.wait(0.01)

    server.answers[ROUTE] = Events(endless())
    process = started(server, "org/a", "Hello?")
    assert process.stdout is not None
    assert process.stdout.read(4) == "more"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert server.hung_up.wait(30)


def test_load_that_takes_a_while_is_told_with_its_phase(cli: Run, server: Server) -> None:
    looked = threading.Event()
    phases = iter(["preparing the weights", "preparing the weights", "loading"])

    def look(asked: Asked) -> Said:
        phase = next(phases, None)
        if phase is None:
            looked.set()
        loading = {"phase": phase or "loading", "seconds": 3.2, "last_seconds": 2.0}
        return Said(data={"model": {"name": "org/a", "status": "starting", "loading": loading}})

    def slow() -> Iterator[Any]:
        assert looked.wait(30)
        yield from ANSWER

    server.answers["GET /api/models/org/a"] = look
    server.answers[ROUTE] = Events(slow())
    ended = cli("run", "org/a", "Hello?")
    assert ended.out == "Good day.\n"
    assert ended.err.splitlines() == [
        "org/a loads: preparing the weights, 3s so far (the last start took 2s)",
        "org/a loads: loading, 3s so far (the last start took 2s)",
    ]


def test_server_that_tells_nothing_of_the_load_is_no_failure(cli: Run, server: Server) -> None:
    def slow() -> Iterator[Any]:
        wait_for("a look at the model", lambda: "GET /api/models/org/a" in server.routes, 30)
        yield from ANSWER

    server.refuses("GET /api/models/org/a", 403, "No.", "permission_denied")
    server.answers[ROUTE] = Events(slow())
    ended = cli("run", "org/a", "Hello?")
    assert (ended.status, ended.out, ended.err) == (0, "Good day.\n", "")
